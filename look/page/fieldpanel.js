// The large picture: variable, kind, map or globe, time and playback, the value under the cursor.

import { lookupTable } from "./colours.js";
import { FieldView, unpackCoastlines } from "./fieldview.js";
import { degrees, extent, wrapped } from "./projection.js";
import { number, written } from "./numbers.js";
import { outlinesAt } from "./regionpanel.js";
import { alarm, byId, dateOf, element, on, secondsOf, state, stepAt, stepCount, tell, tried } from "./state.js";

export const tables = { anomaly: lookupTable("anomaly"), value: lookupTable("value") };
export const rangeOf = (meta) => meta.variables.find((one) => one.name === state.variable).ranges[state.kind];

export function fieldPanel(data, meta, coastlines, shown) {
  const canvas = byId("field"), lines = unpackCoastlines(coastlines), view = new FieldView(canvas, meta, lines);
  const units = () => written(meta.variables.find((one) => one.name === state.variable).units);
  const steps = shown || null; // the only steps there are, in an exported page
  const box = extent(meta), shape = (box.east - box.west) / (box.north - box.south);
  canvas.style.aspectRatio = String(shape);
  canvas.style.maxWidth = `calc((100vh - 15rem) * ${shape})`;
  let wanted = 0, playing = 0, turning = 0, pointer = null;

  const near = (step) => (steps ? steps.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best)) : step);
  const next = (step, by) => {
    if (!steps) return (step + by + stepCount()) % stepCount();
    return steps[(steps.indexOf(near(step)) + by + steps.length) % steps.length];
  };

  async function refresh() {
    const mine = ++wanted, { variable, kind, mean } = state;
    const field = await tried(() => (mean ? mean.fieldOf(variable, kind) : data.field(variable, kind, state.step)));
    if (mine !== wanted || !field) return false;
    view.marks = mean ? [] : state.labels.marks.filter((mark) => mark.kind === "place" && mark.step === state.step).map((mark) => ({ ...mark }));
    view.outlines = mean ? [] : outlinesAt(state.step);
    view.draw(field, rangeOf(meta), tables[kind]);
    byId("missing").hidden = !field.some(Number.isNaN);
    describe();
    drawLegend();
    canvas.dataset.drawn = `${variable}/${kind}/${mean ? "mean" : state.step}`;
    performance.mark("drawn");
    if (!mean) data.ahead(variable, kind, state.step + meta.block);
    return true;
  }

  function describe() {
    const when = state.mean ? `mean of ${state.mean.count} states` : dateOf(state.step);
    byId("when").textContent = when;
    byId("slider").value = steps ? steps.indexOf(near(state.step)) : state.step;
    byId("slider").setAttribute("aria-valuetext", dateOf(state.step));
    byId("date").value = new Date(secondsOf(state.step) * 1000).toISOString().slice(0, 10);
    byId("end-mean").hidden = !state.mean;
    const label = state.labels.marks.find((mark) => mark.step === state.step && mark.kind === "date");
    byId("own-label").textContent = !state.mean && label ? label.label : "";
    canvas.setAttribute("aria-label", `${view.view === "globe" ? "Globe" : "Map"} of ${state.variable} (${state.kind}), ${when}`);
    readout();
  }

  function readout() {
    const found = view.cursor && view.field && (() => {
      const at = view.projection.forward(...view.cursor);
      return at && view.at(...at);
    })();
    byId("readout").textContent = !found ? "" : found.cell < 0 ? `${degrees(found.lon, found.lat)} — outside the grid`
      : Number.isNaN(found.value) ? `${degrees(found.lon, found.lat)} — missing`
        : `${degrees(found.lon, found.lat)}  ${number(found.value)} ${units()}`;
  }

  function drawLegend() {
    const bar = byId("legend-bar"), table = tables[state.kind], image = new ImageData(256, 1), [low, high] = rangeOf(meta);
    new Uint32Array(image.data.buffer).set(table);
    bar.width = 256;
    bar.height = 1;
    bar.getContext("2d").putImageData(image, 0, 0);
    byId("legend-low").textContent = number(low);
    byId("legend-middle").textContent = state.kind === "anomaly" ? "0" : number((low + high) / 2);
    byId("legend-high").textContent = `${number(high)} ${units()}`;
  }

  function go(step) {
    state.mean = null;
    state.step = Math.max(0, Math.min(stepCount() - 1, near(step)));
    tell("step");
  }

  function turn(dLon, dLat, zoom, follow = false) {
    view.turned([view.centre[0] + dLon, view.centre[1] + dLat], zoom);
    if (follow) view.cursor = [wrapped(view.centre[0]), view.centre[1]];
    view.draw();
    readout();
    clearTimeout(turning);
    turning = setTimeout(() => view.settled(), 120);
  }

  function play(start) {
    clearTimeout(playing);
    playing = 0;
    byId("play").setAttribute("aria-pressed", String(start));
    byId("play").textContent = start ? "Pause" : "Play";
    if (!start) return;
    const tick = async () => {
      const before = performance.now();
      state.mean = null;
      state.step = next(state.step, 1);
      if (!(await refresh())) { play(false); return; }
      tell("played");
      const rest = 1000 / Number(byId("speed").value) - (performance.now() - before);
      if (byId("play").getAttribute("aria-pressed") === "true") playing = setTimeout(tick, Math.max(0, rest));
    };
    playing = setTimeout(tick, 0);
  }

  // ---- controls

  for (const { name, long_name } of meta.variables) byId("variable").append(element("option", { value: name, textContent: name, title: long_name }));
  state.variable = meta.variables.some((one) => one.name === "z500") ? "z500" : meta.variables[0].name;
  byId("variable").value = state.variable;
  byId("slider").max = steps ? steps.length - 1 : stepCount() - 1;
  byId("date").min = new Date(secondsOf(0) * 1000).toISOString().slice(0, 10);
  byId("date").max = new Date(secondsOf(stepCount() - 1) * 1000).toISOString().slice(0, 10);
  byId("variable").addEventListener("change", (event) => { state.variable = event.target.value; tell("shown"); });
  byId("kind").addEventListener("change", (event) => { state.kind = event.target.value; tell("shown"); });
  byId("slider").addEventListener("input", (event) => go(steps ? steps[Number(event.target.value)] : Number(event.target.value)));
  byId("date").addEventListener("change", (event) => {
    const second = Date.parse(`${event.target.value}T00:00:00Z`) / 1000;
    if (Number.isFinite(second)) go(stepAt(second));
  });
  byId("before").addEventListener("click", () => go(next(state.step, -1)));
  byId("after").addEventListener("click", () => go(next(state.step, 1)));
  byId("play").addEventListener("click", () => play(byId("play").getAttribute("aria-pressed") !== "true"));
  byId("end-mean").addEventListener("click", () => { state.mean = null; tell("mean-ended"); tell("shown"); });
  for (const name of ["map", "globe"]) {
    byId(`as-${name}`).addEventListener("click", () => {
      view.show(name);
      canvas.classList.toggle("turns", name === "globe");
      for (const other of ["map", "globe"]) byId(`as-${other}`).setAttribute("aria-pressed", String(other === name));
      view.draw();
      describe();
    });
  }

  // ---- mouse, touch and keys on the picture

  function marked(lat, lon) {
    if (state.mean) return;
    state.place = [lat, wrapped(lon)];
    const at = view.projection.forward(lon, lat);
    state.onGrid = !!at && view.at(...at)?.cell >= 0;
    tell("place");
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    pointer = { at: place(event), moved: false, waits: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = place(event), [dx, dy] = pointer ? [at[0] - pointer.at[0], at[1] - pointer.at[1]] : [0, 0];
    if (Math.hypot(dx, dy) > 8 && view.view === "map") pointer.moved = true; // a swipe is no click
    if (pointer && view.view === "globe") {
      if (!pointer.moved && Math.hypot(dx, dy) < 4) return;
      pointer.moved = true;
      if (pointer.waits) return;
      pointer.waits = true;
      requestAnimationFrame(() => {
        if (!pointer) return;
        pointer.waits = false;
        const scale = 57.3 / view.projection.radius;
        pointer.at = at;
        turn(-dx * scale, dy * scale);
      });
      return;
    }
    const found = view.at(...at);
    view.cursor = found ? [found.lon, found.lat] : null;
    readout();
  });
  canvas.addEventListener("pointerup", (event) => {
    const clicked = pointer && !pointer.moved, found = clicked && view.at(...place(event));
    pointer = null;
    if (!found) return;
    view.cursor = [found.lon, found.lat];
    view.draw();
    readout();
    marked(found.lat, found.lon);
  });
  canvas.addEventListener("pointercancel", () => { pointer = null; });
  canvas.addEventListener("wheel", (event) => {
    if (view.view !== "globe") return;
    event.preventDefault();
    turn(0, 0, view.zoom * Math.exp(-event.deltaY / 500));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }, move = moves[event.key];
    if (move && view.view === "globe") turn((event.shiftKey ? 2 : 10) * move[0], (event.shiftKey ? 2 : 10) * move[1], view.zoom, true);
    else if (move) {
      const step = Math.max(meta.lat_bounds[0] - meta.lat_bounds[1], 1) / (event.shiftKey ? 5 : 1), [lon, lat] = view.cursor || view.home;
      view.cursor = [wrapped(lon + move[0] * step), Math.max(-89.9, Math.min(89.9, lat + move[1] * step))];
      view.draw();
      readout();
    } else if (event.key === "+" || event.key === "=") turn(0, 0, view.zoom * 1.25);
    else if (event.key === "-") turn(0, 0, view.zoom / 1.25);
    else if (event.key === "Enter" && view.cursor) marked(view.cursor[1], view.cursor[0]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  on("step", () => { if (byId("play").getAttribute("aria-pressed") === "true") play(false); alarm(null); refresh(); });
  on("shown", refresh);
  on("labels", refresh);
  on("draft", () => {
    view.outlines = state.mean ? [] : outlinesAt(state.step);
    view.draw();
  });
  new ResizeObserver(() => view.draw()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view.draw());
  return { go, next, refresh, lines, pixel: (lon, lat) => view.projection.forward(lon, lat), play: () => byId("play").click() };
}
