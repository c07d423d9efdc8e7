// The maps of a report on globes: up to three side by side, turned together by mouse, finger and keys. The picture that
// was there stays for print, and where there are no scripts.

import { cssColour, lookupTable } from "./colours.js";
import { FieldView, unpackCoastlines } from "./fieldview.js";
import { decoded, number, written } from "./numbers.js";
import { degrees, extent, wrapped } from "./projection.js";

const ABREAST = 3;
const HINT = "Drag a globe, or use the arrow keys on it, to turn all of them (with Shift in small steps); plus and minus zoom. Under each: its value at the ring.";

function made(kind, properties = {}, ...children) {
  const one = Object.assign(document.createElement(kind), properties);
  one.append(...children);
  return one;
}

function globes(figure, number0, record, lines) {
  const { meta, maps } = record, cells = meta.rows * meta.columns, box = extent(meta);
  const tables = { anomaly: lookupTable("anomaly"), value: lookupTable("value") };
  const kindOf = ({ low, high }) => (Math.abs(low + high) < 1e-9 * (high - low) ? "anomaly" : "value");
  let cursor = null, held = null, settling = 0, projection = "globe";

  const parts = Array.from({ length: Math.min(ABREAST, maps.length) }, (_, k) => {
    const list = made("select", {}, ...maps.map(({ name }, n) => made("option", { value: n, textContent: name, selected: n === k })));
    list.setAttribute("aria-label", `Map ${k + 1}`);
    const canvas = made("canvas", { className: "field", tabIndex: 0 }), output = made("output");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-describedby", `globes-${number0}`);
    const low = made("span"), high = made("span"), bar = made("canvas");
    bar.setAttribute("aria-hidden", "true");
    bar.width = 256;
    bar.height = 1;
    const head = maps.length > ABREAST ? list : made("strong", { textContent: maps[k].name });
    const cell = made("div", { className: "one" }, head, canvas, output, made("span", { className: "legend" }, low, bar, high));
    const view = new FieldView(canvas, meta, lines);
    return { list, canvas, output, low, high, bar, cell, view, which: k };
  });

  function readout({ view, output, which }) {
    const at = cursor && view.projection && view.projection.forward(...cursor), found = at && view.at(...at);
    output.textContent = !found ? "" : found.cell < 0 ? `${degrees(...cursor)} — outside the grid`
      : Number.isNaN(found.value) ? `${degrees(...cursor)} — missing`
        : `${degrees(...cursor)}  ${number(found.value)} ${written(maps[which].units)}`;
  }

  function choose(part, which) {
    const one = maps[which], kind = kindOf(one), image = new ImageData(256, 1);
    part.which = which;
    new Uint32Array(image.data.buffer).set(tables[kind]);
    part.bar.getContext("2d").putImageData(image, 0, 0);
    part.low.textContent = number(one.low);
    part.high.textContent = `${number(one.high)} ${written(one.units)}`;
    part.view.draw(decoded(one, 0, cells), [one.low, one.high], tables[kind]);
    name(part);
    readout(part);
  }

  function name({ canvas, view, which }) {
    const [lon, lat] = view.centre;
    canvas.setAttribute("aria-label", `${projection === "globe" ? "Globe" : "Map"} of ${maps[which].name}${projection === "globe" ? `, ${degrees(lon, lat)} in the middle` : ""}`);
    canvas.dataset.drawn = `${which}/${projection}/${degrees(lon, lat)}`;
  }

  function all(change) {
    for (const part of parts) {
      change(part.view);
      part.view.cursor = cursor;
      part.view.draw();
      name(part);
      readout(part);
    }
  }

  function turn(dLon, dLat, by = 1, follow = false) {
    const { centre: [lon, lat], zoom } = parts[0].view, to = [wrapped(lon + dLon), Math.max(-90, Math.min(90, lat + dLat))];
    if (follow) cursor = to;
    all((view) => view.turned(to, zoom * by));
    clearTimeout(settling);
    settling = setTimeout(() => { for (const { view } of parts) view.settled(); }, 120);
  }

  function show(which) {
    projection = which;
    const shape = which === "globe" ? 1 : (box.east - box.west) / (box.north - box.south);
    for (const [kind, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(kind === which));
    for (const { canvas, view } of parts) {
      canvas.style.aspectRatio = String(shape);
      view.show(which);
    }
    all(() => {});
  }

  const buttons = Object.fromEntries([["globe", "Globe"], ["map", "Map"]].map(([kind, textContent]) => {
    const button = made("button", { type: "button", textContent });
    button.addEventListener("click", () => show(kind));
    return [kind, button];
  }));
  const pair = made("span", { className: "pair" }, ...Object.values(buttons));
  pair.setAttribute("role", "group");
  pair.setAttribute("aria-label", "Projection");

  for (const part of parts) {
    const { canvas, view, list } = part, place = (event) => {
      const frame = canvas.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    list.addEventListener("change", () => choose(part, Number(list.value)));
    canvas.addEventListener("pointerdown", (event) => {
      held = projection === "globe" ? place(event) : null;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (!held) {
        const found = view.at(...at);
        cursor = found ? [found.lon, found.lat] : null;
        parts.forEach(readout);
      } else if (Math.hypot(at[0] - held[0], at[1] - held[1]) > 3) {
        const degree = 57.3 / view.projection.radius;
        turn((held[0] - at[0]) * degree, (at[1] - held[1]) * degree);
        held = at;
      }
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
    canvas.addEventListener("keydown", (event) => {
      const by = event.shiftKey ? 2 : 10, moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] };
      const move = moves[event.key];
      if (move && projection === "globe") turn(...move, 1, true);
      else if (move) {
        const [lon, lat] = cursor || view.home;
        cursor = [wrapped(lon + move[0] / 2), Math.max(-89.9, Math.min(89.9, lat + move[1] / 2))];
        all(() => {});
      } else if (event.key === "+" || event.key === "=") turn(0, 0, 1.25);
      else if (event.key === "-") turn(0, 0, 0.8);
      else return;
      event.preventDefault();
    });
    new ResizeObserver(() => view.draw()).observe(canvas);
  }
  const hint = made("p", { className: "said", id: `globes-${number0}`, textContent: HINT });
  if (record.by > 1) hint.textContent += record.classes ? ` One of ${record.by} × ${record.by} cells.` : ` Means of ${record.by} × ${record.by} cells.`;
  figure.querySelector(".still").before(made("div", { className: "globes" }, made("div", { className: "bar" }, pair), made("div", { className: "row" }, ...parts.map(({ cell }) => cell)), hint));
  parts.forEach((part, k) => choose(part, k));
  show("globe");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all(() => {}));
}

const coast = unpackCoastlines(JSON.parse(document.getElementById("coastlines").textContent));
document.querySelectorAll("script.globe-data").forEach((data, k) => globes(data.closest("figure"), k, JSON.parse(data.textContent), coast));
document.body.dataset.globes = cssColour("--paper");
