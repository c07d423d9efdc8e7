// The page: opens its source, builds its parts, and takes the keys that work everywhere.

import { analoguePanel } from "./analoguepanel.js";
import { encoderPanel } from "./encoderpanel.js";
import { featurePanel } from "./featurepanel.js";
import { fieldPanel } from "./fieldpanel.js";
import { labelPanel } from "./labelpanel.js";
import { mapsPanel } from "./mapspanel.js";
import { source } from "./source.js";
import { byId, setTimes, state, tell, tried } from "./state.js";

const TABS = ["space", "analogues", "encoder", "maps", "label"];

function tabs(names) {
  const show = (name) => {
    for (const one of TABS) {
      byId(`panel-${one}`).hidden = one !== name;
      byId(`tab-${one}`).setAttribute("aria-selected", String(one === name));
      byId(`tab-${one}`).tabIndex = one === name ? 0 : -1;
    }
    tell("tab");
  };
  for (const name of TABS) {
    const tab = byId(`tab-${name}`);
    tab.hidden = !names.includes(name);
    tab.addEventListener("click", () => show(name));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const other = names[(names.indexOf(name) + by + names.length) % names.length];
      show(other);
      byId(`tab-${other}`).focus();
      event.preventDefault();
    });
  }
  show(names[0]);
}

async function start() {
  const data = source(), { meta, times, coastlines, shown } = await data.open();
  setTimes(times);
  state.step = shown ? shown[0] : 0;
  byId("about").textContent = [meta.store, meta.source, `${times.length} steps`, meta.checkpoint && `encoder ${meta.checkpoint}`].filter(Boolean).join(" · ");
  byId("synthetic").hidden = !meta.synthetic;
  document.title = `${meta.store} – earthssl look`;
  const fields = fieldPanel(data, meta, coastlines, shown);
  await fields.refresh();
  const missing = { encoder: !meta.decoders, maps: !meta.maps };
  tabs(TABS.filter((name) => !missing[name] && (!data.readOnly || name === "space" || name === "maps")));
  featurePanel(data, meta, fields);
  if (meta.maps) mapsPanel(data, meta, fields);
  if (data.readOnly) {
    state.labels = await data.labels();
    tell("labels");
  } else {
    analoguePanel(data, meta, fields);
    if (meta.decoders) encoderPanel(data, meta, fields);
    await labelPanel(data, fields);
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, button")) return;
    if (event.key === " ") fields.play();
    else if (event.key === "," || event.key === ".") fields.go(fields.next(state.step, event.key === "," ? -1 : 1));
    else return;
    event.preventDefault();
  });
  document.body.dataset.ready = "yes";
}

tried(start);
