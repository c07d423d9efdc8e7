// Analogues: the states most like this one in frozen features, in components of the fields and in the fields, side by
// side; what came after them, and how good their mean is as a forecast.

import { FieldView } from "./fieldview.js";
import { rangeOf, tables } from "./fieldpanel.js";
import { number, written } from "./numbers.js";
import { byId, dateOf, element, on, state, stepCount, tried } from "./state.js";

const TITLES = { features: "Frozen features", components: "PCs of the fields", fields: "Fields" };

export function analoguePanel(data, meta, fields) {
  let columns = [], asked = 0, drawing = 0;

  // Share of the sphere of each row: the same for all of its cells.
  const area = Array.from({ length: meta.rows }, (_, k) => Math.sin((meta.lat_bounds[k] * Math.PI) / 180) - Math.sin((meta.lat_bounds[k + 1] * Math.PI) / 180));

  // Root mean square over the sphere of what `gap` gives for each cell; NaN is left out.
  function rms(gap) {
    let sum = 0, weight = 0;
    for (let k = 0; k < meta.rows * meta.columns; k++) {
      const x = gap(k), own = area[Math.floor(k / meta.columns)];
      if (x === x) { sum += own * x * x; weight += own; }
    }
    return Math.sqrt(sum / weight);
  }

  const visible = () => !byId("panel-analogues").hidden;

  function picture(parent, text) {
    const canvas = element("canvas", { className: "small" }), strong = element("strong"), caption = element("span", { textContent: text });
    parent.append(canvas, strong, caption);
    return { view: new FieldView(canvas, meta, fields.lines), strong, caption };
  }

  function column(space, found) {
    const box = element("section", {}, element("h3", { textContent: TITLES[space] }));
    const cards = found.map(({ step, distance }) => {
      const button = element("button", { type: "button", className: "card" });
      button.addEventListener("click", () => fields.go(step));
      box.append(button);
      return { step, ...picture(button, `distance ${distance.toFixed(2)}`) };
    });
    const mean = element("div", { className: "card" });
    box.append(mean);
    return { space, box, cards, mean: picture(mean, "") };
  }

  async function drawColumn({ cards, mean }, later, truth, now) {
    const units = written(meta.variables.find(({ name }) => name === state.variable).units);
    const found = await Promise.all(cards.map(async ({ step, view, strong }) => {
      const when = step + later, there = when < stepCount();
      strong.textContent = there ? dateOf(when) : "after the end";
      const field = there && (await tried(() => data.field(state.variable, state.kind, when)));
      if (field) view.draw(field, rangeOf(meta), tables[state.kind]);
      return field;
    }));
    const members = found.filter(Boolean), average = new Float32Array(meta.rows * meta.columns);
    if (!members.length) return;
    for (const field of members) for (let k = 0; k < average.length; k++) average[k] += field[k] / members.length;
    mean.view.draw(average, rangeOf(meta), tables[state.kind]);
    mean.strong.textContent = `Mean of ${members.length}`;
    const spread = Math.sqrt(members.reduce((sum, field) => sum + rms((k) => field[k] - average[k]) ** 2, 0) / Math.max(1, members.length - 1));
    const error = truth && rms((k) => average[k] - truth[k]), persistence = truth && rms((k) => now[k] - truth[k]);
    mean.caption.textContent = `spread ${number(spread)}${truth ? `, error ${number(error)}` : ""} ${units}${later && truth ? `; of no change ${number(persistence)}` : ""}`;
  }

  async function draw() {
    const later = Number(byId("later").value), { variable, kind, step } = state, mine = ++drawing;
    byId("later-said").textContent = later ? `${later} step${later > 1 ? "s" : ""} later` : "the same moment";
    const now = await tried(() => data.field(variable, kind, step));
    const truth = step + later < stepCount() ? await tried(() => data.field(variable, kind, step + later)) : null;
    if (mine !== drawing || !now) return;
    await Promise.all(columns.map((one) => drawColumn(one, later, truth, now)));
    if (mine === drawing) byId("analogues").dataset.drawn = `${step}/${later}/${variable}/${kind}`;
  }

  async function find() {
    if (!visible() || state.mean) return;
    const box = byId("analogues"), said = byId("analogues-said");
    if (!state.ready) { said.textContent = "The features are being computed; analogues come when they are ready."; return; }
    if (!state.ends(state.step)) {
      said.textContent = `The encoder's window of ${meta.window} steps does not fit before ${dateOf(state.step)}; choose a later date.`;
      box.replaceChildren();
      return;
    }
    const mine = ++asked, exclude = Math.max(0, Number(byId("exclude").value) || 0);
    said.textContent = "Looking …";
    const found = await tried(async () => Object.assign({}, ...(await Promise.all(meta.spaces.map((space) => data.analogues(state.step, space, exclude))))));
    if (mine !== asked) return;
    if (!found) { said.textContent = ""; box.replaceChildren(); return; }
    columns = meta.spaces.map((space) => column(space, found[space]));
    box.replaceChildren(...columns.map((one) => one.box));
    said.textContent = `Most like ${dateOf(state.step)}, at least ${exclude} days from it and from each other. Distance 1 is the usual one. Features see ${meta.window} steps, the others the last one.`;
    await draw();
  }

  byId("exclude").addEventListener("change", find);
  byId("later").addEventListener("input", draw);
  for (const what of ["step", "tab", "ready"]) on(what, find);
  on("shown", () => { if (visible()) draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (visible()) draw(); });
}
