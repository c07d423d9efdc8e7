// Regions: corners by clicks, taps or Enter on the map or the globe, kept by the server one by one; closed, undone, none here.

import { CATEGORIES } from "./colours.js";
import { classColour, classNames } from "./featurepanel.js";
import { degrees } from "./projection.js";
import { alarm, byId, dateOf, on, secondsOf, state, stepAt, tell, tried } from "./state.js";

const NEAR = 12; // pixels from the first corner that close the outline

export function regionPanel(data, fields, take) {
  let sent = Promise.resolve(), onDisk = true, closing = false; // one draft after the other, so that the last one stays

  const corners = () => state.draft?.corners || [];
  const active = () => byId("mark-region").checked;

  function show() {
    const count = corners().length, here = count && state.draft.step === state.step;
    byId("region-bar").hidden = !active();
    byId("close-region").disabled = count < 3 || !here;
    byId("drop-corner").disabled = byId("drop-region").disabled = !count;
    byId("no-region").disabled = count > 0 || state.labels.marks.some((mark) => mark.step === state.step && mark.outline);
    if (!active()) return;
    byId("region-said").textContent = !state.activeClass ? "Add or choose a class first."
      : !count ? `Class ${state.activeClass}: click or tap corner after corner, or move the cursor by arrow keys and press Enter.`
        : !here ? `An unfinished region of ${dateOf(state.draft.step)} (${count} corners) is kept; go there to close it, or discard it.`
          : `${count} corner${count > 1 ? "s" : ""} of ${state.draft.label || state.activeClass}, the last at ${degrees(corners().at(-1)[1], corners().at(-1)[0])}${onDisk ? ", saved" : ""}. ${count < 3 ? "Three are needed." : "Click the first one, or press c, to close it."}`;
  }

  function changed(draft) {
    if (closing) return; // what is sent as a region is no draft any more
    state.draft = draft;
    const { step, label, corners: places } = draft || { step: state.step, label: "", corners: [] };
    onDisk = false;
    const mine = (sent = sent.then(() => tried(() => data.draft(step, label, places))).then((found) => {
      if (mine !== sent) return;
      onDisk = found !== undefined;
      show();
    }));
    show();
    tell("draft");
  }

  function corner(place) {
    if (!state.activeClass || state.mean) { show(); return; }
    const before = state.draft;
    if (before && before.step !== state.step) {
      alarm(`An unfinished region of ${dateOf(before.step)} is kept: close or discard it first.`);
      return;
    }
    if (corners().length > 2) {
      const [first, now] = [corners()[0], place].map(([lat, lon]) => fields.pixel(lon, lat));
      if (first && now && Math.hypot(first[0] - now[0], first[1] - now[1]) < NEAR) { close(); return; }
    }
    changed({ step: state.step, label: state.activeClass, corners: [...corners(), place] });
  }

  async function close() {
    const draft = state.draft;
    if (closing || !draft || draft.corners.length < 3 || draft.step !== state.step) return;
    closing = true;
    await sent;
    const found = await tried(() => data.region(draft.step, draft.label || state.activeClass, draft.corners));
    closing = false;
    if (!found) return; // it stays as it is: corners may be taken back
    alarm(null);
    state.draft = null;
    onDisk = true;
    take(found);
    byId("field").focus({ preventScroll: true });
  }

  function dropCorner() {
    if (!corners().length) return;
    const rest = corners().slice(0, -1);
    alarm(null);
    changed(rest.length ? { ...state.draft, corners: rest } : null);
  }

  function discard() {
    if (!corners().length) return;
    alarm(null);
    changed(null);
  }

  async function nothing() {
    if (byId("no-region").disabled || state.mean) return;
    const found = await tried(() => data.region(state.step, state.labels.nothing, []));
    if (found) take(found);
  }

  // What the server keeps; another tab, or this page before it was closed, may have begun it.
  function took(draft) {
    if (!onDisk) return; // corners on the way there are newer
    const kept = draft && { step: stepAt(Date.parse(`${draft.time}Z`) / 1000), label: draft.label, corners: draft.corners };
    if (kept && !state.draft) {
      byId("mark-region").checked = true;
      byId("mark-place").checked = false;
      if (kept.label && !classNames().includes(kept.label)) state.classes.push(kept.label);
      state.activeClass = state.activeClass || kept.label;
    }
    state.draft = kept;
    show();
  }

  for (const [id, other] of [["mark-region", "mark-place"], ["mark-place", "mark-region"]]) {
    byId(id).addEventListener("change", () => {
      if (byId(id).checked) byId(other).checked = false;
      show();
      tell("draft");
    });
  }
  for (const [id, what] of [["close-region", close], ["drop-corner", dropCorner], ["drop-region", discard], ["no-region", nothing]]) {
    byId(id).addEventListener("click", what);
  }
  on("step", show);
  on("labels", show);
  on("class", () => {
    const draft = state.draft;
    if (active() && draft?.step === state.step && draft.label !== state.activeClass) changed({ ...draft, label: state.activeClass });
    show();
  });
  return {
    active, corner, took,
    key(key) {
      const what = active() && { c: close, Backspace: dropCorner, Escape: discard, 0: nothing }[key];
      if (what) what();
      return !!what;
    },
  };
}

// What the picture shows of regions: those that stand at the date, and the one that is being drawn.
export function outlinesAt(step) {
  const found = state.labels.marks.filter((mark) => mark.kind === "region" && mark.step === step)
    .map(({ outline, colour, label, at }) => ({ corners: outline, colour, label, at, closed: true }));
  if (state.draft?.step === step) {
    const label = state.draft.label || state.activeClass;
    found.push({ corners: state.draft.corners, colour: label ? classColour(label) : CATEGORIES[0], closed: false });
  }
  return found;
}
