// Signed maps of a few cells -> colours, lines of equal evidence and values. Pure: no page is needed.
// A map is an array of rows; it covers the model's square, whose sides run from 0 to 1.

const FOR = [255, 166, 0]; // two hues that colour-blind eyes tell apart
const AGAINST = [64, 156, 255];
export const LEVELS = [0.25, 0.5, 0.75]; // of the scale's top, where lines are drawn

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Bilinear between the cells' centres; beyond the outermost centres the outermost value holds.
export function sample(map, u, v) {
  const [h, w] = [map.length, map[0].length];
  const [x, y] = [clamp(u * w - 0.5, 0, w - 1), clamp(v * h - 0.5, 0, h - 1)];
  const [i, j] = [Math.min(Math.floor(y), h - 2), Math.min(Math.floor(x), w - 2)];
  const [down, across] = [y - i, x - j];
  const above = map[i][j] * (1 - across) + map[i][j + 1] * across;
  const below = map[i + 1][j] * (1 - across) + map[i + 1][j + 1] * across;
  return above * (1 - down) + below * down;
}

export const cellOf = (map, u, v) =>
  map[clamp(Math.floor(v * map.length), 0, map.length - 1)][clamp(Math.floor(u * map[0].length), 0, map[0].length - 1)];

// n x n values over the square, smooth or cell by cell.
export function field(map, n, cells = false) {
  const values = new Float32Array(n * n);
  const at = cells ? cellOf : sample;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) values[i * n + j] = at(map, (j + 0.5) / n, (i + 0.5) / n);
  return values;
}

// One hue for each sign, as opaque as the value is strong: over any grey the hue stays that of the legend.
export function paint(values, width, top, signed) {
  const picture = new ImageData(width, values.length / width);
  values.forEach((value, at) => {
    const strength = clamp(Math.abs(value) / top, 0, 1);
    const shown = value > 0 || signed ? strength : 0;
    picture.data.set([...(value > 0 ? FOR : AGAINST), Math.round(255 * shown)], 4 * at);
  });
  return picture;
}

export function toAddress(picture) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas.toDataURL();
}

// Marching squares: the line along which n x n values equal a level, as the path of an SVG whose square is n x n.
export function line(values, n, level) {
  let path = "";
  for (let i = 0; i + 1 < n; i++) {
    for (let j = 0; j + 1 < n; j++) {
      const corners = [[j, i], [j + 1, i], [j + 1, i + 1], [j, i + 1]];
      const points = [];
      corners.forEach(([x, y], k) => {
        const [x2, y2] = corners[(k + 1) % 4];
        const [a, b] = [values[y * n + x] - level, values[y2 * n + x2] - level];
        if (a < 0 === b < 0) return;
        const t = a / (a - b);
        points.push(`${(x + 0.5 + t * (x2 - x)).toFixed(2)} ${(y + 0.5 + t * (y2 - y)).toFixed(2)}`);
      });
      for (let k = 0; k + 1 < points.length; k += 2) path += `M${points[k]}L${points[k + 1]}`;
    }
  }
  return path;
}

export const difference = (a, b) => a.map((row, i) => row.map((value, j) => value - b[i][j]));

// The sum of what a map holds in the places that `isCovered(u, v)` names, each cell by its covered share.
export function inside(map, isCovered, steps = 16) {
  const [h, w] = [map.length, map[0].length];
  let sum = 0;
  for (let i = 0; i < h * steps; i++) {
    for (let j = 0; j < w * steps; j++) {
      if (isCovered((j + 0.5) / (w * steps), (i + 0.5) / (h * steps)))
        sum += map[Math.floor(i / steps)][Math.floor(j / steps)];
    }
  }
  return sum / steps ** 2;
}
