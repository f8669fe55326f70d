// Another language in the same visit: the page that is shown gets the other one's words, and keeps all else.
import { language, speak } from "./picture.js";

const WORDED = ["alt", "aria-label", "data-reasons", "data-strip", "data-words", "data-working", "href", "hreflang", "lang", "title"];
const OWN = ["answer", "visit"]; // scripts see to what is in them
const PARTS = "header, main > section, footer";
const first = language; // of an address that names none
let asked = 0;

const within = (element) => (element.localName === "template" ? element.content : element);

// Both are made from the same template; where they differ, then by what a script has drawn, which it draws again.
function reword(shown, other) {
  for (const name of WORDED) if (other.hasAttribute(name)) shown.setAttribute(name, other.getAttribute(name));
  if (OWN.includes(shown.id)) return;
  const [old, fresh] = [shown, other].map((element) => [...within(element).childNodes]);
  if (old.length !== fresh.length || old.some((node, at) => node.nodeName !== fresh[at].nodeName)) return void within(shown).replaceChildren(...fresh);
  old.forEach((node, at) => {
    if (node.nodeType === Node.ELEMENT_NODE) reword(node, fresh[at]);
    else node.nodeValue = fresh[at].nodeValue;
  });
}

// What has drawn or said something listens for the event "language" of the document.
async function turnTo(address) {
  const own = ++asked;
  try {
    const response = await fetch(address);
    if (!response.ok) throw new Error(response.status);
    const other = new DOMParser().parseFromString(await response.text(), "text/html");
    if (own !== asked) return;
    const parts = other.querySelectorAll(PARTS);
    document.querySelectorAll(PARTS).forEach((part, at) => reword(part, parts[at]));
    document.title = other.title;
    document.querySelector("footer").hidden = other.querySelector("footer").hidden;
    speak(other);
    document.dispatchEvent(new Event("language"));
  } catch {
    if (own !== asked) return; // else what is shown stays, in its language
    history.replaceState(null, "", `?lang=${language}${location.hash}`);
    document.querySelector("#note").textContent = document.querySelector("#not-offline").content.querySelector(".notice").textContent;
  }
}

const menu = document.querySelector(".languages");
menu.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link) return;
  link.hash = location.hash; // the same section, or example
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  menu.open = false;
  menu.querySelector("summary").focus();
  turnTo(location.href);
});
menu.addEventListener("auxclick", (event) => {
  const link = event.target.closest("a");
  if (link) link.hash = location.hash;
});
for (const type of ["click", "focusin"]) {
  document.addEventListener(type, (event) => event.target.closest(".languages") || (menu.open = false));
}
addEventListener("popstate", () => {
  const wanted = new URLSearchParams(location.search).get("lang") ?? first;
  if (wanted !== language) turnTo(`?lang=${wanted}`);
});
