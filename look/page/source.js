// Where the data come from: the server that sent this page, or the page itself where it was exported.

import { decoded, unpacked } from "./numbers.js";

const KEPT = 40; // blocks of steps

async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: it was closed. Start `earthssl look` again; all marks that it had confirmed are kept.");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error || `The server refused (${answer.status}).`);
  }
  return answer;
}

const json = async (path) => (await asked(path)).json();
const post = async (path, record) =>
  (await asked(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(record) })).json();
const text = (values) => new URLSearchParams(values).toString();

export class ServerSource {
  constructor() {
    this.readOnly = false;
    this.blocks = new Map();
  }

  async open() {
    const [meta, times, coastlines] = await Promise.all([
      json("api/meta"), asked("api/times").then((a) => a.arrayBuffer()), json("coastlines.json")]);
    this.meta = meta;
    return { meta, times: new Float64Array(times), coastlines, shown: null };
  }

  // A field, Float32Array (cell): blocks of steps come together, and some are kept.
  async field(variable, kind, step) {
    const per = this.meta.block, number = Math.floor(step / per), key = `${variable}/${kind}/${number}`;
    if (!this.blocks.has(key)) {
      const path = `api/field?${text({ variable, kind, first: number * per, count: per })}`;
      this.blocks.set(key, asked(path).then(async (answer) => new Float32Array(await answer.arrayBuffer())));
      this.blocks.get(key).catch(() => this.blocks.delete(key));
      if (this.blocks.size > KEPT) this.blocks.delete(this.blocks.keys().next().value);
    }
    const block = await this.blocks.get(key), cells = this.meta.rows * this.meta.columns, at = (step - number * per) * cells;
    return block.subarray(at, at + cells);
  }

  ahead(variable, kind, step) {
    if (step < this.meta.steps) this.field(variable, kind, step).catch(() => {});
  }

  states() { return json("api/states"); }

  async points() {
    const answer = await asked("api/points"), count = Number(answer.headers.get("X-Count")), bytes = await answer.arrayBuffer();
    return { rows: new Int32Array(bytes, 0, count), values: new Float32Array(bytes, 4 * count) };
  }

  async umap() { return new Float32Array(await (await asked("api/umap")).arrayBuffer()); }

  async mean(brush, variable, kind) {
    const answer = await asked(`api/mean?${text({ ...brush, variable, kind })}`);
    const [count, used] = ["X-Count", "X-Used"].map((name) => Number(answer.headers.get(name)));
    return { field: new Float32Array(await answer.arrayBuffer()), count, used };
  }

  analogues(step, space, exclude) { return json(`api/analogues?${text({ step, exclude, spaces: space })}`); }
  tasks() { return json("api/tasks"); }

  async rebuilt(task, variable, step, draw, lead) {
    const answer = await asked(`api/rebuilt?${text({ task, variable, step, draw, lead })}`), cells = this.meta.rows * this.meta.columns;
    const all = new Float32Array(await answer.arrayBuffer()), [rms, usual] = ["X-RMS", "X-Usual"].map((name) => Number(answer.headers.get(name)));
    return { fields: [0, 1, 2, 3].map((k) => all.subarray(k * cells, (k + 1) * cells)), rms, usual };
  }

  maps() { return json("api/maps"); }

  async map(number, at) {
    return new Float32Array(await (await asked(`api/map?${text({ number, at: at.join(",") })}`)).arrayBuffer());
  }

  known(column) { return json(`api/known?${text({ column })}`); }
  labels() { return json("api/labels"); }
  mark(step, label, place = null) { return post("api/labels", { step, label, place }); }
  region(step, label, region) { return post("api/labels", { step, label, region }); }
  draft(step, label, region) { return post("api/draft", { step, label, region }); }
  undo() { return post("api/undo", {}); }
  propose(how) { return json(`api/proposals?${text({ how })}`); }
}

// An exported page: some steps, numbers in 16 bits between the ends of each field's range.
export class PageSource {
  constructor(record) {
    this.record = record;
    this.readOnly = true;
    const umap = record.points?.umap;
    if (umap) this.umap = async () => unpacked(umap, Float32Array);
  }

  async open() {
    const { meta, coastlines } = this.record;
    this.meta = meta;
    return { meta, times: unpacked(this.record.times, Float64Array), coastlines, shown: this.record.steps };
  }

  async field(variable, kind, step) {
    const packed = this.record.fields[`${variable}/${kind}`], at = this.record.steps.indexOf(step);
    return decoded(packed, at, this.meta.rows * this.meta.columns);
  }

  ahead() {}
  async states() { return { ready: !!this.record.points, share: 0, error: "", explained: this.record.points?.explained }; }

  async points() {
    const { rows, values } = this.record.points;
    return { rows: unpacked(rows, Int32Array), values: unpacked(values, Float32Array) };
  }

  async maps() { return this.record.maps.list; }

  async map(number, at) {
    return decoded(this.record.maps.fields[`${number}/${at.join(",")}`], 0, this.meta.rows * this.meta.columns);
  }

  async known(column) { return this.record.known[column]; }
  async labels() { return this.record.labels; }
}

export function source() {
  const inside = document.getElementById("embedded");
  return inside ? new PageSource(JSON.parse(inside.textContent)) : new ServerSource();
}
