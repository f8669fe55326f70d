// Guess first: the audience's reading comes before the answer, its scores and its maps. The tally is this visit's.
import { make } from "./elements.js";
import { say, titles, words } from "./picture.js";

const find = (selector) => document.querySelector(selector);
const tally = { guesses: 0, agreed: 0, known: 0, right: 0, network: 0 };

export const isGuessing = () => find("#answer").classList.contains("guessing");

// Hides a fresh answer behind four buttons, or shows it where no guess is wanted.
export function guess(answer) {
  const wanted = find("#guess").checked && find(".rows") !== null;
  answer.classList.toggle("guessing", wanted);
  find(".guesses")?.remove();
  if (!wanted) return;
  const box = find("#guess-first").content.cloneNode(true).firstElementChild;
  const inputs = answer.querySelectorAll(".row input");
  box.querySelector("p").after(...titles().map((title, index) =>
    make("button", { type: "button", className: "button", onclick: () => reveal(answer, inputs[index], title) }, title)));
  answer.prepend(box);
}

function reveal(answer, input, title) {
  tally.guesses += 1;
  const agreed = input.closest(".row").classList.contains("likeliest");
  tally.agreed += agreed;
  const truth = find(".origin")?.dataset.truth.replace("no_mass", "normal"); // a class, or what has no class here
  const known = find(`.row input[data-key="${CSS.escape(truth ?? "")}"]`);
  if (known) {
    tally.known += 1;
    tally.right += known === input;
    tally.network += known.closest(".row").classList.contains("likeliest");
  }
  answer.classList.remove("guessing");
  find(".guesses").remove();
  find("#shown").checked = false; // the map stays off until it is asked for
  const said = [say(agreed ? words.guessed_same : words.guessed_other, { title, ...tally })];
  if (tally.known) said.push(say(words.guessed_known, tally));
  find(".said").append(make("p", { className: "guessed" }, said.join(" ")));
  find("#live").textContent = find("[data-headline]").innerText;
  find(".row input:checked").focus({ preventScroll: true }); // the button that had it is gone
}
