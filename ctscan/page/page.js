// What the page does without the server: paste, the opacity slider, and a word on what was not answered.
(() => {
  const LIMIT = 16 * 1024 * 1024; // bytes, as the server's

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

  const stop = (event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
  };

  document.addEventListener("change", (event) => {
    if (event.target.matches("#upload input[type=file]") && isTooLarge(event.target.files)) {
      stop(event);
      event.target.value = "";
    }
  }, true);

  document.addEventListener("drop", (event) => {
    if (event.target.closest("#upload") && isTooLarge(event.dataTransfer.files)) stop(event);
  }, true);

  document.addEventListener("paste", (event) => {
    const file = Array.from(event.clipboardData ? event.clipboardData.files : [])[0];
    const input = document.querySelector("#upload input[type=file]");
    if (!file || !input) return;
    event.preventDefault();
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  document.addEventListener("input", (event) => {
    const shown = event.target.closest(".explanation");
    if (shown && event.target.matches(".opacity input")) {
      shown.style.setProperty("--opacity", event.target.value / 100);
    }
  });
})();
