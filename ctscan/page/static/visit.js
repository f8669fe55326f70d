// The last slices of this visit, in this page's memory alone: a thumbnail shows its answer again.
import { make } from "./elements.js";
import { language, say, words } from "./picture.js";

const MOST = 6;
const box = document.querySelector("#visit");
let count = 0;

function name(button) {
  button.title = button.ariaLabel = say(words.several_slice, { number: button.dataset.number });
}

// `open` is given what `remember` was, and whether its answer is in the page's language.
export function remember(slice, given, open) {
  const picture = new DOMParser().parseFromString(given.html, "text/html").querySelector("#untouched")?.getAttribute("href");
  if (!picture) return;
  const known = [...box.children].find((button) => button.slice === slice);
  const button = known ?? make("button", { type: "button", className: "seen-before", slice });
  button.dataset.number ??= ++count;
  button.replaceChildren(make("img", { src: picture, alt: "", width: 44, height: 44 }));
  name(button);
  const spoken = language;
  button.onclick = () => open(slice, spoken === language ? given : null);
  if (!known) box.append(button);
  if (box.children.length > MOST) box.firstChild.remove();
  box.hidden = false;
  mark(slice);
}

export function mark(slice) {
  for (const button of box.children) button.ariaCurrent = button.slice === slice ? "true" : null;
}

export function forget() {
  box.replaceChildren();
  box.hidden = true;
}

document.addEventListener("language", () => [...box.children].forEach(name));
