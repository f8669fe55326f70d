// The large picture: maps over the slice, zoom, the value under the pointer, and places covered on demand.
import { element, make } from "./elements.js";
import { LEVELS, cellOf, difference, field, inside, line, paint, sample, toAddress } from "./evidence.js";

const FINE = 112; // values along a side of the square: the map's cells are coarser by far
const MOST = 12; // times that the picture is enlarged
const BRUSH = 0.06; // radius of a patch, of the slice's longer side
const STEP = 0.04; // of the slice's longer side, by which an arrow key moves the brush

export let words, language; // of the page; the language is that of what is asked for it too
export function speak(page) {
  words = JSON.parse(page.querySelector("#words").textContent);
  language = document.documentElement.lang = page.documentElement.lang;
}
speak(document);
export const say = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const find = (selector) => document.querySelector(selector);
const answer = find("#answer");
const number = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toLocaleString(language, { minimumFractionDigits: 2, maximumFractionDigits: 2, useGrouping: false })}`;

let given = null; // what the maps are drawn from; null without scores
let size = [0, 0]; // width and height of the slice, px
let view = null; // part of the slice that is shown: x, y, width, height
let patches = []; // x, y, radius each, px of the slice
let brush = null; // where the keyboard's brush is
let askAgain = null; // what to ask about covered places
let shownScan = null; // the scan that the slice is of, whose slices are seen in one view; none for a slice alone
let asked = 0; // questions about covered places; only the last one's answer counts

// --- asking

// What asks further questions about one slice, which the request's options or `which` of the address name. Each gives
// the response, or null where there is none to be had.
export const asker = (options, which = {}) => async (question, places = []) => {
  const query = new URLSearchParams({ lang: language, ...which });
  for (const place of places) query.append("at", place);
  try {
    const response = await fetch(`${question}?${query}`, options);
    return response.ok ? response : null;
  } catch {
    return null;
  }
};

// An answer of many lines of JSON, so many at once as have come; who stops listening cancels the rest.
export async function* parts(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      yield lines.map(JSON.parse);
    }
  } finally {
    reader.cancel().catch(() => {}); // of what has failed already
  }
}

// --- what is shown

export const titles = () => [...answer.querySelectorAll(".row .title")].map((e) => e.textContent);
export const chosen = () => Number(find(".row input:checked")?.value ?? 0);
export const evidence = () => given;
const mode = () => find("[name=mode]:checked").value;
const other = () => Number(find("#other").value);
const isSigned = () => mode() !== "for";

function mapOf(index = chosen()) {
  return mode() === "instead" ? difference(given.maps[index], given.maps[other()]) : given.maps[index];
}

// The wash and its lines for one map; the square lies at `x y width height`.
function draw(map, top, signed, [x, y, width, height], cells) {
  const values = field(map, FINE, cells);
  const place = { x, y, width, height, preserveAspectRatio: "none" };
  const wash = element("image", { ...place, class: "wash", href: toAddress(paint(values, FINE, top, signed)) });
  if (cells) return [wash];
  const frame = element("svg", { ...place, viewBox: `0 0 ${FINE} ${FINE}`, class: "lines" });
  for (const sign of signed ? [1, -1] : [1]) {
    LEVELS.forEach((level, step) => {
      const d = line(values, FINE, sign * level * top);
      if (d) frame.append(element("path", { d, class: "casing" }), element("path", { d, class: `line ${sign > 0 ? "for" : "against"} step-${step}` }));
    });
  }
  return [wash, frame];
}

function drawLegend() {
  const signed = isSigned();
  const values = new Float32Array(256).map((_, at) => (signed ? at / 127.5 - 1 : at / 255));
  const legend = find("#legend");
  const wash = element("image", { width: 256, height: 30, preserveAspectRatio: "none", href: toAddress(paint(values, 256, 1, signed)) });
  const greys = ["#000", "#808080", "#e8e8e8"].map((fill, row) => element("rect", { y: 10 * row, width: 256, height: 10, fill }));
  const marks = LEVELS.flatMap((level, step) => (signed ? [1, -1] : [1]).flatMap((sign) => {
    const at = signed ? 128 + sign * level * 128 : level * 256;
    const d = `M${at} 0V30`;
    return [element("path", { d, class: "casing" }), element("path", { d, class: `line ${sign > 0 ? "for" : "against"} step-${step}` })];
  }));
  const map = element("g", { opacity: find("#opacity").value / 100 }); // wash and lines, as on the slice
  map.append(wash, ...marks);
  legend.replaceChildren(...greys, map);
  find("#low").textContent = signed ? words[mode()].low : words.for.low;
  find("#high").textContent = words[mode()].high;
}

const cents = (value) => Math.round(100 * value) / 100; // of what is read as a sum, so that it adds up as it stands there

function explain() {
  const [index, names] = [chosen(), titles()];
  const bias = mode() === "instead" ? given.bias[index] - given.bias[other()] : given.bias[index];
  const sum = mapOf().flat().reduce((a, b) => a + b, 0);
  find("#sum").textContent = isSigned()
    ? say(words[mode()].sum, { title: names[index], other: names[other()], sum: number(cents(sum + bias) - cents(bias)), bias: number(bias), total: number(sum + bias) })
    : "";
}

function redraw() {
  if (!given) return;
  const select = find("#other");
  if (Number(select.value) === chosen()) select.value = String((chosen() + 1) % given.maps.length);
  for (const option of select.options) option.disabled = Number(option.value) === chosen();
  select.disabled = mode() !== "instead";
  answer.querySelectorAll(".of").forEach((told, index) => (told.hidden = index !== chosen()));
  find("#maps").dataset.class = chosen();
  find("#maps").replaceChildren(...draw(mapOf(), given.top, isSigned(), given.square, find("#cells").checked));
  drawLegend();
  explain();
  promise();
}

function drawSmall() {
  const box = `0 0 ${size[0]} ${size[1]}`;
  answer.querySelectorAll(".small").forEach((small, index) => {
    small.setAttribute("viewBox", box);
    const [x, y, width, height] = given.square;
    const href = toAddress(paint(field(given.maps[index], 56), 56, given.top, false));
    small.replaceChildren(element("use", { href: "#untouched" }), element("image", { x, y, width, height, preserveAspectRatio: "none", href, opacity: 0.8 }));
  });
}

// --- zoom

function fit() {
  const [x, y, w, h] = (!shownScan && given?.square) || [0, 0, 0, 0];
  const [left, top] = [Math.min(0, x), Math.min(0, y)]; // with the bars that the network saw beside the slice
  view = [left, top, Math.max(size[0], x + w) - left, Math.max(size[1], y + h) - top];
  place();
}

function place() {
  for (const axis of [0, 1]) { // a middle that lies in the slice: nobody drags it out of sight
    const half = view[axis + 2] / 2;
    view[axis] = Math.min(Math.max(view[axis], -half), size[axis] - half);
  }
  const picture = find("svg.picture");
  picture?.setAttribute("viewBox", view.map((v) => Number(v.toFixed(2))).join(" "));
  picture?.classList.toggle("zoomed", isZoomed());
  answer.dispatchEvent(new CustomEvent("view", { detail: { view, size } }));
}

const isZoomed = () => view[2] < 0.99 * Math.max(size[0], (!shownScan && given?.square[2]) || 0);

function zoom(factor, [x, y]) {
  const whole = Math.max(...size);
  const wanted = Math.min(Math.max(view[2] / factor, whole / MOST), whole * 1.5);
  const scale = wanted / view[2];
  if (scale > 1 && wanted >= whole) return fit();
  view = [x - (x - view[0]) * scale, y - (y - view[1]) * scale, view[2] * scale, view[3] * scale];
  place();
}

const middle = () => [view[0] + view[2] / 2, view[1] + view[3] / 2];

function toSlice(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(find("svg.picture").getScreenCTM().inverse());
  return [point.x, point.y];
}

// --- the value under the pointer

function read([x, y]) {
  if (!given || answer.classList.contains("guessing")) return;
  const [left, top, width, height] = given.square;
  const [u, v] = [(x - left) / width, (y - top) / height];
  const seen = u >= 0 && u <= 1 && v >= 0 && v <= 1;
  const value = seen ? (find("#cells").checked ? cellOf : sample)(mapOf(), u, v) : 0;
  const share = Math.round((100 * value) / given.top);
  find("#reading").textContent = seen ? say(words.reading, { share: `${share}`.replace("-", "−"), value: number(value) }) : words.unseen;
}

// --- covered places

const isCovering = () => find("#cover")?.checked ?? false;

function drawPatches() {
  const discs = patches.map(([cx, cy, r]) => element("circle", { cx, cy, r, class: "patch" }));
  if (brush && isCovering()) discs.push(element("circle", { cx: brush[0], cy: brush[1], r: BRUSH * Math.max(...size), class: "brush" }));
  find("#patches")?.replaceChildren(...discs);
}

function add([x, y]) {
  patches.push([x, y, BRUSH * Math.max(...size)]);
  drawPatches();
}

function promise(again = null) {
  const [left, top, width, height] = given.square;
  const isCovered = (u, v) => patches.some(([x, y, r]) => Math.hypot(left + u * width - x, top + v * height - y) <= r);
  answer.querySelectorAll(".row .change").forEach((change, index) => {
    const promised = -inside(given.maps[index], isCovered);
    if (!patches.length) change.textContent = "";
    else if (again) change.textContent = say(words.changed, { was: number(again[index] - given.logits[index]), promised: number(promised) });
  });
}

async function cover() {
  const own = ++asked;
  find("#covered").textContent = words.asking;
  const places = patches.map((patch) => patch.map((value) => value.toFixed(1)).join(","));
  const given = await (await askAgain("cover", places))?.json();
  if (own !== asked || !find("#covered")) return;
  if (!given?.logits?.length) return void (find("#covered").textContent = words.not_asked);
  find("#covered").textContent = words.covered;
  promise(given.logits);
  answer.querySelectorAll(".row").forEach((row, index) => {
    row.querySelector(".number").textContent = given.shares[index];
    row.querySelector(".value").setAttribute("width", widthOf(given.shares[index]));
  });
}

const widthOf = (text) => parseFloat(text.replace(/[^\d.]/g, "")) || 0;

function uncover() {
  asked += 1;
  [patches, brush] = [[], null];
  drawPatches();
  if (!given) return;
  find("#covered").textContent = "";
  promise();
  answer.querySelectorAll(".row").forEach((row) => {
    row.querySelector(".number").textContent = row.dataset.share;
    row.querySelector(".value").setAttribute("width", row.querySelector(".ghost").getAttribute("width"));
  });
}

// --- whether the answer survives small changes of the slice

async function check() {
  const [box, own] = [find("#checks"), given];
  const [sum, list] = [make("p", { role: "status" }, words.checking), make("ul")];
  const progress = make("progress", { max: Number(box.dataset.changes), value: 0 });
  box.replaceChildren(sum, progress, list);
  let same = 0;
  const response = await askAgain("check");
  for await (const steps of response ? parts(response) : []) {
    if (own !== given) return;
    for (const step of steps) {
      progress.value += 1;
      same += step.same;
      list.append(make("li", { className: step.same ? "same" : "other" }, say(words.pair, step)));
    }
  }
  if (own !== given) return;
  progress.hidden = true;
  sum.textContent = progress.value ? say(words.checked, { same, all: progress.value }) : words.not_checked;
}

// --- a new answer

export function show(ask) {
  const data = find("#evidence");
  given = data ? JSON.parse(data.textContent) : null;
  askAgain = ask;
  [patches, brush] = [[], null];
  const picture = find("svg.picture");
  if (!picture) return;
  size = picture.dataset.size.split(" ").map(Number);
  const same = shownScan && shownScan === answer.dataset.scan;
  shownScan = answer.dataset.scan;
  if (same) place();
  else fit();
  if (!given) return;
  drawSmall();
  redraw();
}

function toggleFullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else answer.requestFullscreen?.();
}

const held = new Map(); // pointers that are down: id -> place on the screen
let moved = false;

answer.addEventListener("pointerdown", (event) => {
  if (!event.target.closest("svg.picture") || !view) return;
  held.set(event.pointerId, [event.clientX, event.clientY]);
  moved = false;
  if (given && isCovering() && held.size === 1) add(toSlice(event));
  else if (isZoomed() || held.size > 1) event.preventDefault();
});

answer.addEventListener("pointermove", (event) => {
  if (!event.target.closest?.("svg.picture") || !view) return;
  const before = held.get(event.pointerId);
  const now = [event.clientX, event.clientY];
  if (!before) return read(toSlice(event));
  const scale = 1 / find("svg.picture").getScreenCTM().a;
  const rest = [...held].find(([id]) => id !== event.pointerId)?.[1];
  if (rest) {
    const apart = (p) => Math.hypot(p[0] - rest[0], p[1] - rest[1]);
    if (apart(before)) zoom(apart(now) / apart(before), toSlice({ clientX: (now[0] + rest[0]) / 2, clientY: (now[1] + rest[1]) / 2 }));
  } else if (given && isCovering()) {
    const [x, y] = toSlice(event);
    const last = patches.at(-1);
    if (last && patches.length < 150 && Math.hypot(x - last[0], y - last[1]) > last[2] / 2) add([x, y]);
  } else if (isZoomed()) {
    view = [view[0] - (now[0] - before[0]) * scale, view[1] - (now[1] - before[1]) * scale, view[2], view[3]];
    place();
  }
  moved = true;
  held.set(event.pointerId, now);
});

for (const type of ["pointerup", "pointercancel"]) {
  addEventListener(type, (event) => {
    if (!held.delete(event.pointerId) || held.size) return;
    if (given && isCovering() && patches.length) cover();
    else if (!moved && event.target.closest?.("svg.picture")) read(toSlice(event));
  });
}

answer.addEventListener("wheel", (event) => {
  if (!event.target.closest("svg.picture") || !view) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), toSlice(event));
}, { passive: false });

answer.addEventListener("dblclick", (event) => event.target.closest("svg.picture") && !isCovering() && fit());

answer.addEventListener("input", (event) => {
  const name = event.target.id || event.target.name;
  if (name === "opacity") {
    find("#maps").setAttribute("opacity", event.target.value / 100);
    find("output[for=opacity]").textContent = say(words.percent, { share: event.target.value });
    drawLegend();
  } else if (name === "cover") {
    find("svg.picture").classList.toggle("covering", isCovering());
    drawPatches();
  } else if (["class", "mode", "other", "cells"].includes(name)) redraw();
});

answer.addEventListener("click", (event) => {
  const action = event.target.closest("[data-do]")?.dataset.do;
  if (action === "full") toggleFullScreen();
  else if (action === "fit") fit();
  else if (action === "in" || action === "out") zoom(action === "in" ? 1.5 : 1 / 1.5, middle());
  else if (action === "uncover") {
    uncover();
    find("#cover").focus({ preventScroll: true }); // the button may be gone
  }
  else if (action === "check") check();
});

export function press(selector) {
  const control = find(selector);
  if (control?.checkVisibility()) control.click(); // while a guess is asked for most are out of sight
}

// One letter each; none while something is typed or a browser's own shortcut is meant.
export const keys = {
  f: toggleFullScreen,
  "+": () => view && zoom(1.5, middle()),
  "-": () => view && zoom(1 / 1.5, middle()),
  0: () => view && fit(),
  c: () => press("#cover"),
  o: () => press("#outlined"),
};
for (const digit of [1, 2, 3, 4]) keys[digit] = () => press(`.guesses button:nth-of-type(${digit}), .row input[value="${digit - 1}"]`);

answer.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!event.target.closest(".room") || !given || !isCovering() || !(way || event.key === "Enter")) return;
  event.preventDefault();
  brush ??= middle();
  if (way) brush = brush.map((value, axis) => value + way[axis] * STEP * Math.max(...size));
  else {
    add(brush);
    cover();
  }
  drawPatches();
  read(brush);
});
