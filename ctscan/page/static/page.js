// Asks the server about slices and puts its answers, which are HTML, in place of the last one.
import { guess, isGuessing } from "./guess.js";
import { asker, keys, language, press, say, show as showPicture, words } from "./picture.js";
import { keep } from "./keep.js";
import { close, open as openScan, pack } from "./series.js";
import { list } from "./several.js";
import * as visit from "./visit.js";
import "./language.js";

const find = (selector) => document.querySelector(selector);
const answer = find("#answer");
const file = find("#file");
const limit = Number(document.body.dataset.limit); // bytes, as the server's
const scanLimit = Number(document.body.dataset.scanLimit);
const PATIENCE = 150; // ms until the page says that it is working
const MOST = 20; // slices of one list
let asking = null; // the question under way; a new one, or Clear, takes its place
let again = null; // what asks for the answer that is shown once more, and for the table above it
let listAgain = null;

// --- the answer

function show(state, html, ask = null) {
  const used = document.activeElement.closest("#answer [data-do]")?.dataset.do;
  answer.dataset.state = state;
  answer.innerHTML = html;
  if (used) find(`[data-do="${used}"]`)?.focus({ preventScroll: true }); // the button that had the focus is gone
  answer.removeAttribute("aria-busy");
  showPicture(ask);
  guess(answer);
  find("#live").textContent = isGuessing() ? words.guess : find("[data-headline]").innerText;
  const { top } = answer.getBoundingClientRect();
  if (top > innerHeight / 2 || (top < 0 && !answer.dataset.scan)) answer.scrollIntoView(); // on a phone, below the fold
}

function mark(example, slice = null) {
  visit.mark(slice);
  for (const button of document.querySelectorAll(".example")) button.ariaCurrent = button.dataset.example === example ? "true" : null;
}

function stop(note = "") {
  asking?.abort();
  asking = null;
  find("#note").textContent = note;
  find("#several").replaceChildren();
  listAgain = null;
}

function fail(reason) {
  mark(null); // not even an example is shown
  show("failed", find(`#not-${reason}`).innerHTML);
}

function reasonOf(response) {
  const stated = response.headers.get("ctscan-reason"); // a proxy's own refusals have none
  return find(`#not-${stated}`) ? stated : response.status === 413 ? "large" : "failed";
}

// As fetch, for what is long under way: it says how much has been sent.
function send(address, { method, body, headers, signal }) {
  const usual = answer.dataset.working;
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.open(method, address);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => {
      answer.dataset.working = loaded < total ? say(words.sending, { share: Math.floor((100 * loaded) / total) }) : words.sent;
      answer.style.setProperty("--sent", loaded / total);
    };
    const reason = () => request.getResponseHeader("ctscan-reason") ?? "";
    request.onload = () => resolve(new Response(request.response, { status: request.status, headers: { "ctscan-reason": reason() } }));
    request.onerror = request.onabort = () => reject(new TypeError("not sent"));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  }).finally(() => {
    answer.dataset.working = usual;
    answer.style.removeProperty("--sent");
  });
}

const post = (slice) => ({ method: "POST", body: slice, headers: { "content-type": "application/octet-stream" } });

async function ask(address, options, askAgain, travel = fetch) {
  const own = (asking = new AbortController());
  const timer = setTimeout(() => answer.setAttribute("aria-busy", "true"), PATIENCE);
  try {
    const response = await travel(address, { ...options, signal: own.signal });
    const given = response.ok ? await response.json() : null;
    if (own !== asking) return null;
    if (given?.html) show(given.state, given.html, askAgain);
    else if (!given) fail(reasonOf(response));
    return given;
  } catch (error) {
    if (own === asking) fail(error instanceof SyntaxError ? "failed" : "offline");
  } finally {
    clearTimeout(timer);
  }
  return null;
}

const aboutExample = (number) => asker({ method: "POST" }, { example: number });

// What was shown so far is no longer, and the address names no example.
function leave() {
  close();
  mark(null);
  history.replaceState(null, "", location.pathname + location.search);
}

function askAboutSlice(slice, known = null) {
  leave();
  answerSlice(slice, known);
}

// Its answer may be known from before.
async function answerSlice(slice, known = null) {
  again = () => answerSlice(slice);
  if (slice.size > limit) return fail("large");
  if (known) show(known.state, known.html, asker(post(slice)));
  const given = known ?? (await ask(`answer?lang=${language}`, post(slice), asker(post(slice))));
  if (given?.html) visit.remember(slice, given, openAgain);
  return undefined;
}

function openAgain(slice, known) {
  stop();
  askAboutSlice(slice, known);
}

function askAboutExample(number) {
  close();
  mark(number);
  again = () => askAboutExample(number).then(chooseClass);
  return ask(`example/${number}?lang=${language}`, {}, aboutExample(number));
}

async function askAbout(files) {
  if (!files.length) return;
  if (find("[data-section=slice]").hidden) location.hash = "slice";
  stop();
  close();
  const own = (asking = new AbortController());
  const slices = files.map((one) => one.slice()); // without their names
  const scan = await pack(slices);
  if (own === asking && scan) leave();
  if (own !== asking || (scan && (await askAboutScan(scan, slices)))) return;
  if (slices.length === 1) return void askAboutSlice(slices[0]);
  stop(slices.length > MOST ? say(words.too_many, { most: MOST }) : "");
  askAboutSlice(slices[0]); // not the last answer above a table of others
  listAgain = () => list(find("#several"), slices.slice(0, MOST), limit, post, (slice) => askAboutSlice(slice));
  listAgain();
  find("#several").scrollIntoView({ block: "nearest" });
}

// Whether that was all: several files that make no scan are still to be asked about one by one.
async function askAboutScan(scan, slices) {
  again = () => askAboutScan(scan, slices);
  if (scan.size > scanLimit) return fail("large_series") ?? true;
  const given = await ask(`series?lang=${language}`, post(scan), asker(post(scan)), send);
  if (given?.scan) openScan(given, { ask, fail, show, stop });
  if (given?.scan) again = null; // it asks by itself
  return !given?.html || slices.length === 1;
}

// --- ways in

file.addEventListener("change", () => {
  askAbout([...file.files]);
  file.value = ""; // or the name would stay in the page
});

for (const type of ["dragover", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault(); // or the browser leaves the page for the file
    document.body.classList.toggle("dropping", type === "dragover");
    if (type === "drop") askAbout([...event.dataTransfer.files]);
  });
}
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("paste", (event) => askAbout([...(event.clipboardData?.files ?? [])]));

find(".examples")?.addEventListener("click", (event) => {
  const button = event.target.closest(".example");
  if (!button) return;
  stop();
  const address = `#example=${Number(button.dataset.example) + 1}`;
  history[location.hash === address ? "replaceState" : "pushState"](null, "", address);
  askAboutExample(button.dataset.example);
});

function empty() {
  again = empty;
  show("empty", find("#empty").innerHTML);
}

find("#clear").addEventListener("click", () => {
  stop();
  leave();
  visit.forget();
  empty();
});

document.addEventListener("language", () => {
  asking?.abort();
  find("#note").textContent = "";
  again?.();
  listAgain?.();
});

find("#guess").addEventListener("change", () => guess(answer));

answer.addEventListener("click", (event) => {
  const { keep: kind, do: action } = event.target.closest("[data-keep], [data-do]")?.dataset ?? {};
  if (kind) keep(kind);
  else if (action === "previous" || action === "next") step(action === "next" ? 1 : -1);
});

// From one example, or slice of this visit, to the next, round and round.
function step(by) {
  const all = [...document.querySelectorAll(".example, .seen-before")];
  const now = all.findIndex((button) => button.hasAttribute("aria-current"));
  all[(Math.max(now, by < 0 ? 0 : -1) + by + all.length) % all.length]?.click();
}

answer.addEventListener("change", (event) => {
  const shown = new URLSearchParams(location.hash.slice(1)).get("example");
  if (event.target.name === "class" && shown)
    history.replaceState(null, "", `#example=${shown}&class=${event.target.dataset.key}`);
});

// --- keys

const HELD = 350; // ms: a key that is down longer was held, and what it did is undone when it is let go
const STEPS = { arrowleft: -1, arrowright: 1 };
let pressed = 0;

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input[type=text], select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !find("#keys").checked) return;
  const key = event.key.toLowerCase();
  if (find("[data-section=slice]").hidden) return;
  if (key === "m") {
    pressed = event.timeStamp;
    press("#shown");
  } else if (key === "g") find("#guess").click();
  else if (key in STEPS) {
    const busy = event.target.closest("input") || answer.dataset.scan || find("#cover")?.checked; // they use arrows themselves
    if (document.fullscreenElement && !busy) step(STEPS[key]);
  } else keys[key]?.();
});

addEventListener("keyup", (event) => {
  if (event.key.toLowerCase() === "m" && pressed && event.timeStamp - pressed > HELD) press("#shown");
  pressed = 0;
});

// --- addresses: a section, or an example with a class; without this script all sections are shown, one below the other

function turn() {
  const wanted = location.hash.slice(1);
  const sections = [...document.querySelectorAll("[data-section]")];
  const current = sections.find((section) => section.dataset.section === wanted) ?? sections[0];
  for (const section of sections) section.hidden = section !== current;
  for (const link of document.querySelectorAll("nav a")) link.ariaCurrent = link.hash.slice(1) === current.dataset.section ? "page" : null;
  scrollTo(0, 0);
}

function chooseClass() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("class") ?? "";
  find(`.row input[data-key="${CSS.escape(wanted)}"]`)?.click();
}

async function open() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const first = !location.hash && find(".example[aria-current]") ? 1 : 0; // the first screen has no other address
  const button = find(`.example[data-example="${Number(wanted.get("example") ?? first) - 1}"]`);
  if (!button) return;
  if (!button.hasAttribute("aria-current")) await askAboutExample(button.dataset.example);
  chooseClass();
}

addEventListener("hashchange", () => {
  turn();
  open();
});
// The picture ends with the screen, however many lines stand above it.
new ResizeObserver(() => {
  const desk = find(".desk");
  if (desk.offsetParent) document.documentElement.style.setProperty("--above", `${desk.offsetTop}px`);
}).observe(document.body);
turn();
again = find(".example[aria-current]") ? () => askAboutExample("0").then(chooseClass) : empty;
showPicture(aboutExample(0));
open();
