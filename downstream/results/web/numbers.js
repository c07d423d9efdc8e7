// Numbers as a reader sees them, and as a page holds them.

export const number = (x) => (Math.abs(x) >= 1e5 || (x && Math.abs(x) < 0.01) ? x.toExponential(2) : String(+x.toPrecision(4)));

// "m2 s-2" as m² s⁻²
export const written = (units) => units.replace(/(?<=[A-Za-z])-?\d+/g, (digits) => digits.replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]));

export function unpacked(base64, Kind) {
  const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  return new Kind(bytes.buffer);
}

// One of the fields that lie in 16 bits behind each other: value = offset + scale × code; -32768 is missing.
export function decoded(packed, at, cells) {
  packed.values ??= unpacked(packed.data, Int16Array);
  const out = new Float32Array(cells);
  for (let k = 0; k < cells; k++) {
    const code = packed.values[at * cells + k];
    out[k] = code === -32768 ? NaN : packed.offset + packed.scale * code;
  }
  return out;
}
