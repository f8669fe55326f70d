// The four scores of all slices of a scan as lines along the body. Pure but for the chart that it fills.
import { element } from "./elements.js";

// Lengths are sixteenths of a rem, so that a chart grows with the letters.
const TALL = 150, LEFT = 61, RIGHT = 61, TOP = 8, FOOT = 22; // the chart and its edges; left and right as the slider's
const MARKED = 5; // slices between two marks of a line
const NOTCH = 40; // px of wheel for one slice: less than a mouse's notch, some of a trackpad's
const MARKS = 8; // about so many millimetre marks, in steps of 10, 50 or 100
const DOTS = [(x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0-8 0`, (x, y) => `M${x - 3.5} ${y - 3.5}h7v7h-7z`,
  (x, y) => `M${x} ${y - 4.5}l4.5 8h-9z`, (x, y) => `M${x} ${y - 5}l5 5l-5 5l-5-5z`];

const unit = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / 16; // px

export function percent(share) {
  const rounded = Math.round(100 * share);
  return `${rounded === 0 ? "<1" : rounded === 100 ? ">99" : rounded}\u00a0%`;
}

// `readings` has one entry a slice, empty where nothing was asked yet; `length` is that of the scan in mm, 0 if unknown.
// Gives slice -> where it lies, or nothing while the chart is not shown.
export function draw(chart, { readings, classes, length = 0, marked = [] }) {
  const wide = chart.clientWidth / unit();
  if (!wide) return null;
  const last = readings.length - 1;
  const scale = (wide - LEFT - RIGHT) / last, high = TALL - TOP - FOOT;
  const across = (index) => LEFT + index * scale;
  const down = (share) => TOP + (1 - share) * high;
  const parts = [];
  const label = (x, y, kind, text) => {
    const made = element("text", { x, y, class: kind });
    made.textContent = text;
    parts.push(made);
  };
  chart.setAttribute("viewBox", `0 0 ${wide} ${TALL}`);
  for (const index of marked) {
    parts.push(element("rect", { class: "lesion", x: across(index - 0.5), y: TOP, width: scale, height: high }));
  }
  for (const share of [0, 0.5, 1]) {
    parts.push(element("path", { class: "grid", d: `M${LEFT} ${down(share)}H${wide - RIGHT}` }));
    label(LEFT - 8, down(share) + 4, "end", `${100 * share}\u00a0%`);
  }
  const step = [10, 50, 100].find((mm) => length / mm <= MARKS) ?? 200;
  for (let mm = 0; length && mm <= length; mm += step) {
    const at = across((mm / length) * last);
    parts.push(element("path", { class: "grid", d: `M${at} ${TOP + high}v4` }));
    label(at, TALL - 3, "middle", mm || "0\u00a0mm");
  }
  for (const number of classes.keys()) {
    const lines = { ok: "", unusual: "" };
    let dots = "", faded = "";
    for (const [index, reading] of readings.entries()) {
      if (!reading?.probabilities) continue;
      const at = `${across(index)} ${down(reading.probabilities[number])}`;
      const before = readings[index - 1]?.probabilities, after = readings[index + 1]?.probabilities;
      if (before) {
        const kind = reading.verdict === "ok" && readings[index - 1].verdict === "ok" ? "ok" : "unusual";
        lines[kind] += `M${across(index - 1)} ${down(before[number])}L${at}`;
      }
      const alone = !before && !after;
      if (alone || (index + number) % MARKED === 0) {
        const dot = DOTS[number](across(index), down(reading.probabilities[number]));
        if (reading.verdict === "ok") dots += dot;
        else faded += dot;
      }
    }
    const group = element("g", { class: `class-${number}` });
    group.append(element("path", { class: "line", d: lines.ok }), element("path", { class: "line unusual", d: lines.unusual }),
      element("path", { class: "dot", d: dots }), element("path", { class: "dot unusual", d: faded }));
    parts.push(group);
  }
  parts.push(element("path", { class: "cursor" }));
  chart.replaceChildren(...parts);
  return across;
}

export function moveCursor(chart, at) {
  chart.querySelector(".cursor")?.setAttribute("d", `M${at} ${TOP - 6}V${TALL - FOOT + 5}`);
}

// The marks of a legend's lines.
export function drawLegend(legend) {
  legend?.querySelectorAll(".dot").forEach((dot, number) => dot.setAttribute("d", DOTS[number](17, 7)));
}

// How many slices got which verdict, by the names of the chart's sentence.
export function tally(readings) {
  const count = (verdict) => readings.filter((reading) => reading?.verdict === verdict).length;
  return { answered: count("ok"), unusual: count("unusual"), refused: count("refused"), gaps: count("unreadable") };
}

// Going from slice to slice by the wheel over a place, for what is wanted. With Ctrl or ⌘ it zooms, sideways it goes back.
export function onWheel(place, isWanted, step) {
  let turned = 0;
  place.addEventListener("wheel", (event) => {
    if (!isWanted(event) || event.ctrlKey || event.metaKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
    event.preventDefault();
    event.stopPropagation();
    turned += event.deltaY * (event.deltaMode ? NOTCH : 1);
    if (Math.abs(turned) < NOTCH) return;
    step(-Math.sign(turned)); // as in a reading room: down is towards the feet
    turned = 0;
  }, { passive: false, capture: true });
}

// Going to the slice under the pointer; `across` is what `draw` gave last.
export function follow(chart, across, go) {
  chart.addEventListener("pointerdown", (event) => chart.setPointerCapture(event.pointerId));
  for (const type of ["pointerdown", "pointermove"]) {
    chart.addEventListener(type, (event) => {
      if (!event.buttons || !across()) return;
      const at = (event.clientX - chart.getBoundingClientRect().left) / unit();
      go(Math.round((at - across()(0)) / (across()(1) - across()(0))));
    });
  }
}
