// What a visitor may take away: a picture, a report or the numbers, made in the browser, without a name in them.
import { chosen, evidence, titles, words } from "./picture.js";

const find = (selector) => document.querySelector(selector);
const WIDTH = 1024; // px of a kept picture
const STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}img{width:100%}td{padding:.2rem 1.5rem .2rem 0}pre{white-space:pre-wrap;font-size:.75rem}";
const FOOT = 110; // px below it, for scale, class and disclaimer

function load(address) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.src = address;
  });
}

// The picture as it is drawn, without the zoom, as a canvas with scale, class and disclaimer burned in.
async function drawPicture() {
  const svg = find("svg.picture");
  const [width, height] = svg.dataset.size.split(" ").map(Number);
  const scale = WIDTH / width;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [WIDTH, Math.round(height * scale) + FOOT];
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.save();
  context.beginPath();
  context.rect(0, 0, WIDTH, height * scale);
  context.clip();
  context.drawImage(await load(find("#untouched").getAttribute("href")), 0, 0, WIDTH, height * scale);
  const wash = find("#maps .wash");
  const [x, y, w, h] = evidence().square.map((value) => value * scale);
  if (find("#shown").checked) {
    context.globalAlpha = find("#opacity").value / 100;
    context.drawImage(await load(wash.getAttribute("href")), x, y, w, h);
    context.globalAlpha = 1;
    const lines = find("#maps .lines");
    if (lines) {
      const fine = lines.viewBox.baseVal.width;
      context.setTransform(w / fine, 0, 0, h / fine, x, y);
      for (const path of lines.querySelectorAll("path")) {
        const style = getComputedStyle(path);
        context.strokeStyle = style.stroke;
        context.lineWidth = (parseFloat(style.strokeWidth) * fine) / w;
        context.stroke(new Path2D(path.getAttribute("d")));
      }
    }
  }
  context.restore();
  const foot = height * scale;
  const legend = new XMLSerializer().serializeToString(find("#legend"));
  const bar = await load(`data:image/svg+xml,${encodeURIComponent(legend.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"').replace(/xmlns="[^"]*" xmlns=/, "xmlns="))}`);
  context.drawImage(bar, 20, foot + 18, 256, 30);
  context.fillStyle = "#fff";
  context.font = "20px system-ui, sans-serif";
  const number = find(".row:has(:checked) .number").textContent;
  context.fillText(`${titles()[chosen()]} ${number} · ${find("#low").textContent} … ${find("#high").textContent}`, 296, foot + 41, WIDTH - 316);
  context.font = "17px system-ui, sans-serif";
  context.fillText(find(".strip").textContent, 20, foot + 78);
  context.fillText(evidence().answer.model_id, 20, foot + 101);
  return canvas;
}

function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `ctscan.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const numbers = () => {
  const { answer, maps, bias, logits, top, square } = evidence();
  return { disclaimer: find(".strip").textContent, ...answer, logits, bias, maps, map_scale_top: top, square_in_slice_pixels: square };
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
  for (const row of document.querySelectorAll(".row")) {
    const cells = table.insertRow();
    cells.insertCell().textContent = row.querySelector(".title").textContent;
    cells.insertCell().textContent = row.querySelector(".number").textContent;
  }
  page.body.append(Object.assign(page.createElement("img"), { src: (await drawPicture()).toDataURL(), alt: find("svg.picture").getAttribute("aria-label") }));
  add("p", document.querySelector(".of.chosen")?.textContent ?? "");
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
