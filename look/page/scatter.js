// All states as points, drawn as pixels so that 100 000 do not stutter; a click picks one, a drag brushes some.

import { cssColour, packed } from "./colours.js";

const PAD = 14;

export class Scatter {
  constructor(canvas, overlay) {
    Object.assign(this, { canvas, overlay, x: null, colour: null, current: -1, brush: null, marked: [], hand: null });
  }

  // Coordinates (state,) and the index of each point's colour in a palette of "#rrggbb"; -1 is not drawn in colour.
  set(x, y) {
    Object.assign(this, { x, y });
    const ends = (values) => {
      let low = Infinity, high = -Infinity;
      for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
      return high > low ? [low, high] : [low - 1, high + 1];
    };
    this.xEnds = ends(x);
    this.yEnds = ends(y);
    this.scale();
  }

  scale() {
    const { clientWidth: width, clientHeight: height } = this.canvas, dpr = Math.min(2, window.devicePixelRatio || 1);
    Object.assign(this, { width, height, dpr });
    for (const canvas of [this.canvas, this.overlay]) {
      canvas.width = Math.round(width * dpr);
      canvas.height = Math.round(height * dpr);
    }
    if (!this.x || !width) return;
    const n = this.x.length;
    this.px = new Float32Array(n);
    this.py = new Float32Array(n);
    for (let k = 0; k < n; k++) [this.px[k], this.py[k]] = this.pixel(this.x[k], this.y[k]);
  }

  pixel(x, y) {
    const [x0, x1] = this.xEnds, [y0, y1] = this.yEnds;
    return [PAD + ((x - x0) / (x1 - x0)) * (this.width - 2 * PAD), this.height - PAD - ((y - y0) / (y1 - y0)) * (this.height - 2 * PAD)];
  }

  place(px, py) {
    const [x0, x1] = this.xEnds, [y0, y1] = this.yEnds;
    return [x0 + ((px - PAD) / (this.width - 2 * PAD)) * (x1 - x0), y0 + ((this.height - PAD - py) / (this.height - 2 * PAD)) * (y1 - y0)];
  }

  draw(colour = this.colour, palette = this.palette) {
    Object.assign(this, { colour, palette });
    if (this.canvas.clientWidth !== this.width || this.canvas.clientHeight !== this.height) this.scale();
    if (!this.x || !this.width) return;
    const width = this.canvas.width, height = this.canvas.height, image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer), colours = palette.map(packed), rest = packed(cssColour("--outside-point"));
    const n = this.x.length, size = Math.max(2, Math.round((n > 20000 ? 1.5 : n > 2000 ? 2.2 : 4) * this.dpr));
    const dot = (k, value) => {
      const left = Math.round(this.px[k] * this.dpr - size / 2), top = Math.round(this.py[k] * this.dpr - size / 2);
      for (let j = Math.max(0, top); j < Math.min(height, top + size); j++) {
        for (let i = Math.max(0, left); i < Math.min(width, left + size); i++) pixels[j * width + i] = value;
      }
    };
    const counts = new Int32Array(colours.length);
    for (let k = 0; k < n; k++) if (colour[k] >= 0) counts[colour[k]]++;
    const rare = (k) => counts[colour[k]] < 0.15 * n;
    const stride = n % 7919 ? 7919 : 7907; // primes: neighbours in time do not cover each other in order
    for (let k = 0; k < n; k++) if (colour[k] < 0) dot(k, rest);
    for (const last of [false, true]) { // rare colours lie on top
      for (let i = 0, k = 0; i < n; i++, k = (k + stride) % n) if (colour[k] >= 0 && rare(k) === last) dot(k, colours[colour[k]]);
    }
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    this.drawOver();
  }

  drawOver() {
    const context = this.overlay.getContext("2d");
    context.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (!this.px) return;
    const ink = cssColour("--ink"), paper = cssColour("--paper");
    const circle = (k, radius, style) => {
      for (const [line, colour] of [[5, paper], [2.5, style]]) {
        context.beginPath();
        context.arc(this.px[k], this.py[k], radius, 0, 2 * Math.PI);
        context.lineWidth = line;
        context.strokeStyle = colour;
        context.stroke();
      }
    };
    for (const { index, colour } of this.marked) circle(index, 4.5, colour);
    if (this.current >= 0) circle(this.current, 7, ink);
    if (this.brush) {
      const { x0, y0, x1, y1 } = this.brush;
      context.fillStyle = "rgba(127,140,160,.18)";
      context.strokeStyle = ink;
      context.lineWidth = 1.5;
      context.setLineDash([5, 4]);
      context.fillRect(x0, y0, x1 - x0, y1 - y0);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.setLineDash([]);
    }
    if (this.hand) {
      const [x, y] = this.hand;
      context.strokeStyle = ink;
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(x - 9, y); context.lineTo(x + 9, y); context.moveTo(x, y - 9); context.lineTo(x, y + 9);
      context.stroke();
    }
  }

  nearest(px, py) {
    let best = -1, least = 24 * 24;
    for (let k = 0; k < this.px.length; k++) {
      const dx = this.px[k] - px, dy = this.py[k] - py, square = dx * dx + dy * dy;
      if (square < least) { least = square; best = k; }
    }
    return best;
  }

  // Clicks, drags (where there are brushes) and keys: `pick(index)`, `brushed({x0, x1, y0, y1} in coordinates)`, `cleared()`.
  listen({ brushes, pick, brushed, cleared }) {
    const { overlay } = this, own = (event) => {
      const box = overlay.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let start = null;
    const finish = () => {
      const { x0, x1, y0, y1 } = this.brush, [left, low] = this.place(Math.min(x0, x1), Math.max(y0, y1));
      const [right, high] = this.place(Math.max(x0, x1), Math.min(y0, y1));
      brushed({ x0: left, x1: right, y0: low, y1: high });
    };
    overlay.addEventListener("pointerdown", (event) => {
      if (!this.px || event.button) return;
      start = own(event);
      overlay.setPointerCapture(event.pointerId);
    });
    overlay.addEventListener("pointermove", (event) => {
      if (!start || !brushes) return;
      const [x, y] = own(event);
      if (this.brush?.dragged || Math.hypot(x - start[0], y - start[1]) > 5) {
        this.brush = { x0: start[0], y0: start[1], x1: x, y1: y, dragged: true };
        this.drawOver();
      }
    });
    overlay.addEventListener("pointerup", (event) => {
      if (!start) return;
      const [x, y] = own(event);
      start = null;
      if (this.brush?.dragged) {
        this.brush.dragged = false;
        finish();
        return;
      }
      const index = this.nearest(x, y);
      if (index >= 0) pick(index);
    });
    overlay.addEventListener("pointercancel", () => { start = null; });
    overlay.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
      if (!this.px) return;
      if (moves[event.key]) {
        const [dx, dy] = moves[event.key], from = this.hand || (this.current >= 0 ? [this.px[this.current], this.py[this.current]] : [this.width / 2, this.height / 2]);
        this.hand = [Math.min(this.width, Math.max(0, from[0] + dx)), Math.min(this.height, Math.max(0, from[1] + dy))];
        if (event.shiftKey && brushes) this.brush = { x0: this.brush?.x0 ?? from[0], y0: this.brush?.y0 ?? from[1], x1: this.hand[0], y1: this.hand[1] };
        this.drawOver();
      } else if (event.key === "Enter") {
        if (this.brush) finish();
        else if (this.hand && this.nearest(...this.hand) >= 0) pick(this.nearest(...this.hand));
      } else if (event.key === "Escape") cleared();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    overlay.addEventListener("blur", () => { this.hand = null; this.drawOver(); });
  }
}
