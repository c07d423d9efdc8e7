// Analogues: the states most like this one in frozen features, in components of the fields and in the fields, side by side.

import { FieldView } from "./fieldview.js";
import { rangeOf, tables } from "./fieldpanel.js";
import { byId, dateOf, element, on, state, stepCount, tried } from "./state.js";

const TITLES = { features: "Frozen features", components: "PCs of the fields", fields: "Fields" };

export function analoguePanel(data, meta, fields) {
  const cards = [];
  let asked = 0;

  const visible = () => !byId("panel-analogues").hidden;

  function card(step, said) {
    const canvas = element("canvas", { className: "small" }), caption = element("span", { textContent: said });
    const button = element("button", { type: "button", className: "card" }, canvas, element("strong", { textContent: dateOf(step) }), caption);
    button.addEventListener("click", () => fields.go(step));
    cards.push({ step, view: new FieldView(canvas, meta, fields.lines), button });
    return button;
  }

  async function draw() {
    const later = Number(byId("later").value), { variable, kind } = state;
    byId("later-said").textContent = later ? `${later} step${later > 1 ? "s" : ""} later` : "the same moment";
    await Promise.all(cards.map(async ({ step, view, button }) => {
      const when = step + later;
      button.querySelector("strong").textContent = when < stepCount() ? dateOf(when) : "after the end";
      if (when >= stepCount()) return;
      const field = await tried(() => data.field(variable, kind, when));
      if (field && button.isConnected) view.draw(field, rangeOf(meta), tables[kind]);
    }));
    byId("analogues").dataset.drawn = `${state.step}/${later}/${variable}/${kind}`;
  }

  async function find() {
    if (!visible() || state.mean) return;
    if (!state.ready) { byId("analogues-said").textContent = "The features are being computed; analogues come when they are ready."; return; }
    if (!state.ends(state.step)) {
      byId("analogues-said").textContent = `The encoder's window of ${meta.window} steps does not fit before ${dateOf(state.step)}; choose a later date.`;
      byId("analogues").replaceChildren();
      return;
    }
    const mine = ++asked, exclude = Math.max(0, Number(byId("exclude").value) || 0);
    byId("analogues-said").textContent = "Looking …";
    const columns = byId("analogues");
    const found = await tried(async () => Object.assign({}, ...(await Promise.all(meta.spaces.map((space) => data.analogues(state.step, space, exclude))))));
    if (mine !== asked) return;
    if (!found) { byId("analogues-said").textContent = ""; columns.replaceChildren(); return; }
    cards.length = 0;
    columns.replaceChildren(...meta.spaces.map((space) => {
      const list = found[space].map(({ step, distance }) => card(step, `distance ${distance.toFixed(2)}`));
      return element("section", {}, element("h3", { textContent: TITLES[space] }), ...list);
    }));
    byId("analogues-said").textContent = `Most like ${dateOf(state.step)}, at least ${exclude} days from it and from each other. Distance 1 is the usual one. Features see ${meta.window} steps, the others the last one.`;
    await draw();
  }

  byId("exclude").addEventListener("change", find);
  byId("later").addEventListener("input", draw);
  for (const what of ["step", "tab", "ready"]) on(what, find);
  on("shown", () => { if (visible()) draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (visible()) draw(); });
}
