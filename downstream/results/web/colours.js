// Colour scales. Values: viridis (S. van der Walt and N. Smith, CC0). Anomalies: lightness falls evenly in OKLab
// (B. Ottosson, 2020) from white at 0 to blue and to red, so that equal steps of the value look equally large.

const VIRIDIS = "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e 1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725";
const SIZE = 256;

// Okabe and Ito, as in the reports; each stands out on light and on dark paper.
export const CATEGORIES = ["#0a7cc2", "#e69f00", "#d55e00", "#00a07a", "#b0558a", "#56b4e9", "#8a8f96", "#a89800", "#7a5cc2", "#c2185b"];

function oklab(light, chroma, hue) {
  const a = chroma * Math.cos(hue), b = chroma * Math.sin(hue);
  const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s];
}

function shown(light, chroma, hue) {
  // less chroma where the screen cannot show it: the lightness stays
  let linear = oklab(light, chroma, hue);
  while (chroma > 0.001 && linear.some((part) => part < 0 || part > 1)) linear = oklab(light, (chroma *= 0.96), hue);
  return linear.map((part) => {
    const x = Math.min(1, Math.max(0, part));
    return Math.round(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055));
  });
}

export function diverging(t) {
  const far = Math.min(1, Math.abs(t));
  return shown(0.975 - 0.595 * far, 0.19 * far ** 0.75, ((t < 0 ? 252 : 30) * Math.PI) / 180);
}

export function sequential(t) {
  const anchors = VIRIDIS.split(" "), at = Math.min(1, Math.max(0, t)) * (anchors.length - 1);
  const k = Math.min(anchors.length - 2, Math.floor(at));
  const [from, to] = [anchors[k], anchors[k + 1]].map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return from.map((part, i) => Math.round(part + (to[i] - part) * (at - k)));
}

// 256 colours as the bytes of an ImageData, from the lowest to the highest value.
export function lookupTable(kind) {
  const table = new Uint32Array(SIZE);
  for (let k = 0; k < SIZE; k++) {
    const t = k / (SIZE - 1), [r, g, b] = kind === "anomaly" ? diverging(2 * t - 1) : sequential(t);
    table[k] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}

export const packed = (hex) => {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
};

export const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
