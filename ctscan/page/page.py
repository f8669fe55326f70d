"""Classifier and examples -> gr.Blocks. No state is kept for a visitor: an answer is HTML in the browser."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.render import LONGEST_OVERLAY, data_uri, fit, overlay, to_bytes
from ctscan.inference.answer import Answer, AnswerJSON, Reader, answer
from ctscan.inference.classifier import Classifier
from ctscan.io.images import read_slice
from ctscan.page import about, how_good, result, words
from ctscan.page.examples import Example
from ctscan.page.explanation import EMPTY, explanation
from ctscan.results.summary import Facts

THUMBNAIL = 160  # px, longer side
DELETE_CACHE = (60, 600)  # s: look every minute, delete what is older than ten
QUEUE = 16  # requests that may wait
CONCURRENCY = 2  # requests that compute at once; the network uses all cores for one

PICK_EXAMPLE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('click', { index: Number(button.dataset.index) });
});
"""


# screen readers read a text that changes inside an element which was marked before
ANNOUNCE_ANSWERS = "() => { document.querySelector('#sentence').setAttribute('aria-live', 'polite'); }"


class Page:
    """The handlers and the layout around one classifier. `read` is how files are read, strangers' above all."""

    def __init__(
        self, classifier: Classifier, examples: tuple[Example, ...], facts: Facts, read: Reader = read_slice
    ) -> None:
        self.classifier = classifier
        self.examples = examples
        self.withdrawn = facts.normal_is_doubtful
        self.worth = how_good.how_good(facts)
        self.read = read

    # --- handlers

    def show(self, data: bytes | None, origin: str = "") -> tuple[None, str, str, str]:
        """Bytes of a file -> (an empty upload, sentence, pictures, rows)."""
        if data is None:
            return None, result.EMPTY_SENTENCE, EMPTY, ""
        given = answer(self.classifier, data, self.read)
        said = result.sentence(given, origin, withdrawn=self.withdrawn)
        return None, said, explanation(given), result.rows(given)

    def show_upload(self, data: bytes | None) -> tuple[None, str, str, str]:
        """A visitor's own file."""
        return self.show(data)

    def show_example(self, event: gr.EventData) -> tuple[None, str, str, str]:
        """A click on a thumbnail."""
        return self.show_numbered(int(event.index))

    def show_numbered(self, index: int) -> tuple[None, str, str, str]:
        """One of the examples, named as one; the empty page where there is no such example."""
        if not 0 <= index < len(self.examples):
            return self.show(None)
        example = self.examples[index]
        origin = f"Bundled example: {example.description} {example.source}".strip()
        return self.show(example.data, origin)

    def classify(self, data: bytes | None) -> tuple[AnswerJSON, NDArray[np.uint8] | None]:
        """Classify one chest CT slice: research and education only, not for diagnosis.

        Gives the answer and, as PNG, the slice under the map of the most likely class on the fixed scale.
        """
        given = answer(self.classifier, data or b"", self.read)
        return given.to_json(), draw_overlay(given)

    # --- layout

    def build(self) -> gr.Blocks:
        """The page. The first screen is an example that the model has just answered."""
        _, sentence, pictures, rows = self.show_numbered(0)
        blocks: gr.Blocks
        with gr.Blocks(title=words.NAME, analytics_enabled=False, delete_cache=DELETE_CACHE) as blocks:
            gr.HTML(f"<h1>{words.NAME}</h1><p>{words.STRIP}</p>", elem_id="strip")
            with gr.Tabs():
                with gr.Tab("Slice"), gr.Row(elem_id="stage"):
                    self._build_stage(sentence, pictures, rows)
                with gr.Tab("How to read it"):
                    gr.HTML(about.how_to_read(self.classifier.card))
                with gr.Tab(words.HOW_GOOD):
                    gr.HTML(self.worth)
                with gr.Tab("About"):
                    gr.HTML(about.about(self.classifier.card))
            self._build_api()
            blocks.load(None, js=ANNOUNCE_ANSWERS, api_visibility="private")
        blocks.space_id = None  # or a page on a Space draws a header that asks huggingface.co and Google Fonts
        blocks.queue(max_size=QUEUE, default_concurrency_limit=CONCURRENCY, api_open=False)
        return blocks

    def _build_stage(self, sentence: str, pictures: str, rows: str) -> None:
        with gr.Column(elem_id="input"):
            gr.HTML(f"<h3>{words.UPLOAD}</h3>")
            upload = gr.File(
                type="binary", label=words.UPLOAD, show_label=False, height=128, elem_id="upload", buttons=[]
            )
            gr.HTML(f'<p class="hint">{words.UPLOAD_HINT} {words.PRIVACY}</p><p class="note" role="alert"></p>')
            clear = gr.Button(words.CLEAR, elem_id="clear", size="md")
            thumbnails = gr.HTML(self._draw_thumbnails(), js_on_load=PICK_EXAMPLE, elem_id="examples")
        shown = [
            upload,
            gr.HTML(sentence, elem_id="sentence"),
            gr.HTML(pictures, elem_id="explanation"),
            gr.HTML(rows, elem_id="rows"),
        ]
        private: dict[str, Any] = {"outputs": shown, "api_visibility": "private", "show_progress_on": shown[1]}
        model: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": CONCURRENCY}
        running: list[Any] = [
            upload.upload(self.show_upload, upload, **private, **model),
            thumbnails.click(self.show_example, None, **private, **model),
        ]
        empty = json.dumps([None, *self.show(None)[1:]])
        failed = json.dumps([None, result.NOT_ANSWERED, EMPTY, ""])
        for event in running:
            event.failure(None, None, shown, js=f"() => ctscanFailed({failed}, {empty})", api_visibility="private")
        # an answer under way must not come back over the cleared page
        clear.click(None, cancels=running, api_visibility="private")
        clear.click(None, None, shown, js=f"() => {{ ctscanNote(''); return {empty}; }}", api_visibility="private")

    def _draw_thumbnails(self) -> str:
        if not self.examples:
            return ""
        buttons = "".join(draw_thumbnail(index, example) for index, example in enumerate(self.examples))
        hint = f'<p class="hint">{words.EXAMPLES_HINT}</p>'
        return f'<h3>{words.EXAMPLES}</h3><div class="thumbnails">{buttons}</div>{hint}'

    def _build_api(self) -> None:
        with gr.Column(visible=False):
            data, call = gr.File(type="binary", label="slice"), gr.Button()
            outputs = [gr.JSON(label="answer"), gr.Image(label="overlay", format="png", buttons=[])]
        call.click(
            self.classify, data, outputs, api_name="classify", concurrency_id="model", concurrency_limit=CONCURRENCY
        )


def draw_overlay(given: Answer) -> NDArray[np.uint8] | None:
    """The slice under the top class's map, at its own pixels but for very large ones; None without an answer."""
    if given.prediction is None or given.slice is None:
        return None
    grey = to_bytes(fit(given.slice.pixels, LONGEST_OVERLAY))
    evidence = given.prediction.evidence(given.prediction.top, (grey.shape[0], grey.shape[1]))
    return overlay(grey, evidence, given.prediction.map_top)


def draw_thumbnail(index: int, example: Example) -> str:
    """A button with the picture on it."""
    address = data_uri(to_bytes(fit(read_slice(example.data).pixels, THUMBNAIL)))
    return (
        f'<button type="button" data-index="{index}" title="{escape(example.description)}">'
        f'<img src="{address}" alt=""><span>{escape(example.title)}</span></button>'
    )
