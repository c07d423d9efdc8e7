// Feature space: all states as points, coloured by season, year, block or label; a brush shows the mean of its states.

import { CATEGORIES, sequential } from "./colours.js";
import { Scatter } from "./scatter.js";
import { byId, dateOf, element, on, secondsOf, state, tell, tried } from "./state.js";

const SEASONS = ["Dec–Feb", "Mar–May", "Jun–Aug", "Sep–Nov"];
const LEVELS = 12; // colours of a number
const hex = (colour) => `#${colour.map((part) => part.toString(16).padStart(2, "0")).join("")}`;

export function featurePanel(data, meta, fields) {
  const scatter = new Scatter(byId("points"), byId("points-over"));
  let points = null, axes = 0, explained = [], umap = null;

  async function wait() {
    const found = await tried(() => data.states());
    if (!found) { setTimeout(wait, 3000); return; }
    if (found.error) { byId("points-said").textContent = found.error; return; }
    if (!found.ready) {
      byId("points-said").textContent = `Computing the features of all states: ${Math.round(100 * found.share)} %. They are kept for the next time.`;
      setTimeout(wait, 500);
      return;
    }
    points = await tried(() => data.points());
    if (!points) return;
    explained = found.explained;
    axes = points.values.length / points.rows.length;
    for (const id of ["x-axis", "y-axis"]) {
      byId(id).replaceChildren(...Array.from({ length: axes }, (_, k) =>
        element("option", { value: k, textContent: `PC ${k + 1} · ${(100 * explained[k]).toFixed(0)} %` })));
      byId(id).value = id === "x-axis" ? 0 : Math.min(1, axes - 1);
    }
    hint();
    byId("points-box").hidden = byId("axes").hidden = false;
    byId("layout-box").hidden = !data.umap;
    state.ready = true;
    state.ends = (step) => index(step) >= 0; // whether a window of the encoder ends there
    place();
    tell("ready");
  }

  function hint() {
    byId("points-said").textContent = `${points.rows.length} states. Click: its date. ${data.readOnly ? "" : "Drag: the mean of those inside. "}Keys: arrows, Enter${data.readOnly ? "" : "; Shift and arrows to brush"}.`;
  }

  function place() {
    const column = (axis) => Float32Array.from(points.rows, (_, k) => points.values[k * axes + axis]);
    if (umap) scatter.set(...[0, 1].map((axis) => Float32Array.from(points.rows, (_, k) => umap[2 * k + axis])));
    else scatter.set(column(Number(byId("x-axis").value)), column(Number(byId("y-axis").value)));
    clear();
    colour();
  }

  async function arrange() {
    let found = null;
    if (byId("layout").value === "umap") {
      if (!data.readOnly) byId("points-said").textContent = "Computing UMAP: a minute for some thousand states, once; it is kept for the next time.";
      found = await tried(() => data.umap());
      if (!found) byId("layout").value = "components"; // what is missing stands above the page
      else if (byId("layout").value !== "umap") return;
    }
    umap = found;
    byId("axes").hidden = !!umap;
    place();
    byId("points").dataset.layout = umap ? "umap" : "components";
  }

  function index(step) {
    let low = 0, high = points.rows.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points.rows[middle] < step) low = middle + 1;
      else high = middle;
    }
    return points.rows[low] === step ? low : -1;
  }

  function byCategory(names, numberOf) {
    return { colours: Int16Array.from(points.rows, numberOf), palette: names.map((_, k) => CATEGORIES[k % CATEGORIES.length]), legend: names };
  }

  function byNumber(values) { // values: Float64Array (state,), NaN where there is none
    const sorted = values.filter((value) => value === value).sort();
    if (!sorted.length) return byCategory(["no value"], () => -1);
    const low = sorted[Math.floor(0.01 * (sorted.length - 1))], high = sorted[Math.ceil(0.99 * (sorted.length - 1))];
    const levels = Array.from({ length: LEVELS }, (_, k) => low + ((high - low) * (k + 0.5)) / LEVELS);
    const colours = Int16Array.from(values, (value) => (value === value ? Math.max(0, Math.min(LEVELS - 1, Math.floor(((value - low) / (high - low || 1)) * LEVELS))) : -1));
    const legend = levels.map((value, k) => (k === 0 || k === LEVELS - 1 ? String(+value.toPrecision(4)) : ""));
    return { colours, palette: levels.map((_, k) => hex(sequential(k / (LEVELS - 1)))), legend };
  }

  async function scheme() {
    const by = byId("colour-by").value, date = (k) => new Date(secondsOf(points.rows[k]) * 1000);
    if (by === "season") return byCategory(SEASONS, (_, k) => Math.floor(((date(k).getUTCMonth() + 1) % 12) / 3));
    if (by === "year") return byNumber(Float64Array.from(points.rows, (_, k) => date(k).getUTCFullYear()));
    if (by === "block") {
      const names = Object.keys(meta.splits), inside = (k, name) => {
        const second = secondsOf(points.rows[k]), [first, last] = meta.splits[name];
        return second >= first && second <= last;
      };
      return byCategory(names, (_, k) => names.findIndex((name) => inside(k, name)));
    }
    if (by === "own") {
      const marks = new Map(state.labels.marks.filter((mark) => mark.kind === "date").map((mark) => [mark.step, mark.label]));
      return byCategory(classNames(), (row) => (marks.has(row) ? classNames().indexOf(marks.get(row)) : -1));
    }
    const known = await data.known(by.slice(6)), values = new Map(known.steps.map((step, k) => [step, known.values[k]]));
    const kinds = [...new Set(known.values)].sort((a, b) => (a > b ? 1 : -1));
    if (known.classes || kinds.length <= 6) return byCategory(kinds.map(String), (row) => (values.has(row) ? kinds.indexOf(values.get(row)) : -1));
    return byNumber(Float64Array.from(points.rows, (row) => values.get(row) ?? NaN));
  }

  async function colour() {
    if (!points) return;
    const found = await tried(scheme);
    if (!found) return;
    byId("points-legend").replaceChildren(...found.legend.map((name, k) => {
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = found.palette[k];
      return element("li", {}, swatch, name);
    }));
    mark();
    scatter.draw(found.colours, found.palette);
    byId("points").dataset.drawn = `${byId("colour-by").value}/${points.rows.length}`;
  }

  function mark() {
    if (!points) return;
    scatter.current = state.mean ? -1 : index(state.step);
    scatter.marked = state.labels.marks.filter((one) => one.kind === "date").map((one) => ({ index: index(one.step), colour: one.colour })).filter((one) => one.index >= 0);
  }

  function clear() {
    const shown = state.mean;
    scatter.brush = state.mean = null;
    mark();
    hint();
    scatter.drawOver();
    if (shown) tell("shown");
  }

  function pick(k) {
    scatter.brush = null;
    fields.go(points.rows[k]);
    const away = points.rows[k] === state.step ? "" : `: not in this file; the nearest date that is, ${dateOf(state.step)}, is shown`;
    byId("points-said").textContent = dateOf(points.rows[k]) + away;
  }

  async function brushed(box) {
    if (!scatter.x.some((x, k) => x >= box.x0 && x <= box.x1 && scatter.y[k] >= box.y0 && scatter.y[k] <= box.y1)) {
      clear();
      byId("points-said").textContent = "No states inside.";
      return;
    }
    const brush = { ...box, layout: umap ? "umap" : "components", x: byId("x-axis").value, y: byId("y-axis").value };
    const first = await tried(() => data.mean(brush, state.variable, state.kind));
    if (!first) { clear(); return; }
    const known = new Map([[`${state.variable}/${state.kind}`, first.field]]);
    state.mean = {
      count: first.count,
      async fieldOf(variable, kind) {
        const key = `${variable}/${kind}`;
        if (!known.has(key)) known.set(key, (await data.mean(brush, variable, kind)).field);
        return known.get(key);
      },
    };
    byId("points-said").textContent = `Mean of ${first.count} states${first.used < first.count ? ` (${first.used} of them read)` : ""}. Escape: back.`;
    mark();
    scatter.drawOver();
    tell("shown");
  }

  scatter.listen({ brushes: !data.readOnly, pick, brushed, cleared: clear });
  for (const id of ["x-axis", "y-axis"]) byId(id).addEventListener("change", place);
  for (const name of meta.known) byId("colour-by").append(element("option", { value: `known:${name}`, textContent: name }));
  byId("colour-by").addEventListener("change", colour);
  byId("layout").addEventListener("change", arrange);
  const follow = () => { if (points) { mark(); scatter.drawOver(); } };
  on("step", follow);
  on("played", follow);
  on("mean-ended", () => { if (points) clear(); });
  on("labels", () => (byId("colour-by").value === "own" ? colour() : follow()));
  on("tab", () => { if (points && byId("panel-space").offsetParent) colour(); });
  new ResizeObserver(() => { if (points && scatter.colour) { scatter.scale(); scatter.draw(); } }).observe(byId("points"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (points) scatter.draw(); });
  if (meta.encoder) wait();
  else byId("points-said").textContent = "No encoder: start with --checkpoint to see its feature space.";
}

// The classes in the order in which they came to this page: it never changes, since keys and colours follow it.
export function classNames() {
  return [...new Set([...(state.classes || []), ...(state.labels.classes || [])])];
}

export const classColour = (name) => CATEGORIES[Math.max(0, classNames().indexOf(name)) % CATEGORIES.length];
