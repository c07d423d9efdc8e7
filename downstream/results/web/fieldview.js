// One field on a canvas: cells, coastlines, graticule, marks. Which cell a pixel shows is kept, so that a new time step
// costs one look-up a pixel.

import { cssColour, packed } from "./colours.js";
import { arc, cellFinder, extent, orthographic, plain, wrapped } from "./projection.js";

const OFF = -2; // a pixel that shows no place

export class FieldView {
  constructor(canvas, meta, coastlines) {
    this.canvas = canvas;
    this.meta = meta;
    this.coastlines = coastlines;
    this.finder = cellFinder(meta);
    this.view = "map";
    const box = extent(meta);
    this.home = meta.periodic ? [0, 35] : [(box.west + box.east) / 2, (box.south + box.north) / 2];
    this.centre = [...this.home];
    this.zoom = 1;
    this.field = null;
    this.marks = [];
    this.outlines = [];
    this.cursor = null;
    this.buffer = document.createElement("canvas");
  }

  // Take the size that the page gives the canvas; true where it changed.
  fit() {
    const dpr = Math.min(2, window.devicePixelRatio || 1), width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    if (!width || !height) return false;
    if (this.width === width && this.height === height && this.dpr === dpr) return false;
    Object.assign(this, { width, height, dpr, cells: null });
    this.canvas.width = Math.round(width * dpr);
    this.canvas.height = Math.round(height * dpr);
    return true;
  }

  // Half as fine while it moves: `settled` draws it as it is.
  turned(centre, zoom = this.zoom) {
    this.coarse = true;
    this.centre = [centre[0], Math.max(-90, Math.min(90, centre[1]))];
    this.zoom = Math.max(1, Math.min(8, zoom));
    this.cells = null;
  }

  settled() {
    if (!this.coarse) return;
    this.coarse = false;
    this.cells = null;
    this.draw();
  }

  show(view) {
    this.view = view;
    this.coarse = false;
    this.cells = null;
  }

  project() {
    const { width, height } = this;
    this.projection = this.view === "globe" ? orthographic(width, height, this.centre, this.zoom) : plain(width, height, extent(this.meta));
    const cells = new Int32Array(width * height), { inverse } = this.projection, step = this.coarse ? 2 : 1;
    for (let y = 0; y < height; y += step) {
      for (let x = 0, k = y * width; x < width; x += step, k += step) {
        const place = inverse(x + step / 2, y + step / 2), cell = place ? this.finder(place[0], place[1]) : OFF;
        cells[k] = cell;
        if (step === 2 && x + 1 < width) cells[k + 1] = cell;
      }
      if (step === 2 && y + 1 < height) cells.copyWithin((y + 1) * width, y * width, (y + 1) * width);
    }
    this.cells = cells;
    this.buffer.width = width;
    this.buffer.height = height;
    this.image = new ImageData(width, height);
  }

  draw(field = this.field, range = this.range, table = this.table) {
    Object.assign(this, { field, range, table });
    this.fit();
    if (!this.width || !field) return;
    if (!this.cells) this.project();
    const pixels = new Uint32Array(this.image.data.buffer), { cells, width } = this, [low, high] = range;
    const scale = 255.999 / (high - low), dark = packed(cssColour("--hatch-dark")), light = packed(cssColour("--hatch-light"));
    const outside = packed(cssColour("--outside"));
    for (let k = 0; k < cells.length; k++) {
      const cell = cells[k];
      if (cell === OFF) pixels[k] = 0;
      else if (cell < 0) pixels[k] = outside;
      else {
        const value = field[cell];
        if (value === value) {
          const at = (value - low) * scale;
          pixels[k] = table[at < 0 ? 0 : at > 255 ? 255 : at | 0];
        } else pixels[k] = ((k % width) + ((k / width) | 0)) % 8 < 3 ? dark : light; // hatched: nothing is known here
      }
    }
    this.buffer.getContext("2d").putImageData(this.image, 0, 0);
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.buffer, 0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    this.drawLines(context);
    this.drawOutlines(context);
    this.drawMarks(context);
  }

  drawLines(context) {
    const { projection } = this, line = (places, width, style) => {
      this.path(context, places);
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke();
    };
    context.save();
    this.clip(context);
    const small = this.width < 260;
    if (!small) for (const places of graticule()) line(places, 0.5, "rgba(0,0,0,.22)");
    for (const places of this.coastlines) line(places, small ? 0.6 : 1, "rgba(10,12,16,.8)");
    context.restore();
    if (projection.kind === "globe") {
      context.beginPath();
      context.arc(projection.cx, projection.cy, projection.radius, 0, 2 * Math.PI);
      context.lineWidth = 1;
      context.strokeStyle = cssColour("--muted");
      context.stroke();
    }
  }

  clip(context) {
    const { kind, left, top, w, h } = this.projection;
    if (kind !== "map") return;
    context.beginPath();
    context.rect(left, top, w, h);
    context.clip();
  }

  // Begin a path along places [lon, lat].
  path(context, places) {
    context.beginPath();
    let last = null;
    for (const [lon, lat] of places) {
      const at = this.projection.forward(lon, lat);
      if (at && last && Math.abs(at[0] - last[0]) < this.width / 3) context.lineTo(at[0], at[1]);
      else if (at) context.moveTo(at[0], at[1]);
      last = at;
    }
  }

  // Regions, their edges great circles; of one that is not closed yet, the corners too.
  drawOutlines(context) {
    context.save();
    this.clip(context);
    for (const { corners, colour, closed } of this.outlines) {
      const edge = (closed ? [...corners, corners[0]] : corners).map(([lat, lon]) => [lon, lat]);
      const places = edge.slice(1).flatMap((to, k) => arc(edge[k], to));
      if (closed) this.shade(context, places, colour);
      this.path(context, places);
      context.setLineDash(closed ? [] : [7, 4]);
      for (const [width, style] of [[5, "#fff"], [2.5, colour]]) {
        context.lineWidth = width;
        context.strokeStyle = style;
        context.stroke();
      }
      context.setLineDash([]);
      if (!closed) for (const [lon, lat] of edge) {
        const at = this.projection.forward(lon, lat);
        if (at) ring(context, at, 4, colour);
      }
    }
    context.restore();
  }

  // Shade what an outline holds: on the map by unrolling it over the date line, with its pole where it goes round one.
  shade(context, places, colour) {
    const { projection } = this;
    context.globalAlpha = 0.2;
    context.fillStyle = colour;
    if (projection.kind === "globe") {
      if (places.every(([lon, lat]) => projection.forward(lon, lat))) {
        this.path(context, places);
        context.fill();
      }
    } else if (places.length) {
      const free = [places[0]];
      for (const [lon, lat] of places.slice(1)) {
        const before = free.at(-1)[0];
        free.push([before + wrapped(lon - before), lat]);
      }
      const [from, to] = [free[0][0], free.at(-1)[0]];
      if (Math.abs(to - from) > 1) {
        const pole = free.reduce((sum, [, lat]) => sum + lat, 0) < 0 ? -90 : 90;
        free.push([to, pole], [from, pole]);
      }
      for (const round of [-720, -360, 0, 360, 720]) {
        context.beginPath();
        for (const [lon, lat] of free) context.lineTo(...projection.free(lon + round, lat));
        context.fill();
      }
    }
    context.globalAlpha = 1;
  }

  drawMarks(context) {
    context.font = "600 12px system-ui, sans-serif";
    for (const { lon, lat, label, colour } of this.marks) {
      const at = this.projection.forward(lon, lat);
      if (!at) continue;
      ring(context, at, 6, colour);
      caption(context, label, at[0] + 10, at[1] + 4);
    }
    for (const { label, at: middle } of this.outlines) {
      const at = middle && this.projection.forward(middle[1], middle[0]);
      if (at) caption(context, label, at[0] - context.measureText(label).width / 2, at[1] + 4);
    }
    const at = this.cursor && this.projection.forward(...this.cursor);
    if (at) ring(context, at, 4, "#14171a");
  }

  // What lies under a pixel of the canvas.
  at(x, y) {
    const place = this.projection && this.projection.inverse(x, y);
    if (!place) return null;
    const cell = this.finder(...place);
    return { lon: place[0], lat: place[1], cell, value: cell < 0 || !this.field ? NaN : this.field[cell] };
  }
}

function ring(context, [x, y], radius, colour) {
  for (const [width, style] of [[4, "#fff"], [2, colour]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = style;
    context.stroke();
  }
}

function caption(context, label, x, y) {
  context.lineWidth = 3;
  context.strokeStyle = "#fff";
  context.strokeText(label, x, y);
  context.fillStyle = "#14171a";
  context.fillText(label, x, y);
}

let lines = null;
function graticule() {
  if (lines) return lines;
  lines = [];
  for (let lon = -180; lon < 180; lon += 30) lines.push(Array.from({ length: 61 }, (_, k) => [lon, -90 + 3 * k]));
  for (let lat = -60; lat <= 60; lat += 30) lines.push(Array.from({ length: 121 }, (_, k) => [-180 + 3 * k, lat]));
  return lines;
}

// Tenths of a degree, each as the difference from the one before: see coastlines.json.
export function unpackCoastlines(record) {
  return record.lines.map((flat) => {
    let lon = 0, lat = 0;
    const places = [];
    for (let k = 0; k < flat.length; k += 2) places.push([(lon += flat[k]) / 10, (lat += flat[k + 1]) / 10]);
    return places;
  });
}
