// What a visitor may take away: a picture, a report or the numbers, made in the browser, without a name in them.
import { make } from "./elements.js";
import { chosen, evidence, titles, words } from "./picture.js";

const find = (selector) => document.querySelector(selector);
const WIDTH = 1024; // px of a kept picture
const STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}img{width:100%}caption{text-align:left;font-weight:bold}td{padding:.2rem 1.5rem .2rem 0}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.75rem}";
const FOOT = 110; // px below it, for scale, class, what is said and disclaimer
const STYLED = ["display", "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "paint-order", "opacity", "vector-effect", "font-family", "font-weight", "text-anchor"];

function load(address) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.src = address;
  });
}

async function toData(address) {
  const image = await load(address);
  const canvas = make("canvas", { width: image.width, height: image.height });
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}

// A drawing of the page as an image of its own: styles become attributes, and no picture in it has an address.
async function freeze(drawing, width, height, viewBox = drawing.getAttribute("viewBox")) {
  const copy = drawing.cloneNode(true);
  const copies = [copy, ...copy.querySelectorAll("*")];
  for (const [at, element] of [drawing, ...drawing.querySelectorAll("*")].entries()) {
    const style = getComputedStyle(element);
    for (const name of STYLED) copies[at].setAttribute(name, style.getPropertyValue(name));
  }
  for (const hidden of copy.querySelectorAll("defs")) hidden.replaceWith(...hidden.childNodes); // a scan's slice
  for (const image of copy.querySelectorAll("image")) image.setAttribute("href", await toData(image.getAttribute("href")));
  for (const [name, value] of Object.entries({ width, height, viewBox })) copy.setAttribute(name, value);
  return load(`data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`);
}

// The picture as it is drawn, without the zoom, as a canvas with what is said, scale, class and disclaimer burned in.
async function drawPicture() {
  const svg = find("svg.picture");
  const [width, height] = svg.dataset.size.split(" ").map(Number);
  const tall = Math.round((height * WIDTH) / width);
  const canvas = make("canvas", { width: WIDTH, height: tall + FOOT });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(await freeze(svg, WIDTH, tall, `0 0 ${width} ${height}`), 0, 0);
  context.drawImage(await freeze(find("#legend"), 256, 30), 20, tall + 18);
  const other = find("#other");
  const instead = other.disabled ? "" : `${find("[name=mode]:checked + span").textContent} ${other.selectedOptions[0].text} · `;
  const shown = `${titles()[chosen()]} ${find(".row:has(:checked) .number").textContent} · ${instead}`;
  context.fillStyle = "#fff";
  context.font = "20px system-ui, sans-serif";
  context.fillText(`${shown}${find("#low").textContent} … ${find("#high").textContent}`, 296, tall + 41, WIDTH - 316);
  context.font = "17px system-ui, sans-serif";
  context.fillText(find(".said h2").innerText, 20, tall + 74, WIDTH - 40);
  context.fillText(`${find(".strip").textContent} ${evidence().answer.model_id}`, 20, tall + 98, WIDTH - 40);
  return canvas;
}

export function save(blob, ending) {
  const link = make("a", { href: URL.createObjectURL(blob), download: `ctscan.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const numbers = () => {
  const { answer, version, maps, bias, logits, top, square } = evidence();
  return { disclaimer: find(".strip").textContent, ctscan: version, ...answer, logits, bias, maps, map_scale_top: top, square_in_slice_pixels: square };
};

async function report() {
  const page = document.implementation.createHTMLDocument("ctscan");
  page.documentElement.lang = document.documentElement.lang;
  page.head.append(Object.assign(page.createElement("meta"), { name: "viewport", content: "width=device-width" }));
  const add = (name, text) => page.body.appendChild(Object.assign(page.createElement(name), { textContent: text }));
  add("h1", words.report);
  add("p", find(".strip").textContent);
  add("h2", find(".said h2").textContent);
  for (const said of document.querySelectorAll(".said p:not(.origin)")) add("p", said.textContent);
  const table = add("table", "");
  table.createCaption().textContent = find(".rows legend").textContent;
  for (const row of document.querySelectorAll(".row")) {
    const cells = table.insertRow();
    for (const part of [".title", ".number", ".change"]) cells.insertCell().textContent = row.querySelector(part).textContent;
  }
  add("p", find("#covered").textContent);
  page.body.append(Object.assign(page.createElement("img"), { src: (await drawPicture()).toDataURL(), alt: find("svg.picture").getAttribute("aria-label") }));
  add("p", find(".of:not([hidden])")?.innerText ?? "");
  add("h2", words.report_numbers);
  add("pre", JSON.stringify(numbers()));
  // The page's own policy allows no inline style, so the report gets its own as text.
  return `<!doctype html>${page.documentElement.outerHTML.replace("</head>", `<style>${STYLE}</style></head>`)}`;
}

export async function keep(kind) {
  if (kind === "json") save(new Blob([JSON.stringify(numbers(), null, 1)], { type: "application/json" }), "json");
  else if (kind === "html") save(new Blob([await report()], { type: "text/html" }), "html");
  else (await drawPicture()).toBlob((blob) => save(blob, "png"));
}
