// What is looked at, shared by all parts of the page; who changes it tells the others.

export const state = { variable: "", kind: "anomaly", step: 0, mean: null, labels: { marks: [] }, activeClass: "" };

const listeners = {};

export function on(what, listener) {
  (listeners[what] ||= []).push(listener);
}

export function tell(what) {
  for (const listener of listeners[what] || []) listener();
}

export const byId = (id) => document.getElementById(id);

export function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

export function alarm(error) {
  const box = byId("alert");
  box.textContent = error ? String(error.message || error) : "";
  box.hidden = !error;
}

// Run what may fail; what it says stands above the page.
export async function tried(work) {
  try {
    const done = await work();
    return done;
  } catch (error) {
    alarm(error);
    return undefined;
  }
}

let stamps = null, daily = true;

export function setTimes(seconds) {
  stamps = seconds;
  daily = seconds.every((second) => second % 86400 === 0);
}

export const secondsOf = (step) => stamps[step];
export const stepCount = () => stamps.length;

export function dateOf(step) {
  const iso = new Date(stamps[step] * 1000).toISOString();
  return daily ? iso.slice(0, 10) : `${iso.slice(0, 10)} ${iso.slice(11, 16)}`;
}

// The step whose time is nearest; times ascend.
export function stepAt(second) {
  let low = 0, high = stamps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (stamps[middle] < second) low = middle + 1;
    else high = middle;
  }
  return low > 0 && second - stamps[low - 1] < stamps[low] - second ? low - 1 : low;
}
