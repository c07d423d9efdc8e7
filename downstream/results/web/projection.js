// Two projections, there and back: degrees to pixels and pixels to degrees; null where there is nothing.

const RAD = Math.PI / 180;
export const wrapped = (lon) => ((((lon + 180) % 360) + 360) % 360) - 180;

// The globe from far away, turned so that a place stands in the middle.
export function orthographic(width, height, [lon0, lat0], zoom) {
  const radius = (Math.min(width, height) / 2 - 6) * zoom, cx = width / 2, cy = height / 2;
  const sin0 = Math.sin(lat0 * RAD), cos0 = Math.cos(lat0 * RAD);
  return {
    kind: "globe", radius, cx, cy,
    forward(lon, lat) {
      const l = (lon - lon0) * RAD, p = lat * RAD, cosP = Math.cos(p), sinP = Math.sin(p);
      if (sin0 * sinP + cos0 * cosP * Math.cos(l) < 0) return null;
      return [cx + radius * cosP * Math.sin(l), cy - radius * (cos0 * sinP - sin0 * cosP * Math.cos(l))];
    },
    inverse(px, py) {
      const x = (px - cx) / radius, y = (cy - py) / radius, square = x * x + y * y;
      if (square > 1) return null;
      const z = Math.sqrt(1 - square);
      return [wrapped(lon0 + Math.atan2(x, z * cos0 - y * sin0) / RAD), Math.asin(Math.max(-1, Math.min(1, z * sin0 + y * cos0))) / RAD];
    },
  };
}

// Longitude and latitude as they are (plate carrée), as large as fits.
export function plain(width, height, { west, east, south, north }) {
  const scale = Math.min((width - 2) / (east - west), (height - 2) / (north - south));
  const w = scale * (east - west), h = scale * (north - south), left = (width - w) / 2, top = (height - h) / 2;
  return {
    kind: "map", left, top, w, h,
    free: (lon, lat) => [left + scale * (lon - west), top + scale * (north - lat)], // beyond the edges, too
    forward: (lon, lat) => [left + scale * (west + ((((lon - west) % 360) + 360) % 360) - west), top + scale * (north - lat)],
    inverse(px, py) {
      const lon = west + (px - left) / scale, lat = north - (py - top) / scale;
      return lon < west || lon > east || lat < south || lat > north ? null : [wrapped(lon), lat];
    },
  };
}

// The part of the map that is shown: the whole Earth, or the region of the grid with some room around it.
export function extent(meta) {
  const west = meta.lon_bounds[0], east = meta.lon_bounds.at(-1), north = meta.lat_bounds[0], south = meta.lat_bounds.at(-1);
  if (meta.periodic || east - west > 300) {
    return meta.periodic ? { west: -180, east: 180, south: -90, north: 90 } : { west, east: west + 360, south: -90, north: 90 };
  }
  const room = 0.08 * Math.max(east - west, north - south);
  return { west: west - room, east: east + room, south: Math.max(-90, south - room), north: Math.min(90, north + room) };
}

// From degrees to the number of a cell, -1 outside the grid: by tables, since every pixel asks.
export function cellFinder(meta) {
  const FINE = 20, rows = new Int32Array(180 * FINE + 1).fill(-1), columns = new Int32Array(360 * FINE + 1).fill(-1);
  const edges = [...meta.lat_bounds], last = meta.rows;
  if (meta.periodic) { // the caps that a Gaussian grid leaves at the poles look like the rows beside them
    if (90 - edges[0] < edges[0] - edges[1]) edges[0] = 90.01;
    if (90 + edges[last] < edges[last - 1] - edges[last]) edges[last] = -90.01;
  }
  for (let k = 0; k < rows.length; k++) {
    const lat = 90 - (k + 0.5) / FINE;
    rows[k] = edges.findIndex((edge, i) => i < last && lat <= edge && lat > edges[i + 1]);
  }
  let column = 0;
  for (let k = 0; k < columns.length; k++) {
    const lon = meta.lon_bounds[0] + (k + 0.5) / FINE;
    while (column < meta.columns && lon >= meta.lon_bounds[column + 1]) column++;
    columns[k] = column < meta.columns ? column : -1;
  }
  return (lon, lat) => {
    const row = rows[Math.min(180 * FINE, Math.max(0, Math.floor((90 - lat) * FINE)))];
    const east = (((lon - meta.lon_bounds[0]) % 360) + 360) % 360, at = columns[Math.floor(east * FINE)];
    return row < 0 || at < 0 ? -1 : row * meta.columns + at;
  };
}

// Places along the great circle between two, [lon, lat] a few degrees apart, both ends with it.
export function arc([lon0, lat0], [lon1, lat1]) {
  const vector = (lon, lat) => [Math.cos(lat * RAD) * Math.cos(lon * RAD), Math.cos(lat * RAD) * Math.sin(lon * RAD), Math.sin(lat * RAD)];
  const a = vector(lon0, lat0), b = vector(lon1, lat1), dot = a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const angle = Math.acos(Math.max(-1, Math.min(1, dot))), parts = Math.max(1, Math.ceil(angle / (2 * RAD)));
  return Array.from({ length: parts + 1 }, (_, k) => {
    const t = k / parts, [p, q] = angle < 1e-9 ? [1 - t, t] : [Math.sin((1 - t) * angle), Math.sin(t * angle)];
    const [x, y, z] = [0, 1, 2].map((i) => p * a[i] + q * b[i]);
    return [Math.atan2(y, x) / RAD, Math.atan2(z, Math.hypot(x, y)) / RAD];
  });
}

export function degrees(lon, lat) {
  const round = (x) => Math.abs(x).toFixed(1);
  return `${round(lat)}°${lat < 0 ? "S" : "N"} ${round(wrapped(lon))}°${wrapped(lon) < 0 ? "W" : "E"}`;
}
