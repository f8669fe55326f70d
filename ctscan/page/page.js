// What the page does without the server: paste, the opacity slider, and a word on what was not answered.
(() => {
  const LIMIT = 16 * 1024 * 1024; // bytes, as the server's
  const NAME = "slice"; // of every file that is sent: its own may be a patient's

  window.ctscanNote = (text) => {
    const note = document.querySelector("#input .note");
    if (note) note.textContent = text;
  };

  // Gradio's client throws the sentence of a refusal away; it is kept here until the page can say it.
  let refusal = "";
  let cleared = false; // since the last question
  const ask = window.fetch;
  window.fetch = async (...request) => {
    if (String(request[0]).includes("/queue/join")) cleared = false;
    const response = await ask(...request);
    if (response.status === 503) refusal = (await response.clone().json().catch(() => ({}))).detail || "";
    return response;
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest("#clear")) cleared = true;
  }, true);

  // A question that Clear took back fails too, but then there is nothing to say.
  window.ctscanFailed = (failed, empty) => {
    const reason = refusal || CTSCAN_FAILED;
    refusal = "";
    return cleared ? empty : failed.map((html) => html && html.replace("REASON", reason));
  };

  const isTooLarge = (files) => {
    const large = Array.from(files || []).some((file) => file.size > LIMIT);
    window.ctscanNote(large ? CTSCAN_TOO_LARGE : "");
    return large;
  };

  const nameless = (files) => {
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(new File([file], NAME, { type: file.type }));
    return transfer.files;
  };

  // As if a file had been chosen.
  const choose = (files) => {
    const input = document.querySelector("#upload input[type=file]");
    if (!input || !files.length) return;
    input.files = nameless([files[0]]);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const stop = (event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
  };

  document.addEventListener("change", (event) => {
    if (!event.target.matches("#upload input[type=file]")) return;
    if (isTooLarge(event.target.files)) {
      stop(event);
      event.target.value = "";
    } else {
      event.target.files = nameless(event.target.files);
    }
  }, true);

  document.addEventListener("drop", (event) => {
    if (!event.target.closest("#upload")) return;
    stop(event);
    if (!isTooLarge(event.dataTransfer.files)) choose(event.dataTransfer.files);
  }, true);

  document.addEventListener("paste", (event) => {
    const files = event.clipboardData ? event.clipboardData.files : [];
    if (!files.length) return;
    event.preventDefault();
    choose(files);
  });

  // Gradio patches the old nodes with a new answer's attributes; what a visitor set are properties, which stay.
  const reset = () => {
    for (const control of document.querySelectorAll(".explanation input")) {
      control.checked = control.defaultChecked;
      if (control.type === "range") control.value = control.defaultValue;
    }
  };
  new MutationObserver((changes) => {
    if (changes.some((change) => change.type === "attributes")) reset();
  }).observe(document, { subtree: true, attributeFilter: ["data-answer"] });

  document.addEventListener("input", (event) => {
    const shown = event.target.closest(".explanation");
    if (shown && event.target.matches(".opacity input")) {
      shown.style.setProperty("--opacity", event.target.value / 100);
    }
  });
})();
