// A scan of the visitor's own, which the server holds for a while: scrolled, seen in any window, asked slice by slice.
// A slice travels when it is wanted, 16 bits a pixel; windows are applied here, and change nothing that the network sees.
import { draw as drawChart, drawLegend, follow, moveCursor, onWheel, tally } from "./chart.js";
import { element, make } from "./elements.js";
import { asker, keys, language, parts, say } from "./picture.js";
import { zip } from "./zip.js";

const REST = 300, KNOWN_REST = 80; // ms on a slice until it is asked about, or its answer is shown again
const KEPT = 64; // slices whose pixels are kept here
const PAGE = 10; // slices that a Page key goes
const NARROW = 480; // px of a picture whose caption takes its width
const STEP = 2; // Hounsfield units a pixel of drag
const HALF = 1 << 15;

const find = (selector) => document.querySelector(selector);
const answer = find("#answer");
const [head, foot] = [find("#series"), find("#series-foot")];
const slider = find("#series-slice");
const chart = find("#series-chart");
let said = JSON.parse(head.dataset.words);
const presets = JSON.parse(head.dataset.windows);
const alone = find("#series-alone"); // what stands for a slice that was not asked about
const film = make("canvas", { className: "seen" });
const sheet = make("canvas"); // the slice in its window, a pixel a pixel
const table = new Uint32Array(1 << 16); // what a slice holds, Hounsfield units where the file has them -> opaque grey

let scan = null; // what the server said of it, and what was fetched since
let page = null; // how questions are asked and answers shown
let level = 0, width = 1; // of the window
let view = null; // part of the slice that is shown
let size = null; // of the slice, in the view's pixels
let opened = 0; // scans so far
let resting = 0; // the timer until a slice is asked about
let fetching = false;
let scoring = null; // the question about all slices
let across = null;

// --- which files are a scan

async function kindOf(blob) {
  const bytes = new Uint8Array(await blob.slice(0, 1 << 18).arrayBuffer());
  const starts = (...wanted) => wanted.every((byte, at) => bytes[at] === byte);
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (text(128, 132) === "DICM" || starts(8, 0) || starts(2, 0)) {
    const find = (...wanted) => bytes.findIndex((_, from) => wanted.every((byte, at) => bytes[from + at] === byte));
    const [frames, pixels] = [find(0x28, 0, 8, 0), find(0xe0, 0x7f, 0x10, 0)]; // the number of frames, and what is no head
    return frames >= 0 && (pixels < 0 || frames < pixels) ? "frames" : "slice";
  }
  const volume = starts(0x50, 0x4b, 3, 4) || starts(0x1f, 0x8b) || text(0, 4) === "NRRD" || ["n+", "ni"].includes(text(344, 346)) || ["n+", "ni"].includes(text(4, 6));
  return volume ? "scan" : "other";
}

// One file to send for all of these; nothing where they are no scan.
export async function pack(blobs) {
  const kinds = await Promise.all(blobs.map(kindOf));
  if (blobs.length === 1) return ["scan", "frames"].includes(kinds[0]) ? blobs[0] : null;
  return kinds.every((kind) => ["slice", "frames"].includes(kind)) ? zip(blobs) : null;
}

// --- asking

const mine = (options = {}) => ({ ...options, headers: { "ctscan-scan": scan.scan } });

async function fetchUnits(index) {
  if (scan.units.has(index)) return scan.units.get(index);
  const own = scan;
  const response = await fetch(`series/units?slice=${index}`, mine());
  if (!response.ok) throw new Error(response.headers.get("ctscan-reason") ?? "failed");
  const units = new Int16Array(await response.arrayBuffer());
  own.units.set(index, units);
  if (own.units.size > KEPT) own.units.delete(own.units.keys().next().value);
  return units;
}

async function ask() {
  const [own, index] = [scan, at()];
  const [known, again] = [own.answers.get(index), asker(mine({ method: "POST" }), { slice: index })];
  if (known) return page.show(known.state, known.html, again);
  const given = await page.ask(`answer?lang=${language}&slice=${index}`, mine({ method: "POST" }), again);
  if (given && own === scan) own.answers.set(index, given);
  return undefined;
}

// --- showing

const at = () => Number(slider.value) - 1;
const millimetres = (value) => value.toLocaleString(language, { maximumFractionDigits: 1 }).replace("-", "−");

function where(index) {
  const values = { number: index + 1, count: scan.slices };
  return scan.positions ? say(said.where, { ...values, position: millimetres(scan.positions[index]) }) : say(said.where_alone, values);
}

function paint() {
  const room = answer.querySelector("svg.picture")?.closest(".room"); // a gap has no picture
  if (!scan?.shown || !view || !room) return;
  if (film.parentElement !== room) attach(room);
  const ratio = devicePixelRatio;
  const [wide, high] = [Math.round(room.clientWidth * ratio), Math.round(room.clientHeight * ratio)];
  if (film.width !== wide || film.height !== high) Object.assign(film, { width: wide, height: high });
  const brush = film.getContext("2d");
  brush.fillRect(0, 0, wide, high);
  brush.imageSmoothingQuality = "high";
  const scale = Math.min(wide / view[2], high / view[3]);
  const [left, top] = [(wide - view[2] * scale) / 2 - view[0] * scale, (high - view[3] * scale) / 2 - view[1] * scale];
  brush.drawImage(sheet, left, top, size[0] * scale, size[1] * scale);
  if (!scan.spacing) return;
  const low = room.clientWidth < NARROW ? 44 : 14; // above the caption
  const [long, x, y] = [(50 / scan.spacing[1]) * scale * (size[0] / scan.width), wide - 14 * ratio, high - low * ratio]; // 5 cm, as in a reading room
  brush.strokeStyle = brush.fillStyle = "#fff";
  brush.lineWidth = 2 * ratio;
  brush.beginPath();
  for (const [name, ...place] of [["moveTo", x - long, y - 6 * ratio], ["lineTo", x - long, y], ["lineTo", x, y], ["lineTo", x, y - 6 * ratio]]) brush[name](...place);
  brush.stroke();
  brush.font = `${13 * ratio}px system-ui, sans-serif`;
  brush.textAlign = "right";
  brush.fillText(said.bar, x, y - 10 * ratio);
  brush.fillStyle = "#000";
}

// The slice itself is drawn on the canvas below the maps; its picture stays for the small maps and for what is kept.
function attach(room) {
  room.prepend(film);
  const untouched = room.querySelector("#untouched");
  if (untouched) {
    const defs = element("defs", {});
    untouched.before(defs);
    defs.append(untouched);
  }
  if (room.querySelector("#maps")) return;
  const sides = alone.content.querySelectorAll(".side"); // facts of the file, whatever the answer
  if (!room.querySelector(".side")) room.querySelector("svg.picture").append(...[...sides].map((side) => side.cloneNode(true)));
  const caption = room.querySelector("#reading");
  if (caption) caption.textContent = scan.sides_known ? said.view : "";
}

function develop() {
  if (!scan.shown) return;
  Object.assign(sheet, { width: scan.width, height: scan.height });
  const image = new ImageData(scan.width, scan.height);
  const pixels = new Uint32Array(image.data.buffer);
  scan.shown.forEach((unit, index) => (pixels[index] = table[unit + HALF]));
  sheet.getContext("2d").putImageData(image, 0, 0);
  paint();
}

// The slider's slice, as soon as it is here; of those that were passed meanwhile none is fetched.
async function load() {
  if (fetching) return;
  fetching = true;
  const own = scan;
  try {
    for (let index = -1; own === scan && index !== at(); ) {
      index = at();
      own.shown = await fetchUnits(index);
      if (own === scan) develop();
    }
  } catch (error) {
    if (own === scan) lose(error.message);
  } finally {
    fetching = false;
  }
}

function lose(reason) {
  close();
  page.fail(find(`#not-${reason}`) ? reason : "offline");
}

function move() {
  const index = at();
  page.stop();
  find("#series-where").textContent = where(index);
  answer.dataset.where = `${where(index)} · `; // on a full screen it stands with the disclaimer
  slider.setAttribute("aria-valuetext", where(index));
  if (answer.dataset.state !== "pending") page.show("pending", alone.innerHTML);
  if (across) moveCursor(chart, across(index));
  load();
  clearTimeout(resting);
  resting = setTimeout(ask, scan.answers.has(index) ? KNOWN_REST : REST);
}

function go(index) {
  const wanted = Math.min(scan.slices - 1, Math.max(0, index));
  if (wanted === at()) return;
  slider.value = wanted + 1;
  move();
}

// --- the window

function setWindow(toLevel, toWidth) {
  [level, width] = [Math.round(Math.min(HALF, Math.max(-HALF, toLevel))), Math.round(Math.min(2 * HALF, Math.max(1, toWidth)))];
  for (let unit = -HALF; unit < HALF; unit++) {
    const grey = Math.round(255 * Math.min(1, Math.max(0, (unit - level) / width + 0.5)));
    table[unit + HALF] = 0xff000000 | (grey * 0x010101);
  }
  [find("#level").value, find("#width").value] = [level, width];
  for (const radio of head.querySelectorAll("[name=seen]")) {
    const [presetLevel, presetWidth] = presets[radio.value];
    radio.checked = presetLevel === level && presetWidth === width;
  }
  const [ownLevel, ownWidth] = presets.training;
  const same = !scan?.unit || (ownLevel === level && ownWidth === width);
  head.classList.toggle("other-window", !same);
  find("#series-seen").textContent = say(scan && !scan.unit ? said.seen_unitless : same ? said.seen : said.seen_other, { level: millimetres(ownLevel), width: ownWidth });
  if (scan) develop();
}

for (const radio of head.querySelectorAll("[name=seen]")) radio.addEventListener("change", () => setWindow(...presets[radio.value]));
for (const field of [find("#level"), find("#width")]) {
  field.addEventListener("change", () => setWindow(Number(find("#level").value), Number(find("#width").value) || 1));
}
find("#drag").addEventListener("change", (event) => answer.classList.toggle("windowing", event.target.checked));

let dragged = null; // the pointer that sets the window, and where it was
answer.addEventListener("pointerdown", (event) => {
  if (!scan?.unit || !event.target.closest("svg.picture") || !(event.button === 2 || find("#drag").checked)) return;
  event.stopPropagation();
  dragged = [event.pointerId, event.clientX, event.clientY];
  event.target.setPointerCapture(event.pointerId);
}, true);
answer.addEventListener("pointermove", (event) => {
  if (!scan || event.pointerId !== dragged?.[0]) return;
  event.stopPropagation();
  const [, x, y] = dragged;
  dragged = [event.pointerId, event.clientX, event.clientY];
  setWindow(level + STEP * (event.clientY - y), width + STEP * (event.clientX - x));
}, true);
for (const type of ["pointerup", "pointercancel"]) addEventListener(type, () => (dragged = null));
answer.addEventListener("contextmenu", (event) => scan && event.target.closest("svg.picture") && event.preventDefault());

// --- ways to another slice

slider.addEventListener("input", move);
onWheel(answer, (event) => scan && event.target.closest("svg.picture"), (by) => go(at() + by));
onWheel(foot.querySelector(".scan-slider"), () => scan, (by) => go(at() + by));

const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: PAGE, PageDown: -PAGE };
addEventListener("keydown", (event) => {
  if (!scan || !head.checkVisibility() || event.ctrlKey || event.metaKey || event.altKey || !(event.key in STEPS)) return;
  const elsewhere = event.target !== slider && event.target.closest?.("input, select, .scroll");
  const brushing = find("#cover")?.checked && event.target.closest?.(".room") && event.key.startsWith("Arrow");
  if (elsewhere || brushing || !find("#keys").checked) return; // these have their own use for the keys
  event.preventDefault();
  go(at() + STEPS[event.key]);
});
keys.w = () => {
  if (!scan?.unit) return;
  const names = [...head.querySelectorAll("[name=seen]")].map((radio) => radio.value);
  const now = names.findIndex((name) => presets[name][0] === level && presets[name][1] === width);
  setWindow(...presets[names[(now + 1) % names.length]]);
};

// --- the scores of all slices

function showScores() {
  const length = scan.positions ? scan.positions.at(-1) - scan.positions[0] : 0;
  across = drawChart(chart, { readings: scan.readings, classes: JSON.parse(chart.dataset.classes), length });
  if (across) moveCursor(chart, across(at()));
  const counts = { count: scan.slices, done: scan.done, ...tally(scan.readings) };
  chart.setAttribute("aria-label", say(said.chart, counts));
  find("#series-progress").value = scan.done;
  const gaps = counts.gaps ? `, ${say(said.gaps, counts)}` : "";
  find("#series-state").textContent = say(scan.done < scan.slices ? said.scoring : said.scored, counts) + gaps;
}

async function score() {
  const button = find("#series-score");
  if (scoring) return scoring.abort();
  const [own, stopped] = [scan, (scoring = new AbortController())];
  Object.assign(own, { readings: Array(own.slices).fill(null), done: 0 });
  button.textContent = said.stop;
  find("#series-progress").hidden = find("#series-curve").hidden = false;
  showScores();
  try {
    const response = await fetch("series/scores", mine({ method: "POST", signal: stopped.signal }));
    if (!response.ok) throw new Error(response.headers.get("ctscan-reason"));
    for await (const readings of parts(response)) {
      if (own !== scan) break;
      for (const reading of readings) own.readings[own.done++] = reading;
      showScores();
    }
  } catch (error) {
    if (own === scan && !stopped.signal.aborted) find("#series-state").textContent = find(`#not-${error.message}`)?.content.querySelector(".notice").textContent ?? said.not_scored;
  }
  if (scoring === stopped) scoring = null;
  if (own !== scan) return undefined;
  button.textContent = said.again;
  find("#series-progress").hidden = true;
  return undefined;
}
find("#series-score").addEventListener("click", score);
follow(chart, () => across, (index) => scan && go(index));
drawLegend(find("#series-curve"));
new ResizeObserver(() => scan?.readings && showScores()).observe(chart);
new ResizeObserver(paint).observe(answer);

// --- opening and closing

answer.addEventListener("view", (event) => {
  ({ view, size } = event.detail);
  paint();
});

// What the server said of a scan that it holds now, and the page's way to ask and to show.
export function open(given, tools) {
  page = tools;
  scan = { ...given, units: new Map(), answers: new Map(), shown: null };
  answer.dataset.scan = ++opened;
  head.hidden = foot.hidden = false;
  foot.classList.toggle("unplaced", !scan.positions);
  const picture = alone.content.querySelector("svg");
  picture.dataset.size = `${scan.width} ${scan.height}`;
  picture.setAttribute("viewBox", `0 0 ${picture.dataset.size}`);
  picture.querySelectorAll(".side").forEach((side, index) => {
    side.setAttribute("x", scan.width * (index ? 0.98 : 0.02));
    side.setAttribute("y", scan.height / 2);
    side.setAttribute("font-size", scan.width / 28);
    side.toggleAttribute("hidden", !scan.sides_known);
  });
  slider.max = scan.slices;
  slider.value = Math.floor(scan.slices / 2) + 1;
  for (const control of head.querySelectorAll("fieldset, label")) control.hidden = !scan.unit;
  setWindow(...(scan.unit ? presets.training : [0, 2 * HALF])); // without units greys fill all 16 bits
  move();
  if (answer.getBoundingClientRect().top < 0) answer.scrollIntoView();
}

document.addEventListener("language", () => {
  said = JSON.parse(head.dataset.words);
  setWindow(level, width);
  if (!scan) return;
  scan.answers.clear();
  if (scan.readings) showScores();
  find("#series-score").textContent = scoring ? said.stop : scan.readings ? said.again : said.score;
  move();
});

// The server forgets it too, and so does this page.
export function close() {
  if (!scan) return;
  fetch("series", mine({ method: "DELETE", keepalive: true })).catch(() => {});
  clearTimeout(resting);
  scoring?.abort();
  [scan, scoring, across, view] = [null, null, null, null];
  sheet.width = sheet.height = film.width = film.height = 0;
  film.remove();
  answer.classList.remove("windowing");
  delete answer.dataset.scan;
  delete answer.dataset.where;
  head.hidden = foot.hidden = find("#series-curve").hidden = find("#series-progress").hidden = true;
  find("#drag").checked = false;
  find("#series-state").textContent = "";
  find("#series-score").textContent = said.score;
}
addEventListener("pagehide", close);
