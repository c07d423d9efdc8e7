// What the encoder does: a window as it was, as it was shown, as it was rebuilt or forecast, and the error.

import { FieldView } from "./fieldview.js";
import { tables } from "./fieldpanel.js";
import { number, written } from "./numbers.js";
import { byId, dateOf, element, on, state, stepCount, tried } from "./state.js";

export function encoderPanel(data, meta, fields) {
  const views = [0, 1, 2, 3].map(() => {
    const canvas = element("canvas", { className: "small" }), title = element("h3");
    canvas.setAttribute("role", "img");
    byId("rebuilt").append(element("section", {}, title, canvas));
    return { canvas, title, view: new FieldView(canvas, meta, fields.lines) };
  });
  let tasks = null, draw = 0, asked = 0;

  const task = () => tasks.find((one) => one.name === byId("task").value);

  async function open() {
    byId("encoder-said").textContent = "Loading the decoders …";
    tasks = await tried(() => data.tasks());
    if (!tasks) { byId("encoder-said").textContent = ""; return; }
    byId("task").replaceChildren(...tasks.map(({ name }) => element("option", { value: name, textContent: name.replaceAll("_", " ") })));
    choose();
  }

  function choose() {
    const leads = task()?.leads || [];
    byId("lead").replaceChildren(...leads.map((lead) => element("option", { value: lead, textContent: lead })));
    byId("lead-box").hidden = !leads.length;
    byId("redraw").hidden = !tasks.length || leads.length > 0;
    show();
  }

  async function show() {
    if (byId("panel-encoder").hidden || state.mean) return;
    if (!tasks) { await open(); return; }
    if (!tasks.length) { byId("encoder-said").textContent = "This checkpoint has no pretext task that makes fields of all variables of this store."; return; }
    const forecast = task().leads.length > 0, lead = forecast ? Number(byId("lead").value) : 0, mine = ++asked, { step, variable } = state;
    if (step < meta.window - 1 || step + lead >= stepCount()) {
      byId("encoder-said").textContent = `A window of ${meta.window} steps${forecast ? ` and ${lead} after it` : ""} does not fit at ${dateOf(step)}; choose another date.`;
      return;
    }
    const found = await tried(() => data.rebuilt(byId("task").value, variable, step, draw, lead));
    if (!found || mine !== asked) return;
    const one = meta.variables.find(({ name }) => name === variable), range = one.ranges.anomaly;
    const titles = forecast ? [`Truth, ${dateOf(step + lead)}`, `Seen last, ${dateOf(step)}`, `Forecast of ${dateOf(step + lead)}`, "Error"]
      : ["Truth", "Seen (hatched: hidden)", "Rebuilt", "Error where hidden"];
    views.forEach(({ canvas, title, view }, k) => {
      title.textContent = titles[k];
      canvas.setAttribute("aria-label", `${titles[k]}, ${variable} anomaly`);
      view.draw(found.fields[k], range, tables.anomaly);
    });
    byId("encoder-said").textContent = `${variable} anomaly. Error, root mean square: ${number(found.rms)} ${written(one.units)}; of the climatology: ${number(found.usual)}.`
      + (meta.window > 1 && !forecast ? ` The last of ${meta.window} steps is shown.` : "");
    byId("rebuilt").dataset.drawn = `${byId("task").value}/${variable}/${step}/${forecast ? lead : draw}`;
  }

  byId("task").addEventListener("change", choose);
  byId("lead").addEventListener("change", show);
  byId("redraw").addEventListener("click", () => { draw++; show(); });
  for (const what of ["step", "tab", "shown"]) on(what, show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}
