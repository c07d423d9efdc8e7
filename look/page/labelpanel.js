// Labelling: a class for a date, or for a place or a region at it, saved by the server before it is shown; undo; what to label next.

import { classColour, classNames } from "./featurepanel.js";
import { degrees } from "./projection.js";
import { regionPanel } from "./regionpanel.js";
import { byId, dateOf, element, on, secondsOf, state, stepAt, tell, tried } from "./state.js";

export function labelPanel(data, fields) {
  let queue = [];
  state.classes = [];
  const regions = regionPanel(data, fields, take);
  const chooses = () => byId("mark-place").checked || regions.active(); // then a class is chosen, not given to the date

  function take(found) {
    state.labels = { ...found, marks: found.marks.map((mark) => ({ ...mark, step: stepAt(Date.parse(`${mark.time}Z`) / 1000) })) };
    state.classes = classNames();
    for (const mark of state.labels.marks) mark.colour = classColour(mark.label);
    regions.took(found.draft);
    show();
    tell("labels");
  }

  async function mark(name, place = null) {
    state.activeClass = name || state.activeClass;
    if (state.mean) return;
    const found = await tried(() => data.mark(state.step, name, place));
    if (!found) return;
    take(found);
    if (!place && name) onwards();
  }

  function onwards() { // to the next one that was proposed
    const at = queue.indexOf(state.step);
    if (at < 0) return;
    queue.splice(at, 1);
    showQueue();
    if (queue.length) fields.go(queue[0]);
    else propose();
  }

  function choose(name) {
    state.activeClass = name;
    show();
    tell("class");
  }

  async function undo() {
    const found = await tried(() => data.undo());
    if (!found) return;
    take(found);
    if (found.undone) fields.go(stepAt(Date.parse(`${found.undone}Z`) / 1000));
  }

  async function propose() {
    byId("proposals-said").textContent = "Looking for what to label next …";
    const found = await tried(() => data.propose(byId("how").value));
    byId("proposals-said").textContent = "";
    if (!found) return;
    queue = found.steps;
    showQueue();
    showScore(found);
    if (queue.length) fields.go(queue[0]);
  }

  function show() {
    const counts = {};
    for (const one of state.labels.marks) counts[one.label] = (counts[one.label] || 0) + 1;
    byId("classes").replaceChildren(...classNames().map((name, k) => {
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = classColour(name);
      const key = k < 9 ? element("kbd", { textContent: k + 1 }) : "";
      const button = element("button", { type: "button" }, swatch, `${name} (${counts[name] || 0}) `, key);
      button.setAttribute("aria-pressed", String(state.activeClass === name));
      button.addEventListener("click", () => (chooses() ? choose(name) : mark(name)));
      return button;
    }));
    const last = state.labels.marks.slice(-8).reverse();
    byId("marks").replaceChildren(...last.map((one) => {
      const to = element("button", { type: "button", className: "link", textContent: dateOf(one.step) });
      to.addEventListener("click", () => fields.go(one.step));
      const place = one.kind === "place" ? ` at ${degrees(one.lon, one.lat)}` : one.kind === "region" ? ` round ${degrees(one.at[1], one.at[0])}` : "";
      const away = element("button", { type: "button", className: "link", textContent: "remove" });
      away.setAttribute("aria-label", `remove ${one.label} of ${dateOf(one.step)}`);
      away.addEventListener("click", async () => {
        const found = await tried(() => (one.outline ? data.region(one.step, "", one.outline) : data.mark(one.step, "", one.kind === "place" ? [one.lat, one.lon] : null)));
        if (found) take(found);
      });
      return element("li", {}, to, ` ${one.label}${place} `, away);
    }));
    byId("saved").textContent = `${state.labels.marks.length} labels, all saved`;
    byId("undo").disabled = !state.labels.given;
  }

  function showQueue() {
    byId("proposals").replaceChildren(...queue.map((step) => {
      const button = element("button", { type: "button", textContent: dateOf(step) });
      button.setAttribute("aria-current", String(step === state.step));
      button.addEventListener("click", () => fields.go(step));
      return button;
    }));
  }

  function showScore({ score, scores }) {
    byId("score").textContent = score
      ? `Held-out balanced accuracy with ${score.labels} labels: ${score.score.toFixed(2)} (90 %: ${score.low.toFixed(2)} to ${score.high.toFixed(2)}; guessing: ${score.chance.toFixed(2)})`
      : "The head is scored once two classes are labelled in five years.";
    const svg = byId("score-curve");
    svg.replaceChildren();
    svg.toggleAttribute("hidden", scores.length < 2);
    if (scores.length < 2) return;
    const most = scores.at(-1).labels, x = (n) => 30 + (260 * n) / most, y = (s) => 92 - 84 * s, draw = (kind, values, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
      for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
      if (text) made.textContent = text;
      svg.append(made);
    };
    for (const level of [0, 0.5, 1]) {
      draw("line", { x1: 30, x2: 290, y1: y(level), y2: y(level), class: "grid" });
      draw("text", { x: 25, y: y(level) + 3, class: "tick" }, String(level));
    }
    for (const one of scores) draw("line", { x1: x(one.labels), x2: x(one.labels), y1: y(one.low), y2: y(one.high), class: "interval" });
    draw("polyline", { points: scores.map((one) => `${x(one.labels)},${y(one.score)}`).join(" "), class: "curve" });
    draw("text", { x: 290, y: 106, class: "tick" }, `${most} labels`);
  }

  byId("add-class").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("new-class").value.trim().normalize("NFC"); // as the server keeps it
    if (!name) return;
    state.classes = [...new Set([...state.classes, name])];
    byId("new-class").value = "";
    choose(name);
  });
  byId("undo").addEventListener("click", undo);
  byId("propose").addEventListener("click", propose);
  on("step", showQueue);
  on("place", () => {
    if (regions.active()) regions.corner(state.place);
    else if (byId("mark-place").checked && state.activeClass && state.onGrid) mark(state.activeClass, state.place);
  });
  on("ready", () => { byId("propose").disabled = false; });
  const reread = () => tried(async () => take(await data.labels()));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) reread(); }); // another tab may have labelled
  window.addEventListener("focus", reread);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const name = classNames()[Number(event.key) - 1];
    if (/^[1-9]$/.test(event.key) && name) chooses() ? choose(name) : mark(name);
    else if (regions.key(event.key)) event.preventDefault();
    else if (event.key === "u") undo();
    else if (event.key === "n" && queue.length) fields.go(queue[(queue.indexOf(state.step) + 1) % queue.length]);
    else return;
    event.preventDefault();
  });
  return reread();
}
