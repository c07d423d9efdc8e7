// Maps that a run left behind: attributions, predicted fields; a list of them, and a choice for each further dimension.

import { FieldView } from "./fieldview.js";
import { tables } from "./fieldpanel.js";
import { number, written } from "./numbers.js";
import { byId, element, on, tried } from "./state.js";

export function mapsPanel(data, meta, fields) {
  const canvas = byId("run-map"), view = new FieldView(canvas, meta, fields.lines);
  const range = (values) => {
    let most = 0;
    for (const value of values) if (Math.abs(value) > most) most = Math.abs(value); // NaN is not
    return most || 1;
  };
  let maps = null, asked = 0;

  async function open() {
    if (byId("panel-maps").hidden) return;
    if (maps) { show(); return; }
    maps = await tried(() => data.maps());
    if (!maps) return;
    byId("map-of").replaceChildren(...maps.map(({ title }, k) => element("option", { value: k, textContent: title })));
    choose();
  }

  function choose() {
    byId("map-choices").replaceChildren(...maps[Number(byId("map-of").value)].choices.map(({ name, members }) => {
      const list = element("select", {}, ...members.map((member, k) => element("option", { value: k, textContent: member })));
      list.addEventListener("change", show);
      return element("label", {}, `${name} `, list);
    }));
    show();
  }

  async function show() {
    const which = Number(byId("map-of").value), one = maps[which], mine = ++asked;
    const at = [...byId("map-choices").querySelectorAll("select")].map((list) => Number(list.value));
    const field = await tried(() => data.map(which, at));
    if (!field || mine !== asked) return;
    const most = range(field), chosen = one.choices.map(({ members }, k) => members[at[k]]).join(", ");
    view.draw(field, [-most, most], tables.anomaly);
    canvas.setAttribute("aria-label", `Map of ${one.title}${chosen && `, ${chosen}`}`);
    byId("map-said").textContent = `${one.words ? `${one.words}. ` : ""}Colours from −${number(most)} (blue) over 0 (white) to ${number(most)} (red), ${written(one.units)}; hatched: nothing known.`;
    canvas.dataset.drawn = `${which}/${at.join(",")}`;
  }

  byId("map-of").addEventListener("change", choose);
  on("tab", open);
  new ResizeObserver(() => view.draw()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view.draw());
}
