// Several slices, one after the other: a table of verdicts, and the same as CSV. Slices are named by their order alone.
import { make } from "./elements.js";
import { save } from "./keep.js";
import { language, say, words } from "./picture.js";

const COLUMNS = ["slice", "verdict", "outcome", "top_class", "set", "model_id"];
const quoted = (value) => `"${String(value ?? "").replace(/"/g, '""')}"`;

export async function list(box, slices, limit, post, open) {
  const made = document.querySelector("#several-slices").content.cloneNode(true);
  const [progress, rows, keep] = ["progress", "tbody", "button"].map((name) => made.querySelector(name));
  const status = made.querySelector("[role=status]");
  box.replaceChildren(made);
  progress.max = slices.length;
  const answers = [];
  for (const [index, slice] of slices.entries()) {
    if (!rows.isConnected) return; // another question, or Clear
    status.textContent = say(words.several_progress, { done: index, all: slices.length });
    const given = slice.size > limit ? null : await answerOf(slice, post);
    answers.push(given?.answer ?? null);
    rows.append(rowOf(index, given, slice, open));
    progress.value = index + 1;
  }
  status.textContent = say(words.several_progress, { done: slices.length, all: slices.length });
  keep.hidden = false;
  keep.addEventListener("click", () => download(answers));
}

async function answerOf(slice, post) {
  try {
    const response = await fetch(`answer?lang=${language}`, post(slice));
    if (!response.ok) return null;
    const { html, state, answer } = await response.json();
    const page = new DOMParser().parseFromString(html, "text/html");
    return {
      headline: page.querySelector(".said h2").textContent.trim(),
      picture: page.querySelector("#untouched")?.getAttribute("href"),
      shares: [...page.querySelectorAll(".row .number")].map((e) => e.textContent),
      state,
      answer,
    };
  } catch {
    return null;
  }
}

function rowOf(index, given, slice, open) {
  const name = say(words.several_slice, { number: index + 1 });
  const button = make("button", { type: "button", className: "thumb", onclick: () => open(slice) }, name);
  if (given?.picture) button.prepend(make("img", { src: given.picture, alt: "" }));
  const row = make("tr", { className: given?.state ?? "" }, make("th", { scope: "row" }, button));
  row.insertCell().textContent = given?.headline ?? words.several_failed;
  for (let k = 0; k < 4; k++) row.insertCell().textContent = given?.shares[k] ?? "";
  return row;
}

function download(answers) {
  const classes = Object.keys(answers.find((one) => one?.probabilities)?.probabilities ?? {});
  const lines = answers.map((one, index) => [
    index + 1,
    ...COLUMNS.slice(1).map((name) => (Array.isArray(one?.[name]) ? one[name].join(" ") : one?.[name])),
    ...classes.map((key) => one?.probabilities?.[key]),
  ]);
  const csv = [[...COLUMNS, ...classes], ...lines].map((cells) => cells.map(quoted).join(",")).join("\r\n");
  save(new Blob([csv], { type: "text/csv" }), "csv");
}
