// The section "Whole scan": one slice in three windows, and the scores of all slices as lines along the body.
// Nothing is fetched before the section is opened; windows are applied here, to greys that are Hounsfield units.
import { draw, drawLegend, follow, moveCursor as moveTo, onWheel, percent, tally } from "./chart.js";
import { element } from "./elements.js";
import { say } from "./picture.js";

const AIR = -1024, STEP = 8; // Hounsfield units: of grey 0, and from one grey to the next

const root = document.querySelector("#whole-scan");
const find = (selector) => root.querySelector(selector);
const scored = "scored" in root.dataset;
const slider = find("#scan-slice");
const panels = [...root.querySelectorAll(".panel")];

let state = "closed"; // then "fetching", and "open" or back to "closed"
let scan = null;
let sheet = null; // all slices, as tiles

let words, reasons, titles; // of the page's language

function speak() {
  words = JSON.parse(root.dataset.words);
  reasons = JSON.parse(root.dataset.reasons);
  titles = [...(panels[0]?.querySelectorAll("dt") ?? [])].map((term) => term.textContent);
  if (state !== "open") return;
  if (scored) drawChart();
  show();
}
document.addEventListener("language", speak);
speak();

function where(index) {
  const position = scan.slices[index].position.toLocaleString(document.documentElement.lang);
  return say(words.slice, { number: index + 1, count: scan.slices.length, position });
}

// --- pictures

const enlarged = document.createElement("canvas"); // greys before any window, twice as large

function tables(windows) {
  return Object.fromEntries(Object.entries(windows).map(([name, [centre, width]]) =>
    [name, Uint8ClampedArray.from({ length: 256 }, (_, grey) => 255 * ((AIR + STEP * grey - centre) / width + 0.5))]));
}

function drawPictures(index) {
  const [width, height] = scan.tile;
  Object.assign(enlarged, { width: 2 * width, height: 2 * height });
  const brush = enlarged.getContext("2d", { willReadFrequently: true });
  brush.imageSmoothingQuality = "high";
  const left = (index % scan.columns) * width, top = Math.floor(index / scan.columns) * height;
  brush.drawImage(sheet, left, top, width, height, 0, 0, enlarged.width, enlarged.height);
  const greys = brush.getImageData(0, 0, enlarged.width, enlarged.height).data;
  for (const panel of panels) {
    const table = scan.tables[panel.dataset.window];
    const shown = panel.querySelector("canvas").getContext("2d");
    const image = shown.createImageData(enlarged.width, enlarged.height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = 0xff000000 | (table[greys[4 * i]] * 0x010101);
    shown.putImageData(image, 0, 0);
    panel.querySelector(".edge").replaceChildren(
      ...scan.slices[index].outline.map((line) => element("polygon", { points: line.join(" ") })));
  }
}

// --- words and numbers

const nameOf = (panel) => panel.querySelector(".panel-name span").firstChild.textContent.trim();

function tell(reading) {
  if (reading.verdict !== "ok") return words[reading.verdict];
  const top = reading.probabilities.indexOf(Math.max(...reading.probabilities));
  const likeliest = { title: titles[top], share: percent(reading.probabilities[top]) };
  if (!reading.possible) return say(words.raw, likeliest);
  if (reading.possible.length === 1) return say(words.single, likeliest);
  const named = reading.possible.map((key) => titles[scan.classes.indexOf(key)]);
  const titled = [named.slice(0, -1).join(", "), named.at(-1)].filter(Boolean).join(words.or);
  return titled ? say(words.uncertain, { titles: titled }) : words.uncertain_none;
}

function fillPanel(panel, index) {
  const reading = scored ? scan.slices[index].readings[panel.dataset.window] : null;
  const told = reading ? [where(index), tell(reading)] : [where(index)];
  panel.querySelector("canvas").ariaLabel = say(words.picture, { window: nameOf(panel), said: told.join(". ") });
  if (!reading) return;
  panel.dataset.verdict = reading.verdict;
  panel.querySelector(".verdict").textContent = told[1];
  panel.querySelector(".reason").textContent = reading.verdict === "ok" ? "" : (reasons[reading.reason] ?? "");
  const highest = Math.max(...(reading.probabilities ?? [2]));
  panel.querySelectorAll(".panel-scores > div").forEach((row, number) => {
    const share = reading.probabilities?.[number];
    row.classList.toggle("likeliest", share === highest);
    row.querySelector("dd").textContent = share === undefined ? "–" : percent(share);
    row.querySelector(".value").setAttribute("width", 100 * (share ?? 0));
  });
}

// --- the chart

const chosen = () => find("[name=scan-window]:checked").value;
let across = null; // slice -> where it lies; made when the chart is drawn

function drawChart() {
  across = draw(find("#scan-chart"), {
    readings: scan.slices.map((slice) => slice.readings[chosen()]), classes: scan.classes,
    length: scan.slices.at(-1).position,
    marked: scan.slices.flatMap((slice, index) => (slice.outline.length ? [index] : [])),
  });
  if (across) moveCursor();
}

function moveCursor() {
  const index = slider.value - 1;
  if (across) moveTo(find("#scan-chart"), across(index));
  const panel = panels.find((one) => one.dataset.window === chosen());
  const readings = scan.slices.map((slice) => slice.readings[chosen()]);
  const outlined = scan.slices.flatMap((slice, at) => (slice.outline.length ? [at + 1] : []));
  const scores = (readings[index].probabilities ?? [])
    .map((share, number) => say(words.score, { title: titles[number], share: percent(share) })).join(", ");
  find("#scan-of").textContent = nameOf(panel);
  find("#scan-chart").setAttribute("aria-label", say(words.chart, {
    window: nameOf(panel), count: readings.length, outlined: `${outlined[0]}–${outlined.at(-1)}`, number: index + 1,
    said: tell(readings[index]), scores, ...tally(readings),
  }).trim());
}

// --- going from slice to slice

function show() {
  const index = slider.value - 1, slice = scan.slices[index];
  drawPictures(index);
  for (const panel of panels) fillPanel(panel, index);
  const place = slice.outline.length ? `${where(index)}, ${words.outlined}` : where(index);
  find("#scan-where").textContent = place;
  const answers = scored ? panels.map((p) => say(words.picture, { window: nameOf(p), said: tell(slice.readings[p.dataset.window]) })) : [];
  slider.setAttribute("aria-valuetext", [place, ...answers].join(". "));
  if (scored) moveCursor();
}

function go(number) {
  const wanted = Math.min(slider.max, Math.max(slider.min, number));
  if (wanted === Number(slider.value)) return;
  slider.value = wanted;
  show();
}

slider.addEventListener("input", show);
for (const place of [find("#scan-panels"), find(".scan-slider")]) onWheel(place, () => scan, (by) => go(Number(slider.value) + by));

const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 };
document.addEventListener("keydown", (event) => {
  if (state !== "open" || !root.checkVisibility() || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.toLowerCase() === "o") {
    const outline = find("#scan-outline");
    outline.checked = !outline.checked;
  } else if (event.key in STEPS && !event.target.closest("input, .scroll")) { // an input has its own use for them
    event.preventDefault();
    go(Number(slider.value) + STEPS[event.key]);
  }
});

if (scored) follow(find("#scan-chart"), () => across, (index) => go(index + 1));
for (const radio of root.querySelectorAll("[name=scan-window]")) radio.addEventListener("change", drawChart);

// --- opening

async function open() {
  if (location.hash !== "#scan" || state !== "closed") return;
  state = "fetching";
  find("#scan-failed").hidden = true;
  find("#scan-loading").hidden = false;
  try {
    sheet = new Image();
    sheet.src = root.dataset.picture;
    const [response] = await Promise.all([fetch(root.dataset.record), sheet.decode()]);
    if (!response.ok) throw new Error(response.status);
    scan = await response.json();
    scan.tables = tables(scan.windows);
    const first = scan.slices.findLastIndex((slice) => slice.outline.length) + scan.slices.findIndex((slice) => slice.outline.length);
    slider.value = Math.floor(first / 2) + 1; // in the middle of the mass
    state = "open";
  } catch {
    state = "closed";
  }
  find("#scan-loading").hidden = true;
  find("#scan-failed").hidden = state === "open";
  find("#scan-view").hidden = state !== "open";
  if (state !== "open") return;
  drawLegend(find("#scan-legend"));
  show();
  if (scored) new ResizeObserver(drawChart).observe(find("#scan-chart"));
}
find("#scan-again").addEventListener("click", open);
addEventListener("hashchange", open);
open();
