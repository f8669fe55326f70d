// Asks the server about a slice and puts its answer, which is HTML, in place of the last one.
const find = (selector) => document.querySelector(selector);
const answer = find("#answer");
const file = find("#file");
const limit = Number(document.body.dataset.limit); // bytes, as the server's
const PATIENCE = 150; // ms until the page says that it is working
let asking = null; // the question under way; a new one, or Clear, takes its place

function show(state, html) {
  answer.dataset.state = state;
  answer.innerHTML = html;
  answer.removeAttribute("aria-busy");
  find("#live").textContent = find("[data-headline]").innerText;
}

function mark(example) {
  for (const button of document.querySelectorAll(".example")) {
    if (button.dataset.example === example) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function stop(note = "") {
  asking?.abort();
  asking = null;
  find("#note").textContent = note;
}

const fail = (reason) => show("failed", find(`#not-${reason}`).innerHTML);

function reasonOf(response) {
  const stated = response.headers.get("ctscan-reason"); // a proxy's own refusals have none
  return find(`#not-${stated}`) ? stated : response.status === 413 ? "large" : "failed";
}

async function ask(address, options = {}) {
  const own = (asking = new AbortController());
  const timer = setTimeout(() => answer.setAttribute("aria-busy", "true"), PATIENCE);
  try {
    const response = await fetch(address, { ...options, signal: own.signal });
    const given = response.ok ? await response.json() : null;
    if (own !== asking) return;
    if (given) show(given.state, given.html);
    else fail(reasonOf(response));
  } catch (error) {
    if (own === asking) fail(error instanceof SyntaxError ? "failed" : "offline");
  } finally {
    clearTimeout(timer);
  }
}

function askAbout(files) {
  if (!files.length) return;
  if (location.hash && location.hash !== "#slice") location.hash = "slice";
  stop(files.length > 1 ? find("#note").dataset.several : "");
  mark(null);
  if (files[0].size > limit) fail("large");
  else ask("answer", { method: "POST", body: files[0].slice(), headers: { "content-type": "application/octet-stream" } });
}

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
  mark(button.dataset.example);
  ask(`example/${button.dataset.example}`);
});

find("#clear").addEventListener("click", () => {
  stop();
  mark(null);
  show("empty", find("#empty").innerHTML);
});

answer.addEventListener("input", (event) => {
  if (event.target.id === "opacity") {
    find("#maps").setAttribute("opacity", event.target.value / 100);
    for (const bar of answer.querySelectorAll(".bar img")) bar.style.opacity = event.target.value / 100;
    find("output[for=opacity]").textContent = `${event.target.value} %`;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "m" || event.ctrlKey || event.metaKey || event.altKey) return;
  const shown = find("#shown");
  if (shown) shown.checked = !shown.checked;
});

// Sections have addresses; without this script all of them are shown, one below the other.
function turn() {
  const wanted = location.hash.slice(1);
  const sections = [...document.querySelectorAll("[data-section]")];
  const current = sections.find((section) => section.dataset.section === wanted) ?? sections[0];
  for (const section of sections) section.hidden = section !== current;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash.slice(1) === current.dataset.section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
}
addEventListener("hashchange", turn);
turn();
