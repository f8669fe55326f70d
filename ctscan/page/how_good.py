"""Results -> the tab "How good is it?": published beside grouped, class by class, in words for a doctor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ctscan import gate_words
from ctscan.classes import CLASSES
from ctscan.figures import decimal, points, share
from ctscan.page import words
from ctscan.results import Entry, Results

TITLES = [c.title for c in CLASSES]


def how_good(results: Results) -> str:
    """The tab; one sentence where the model shown has not been evaluated."""
    grouped, published = results.grouped, results.published
    if grouped is None or published is None:
        return f'<article class="prose"><h3>{words.HOW_GOOD}</h3><p>{words.NOT_EVALUATED}</p></article>'
    parts = [
        f'<p class="lead">{escape(headline(grouped, published))}</p>',
        *(f'<p class="lead">{escape(without_body(entry))}</p>' for entry in results.controls if is_border(entry)),
        side_by_side(results, grouped, published),
        f"<p>{escape(folds(grouped))}</p>",
        f"<h3>{words.PER_CLASS}</h3><p>{escape(words.PER_CLASS_TEXT)}</p>",
        per_class(grouped, published),
        f"<h3>{words.CONFUSION}</h3>",
        f'<div class="matrices">{confusion(words.APART, grouped)}',
        f"{confusion(words.PUBLISHED, published)}</div>",
        "<h3>What the splits are</h3>",
        "".join(f"<p><b>{escape(title)}.</b> {escape(text)}</p>" for title, text in words.SPLITS),
        f"<h3>{words.CONTROLS}</h3><p>{escape(words.CONTROLS_TEXT)}</p>",
        bullets([grouped["finding"], *(entry["finding"] for entry in results.controls)]),
        *gate_section(results),
        f"<h3>{words.CANNOT}</h3>",
        bullets(words.CANNOT_LIST),
    ]
    return f'<article class="prose wide">{"".join(parts)}</article>'


def gate_section(results: Results) -> list[str]:
    """What the input gate refuses and lets pass."""
    if results.gate is None:
        return []
    head = "".join(f"<th>{escape(cell)}</th>" for cell in gate_words.HEAD)
    lines = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>{"".join(f"<td>{escape(str(cell))}</td>" for cell in rest)}</tr>'
        for first, *rest in gate_words.rows(results.gate, whole=False)
    )
    return [
        f"<h3>{words.GATE}</h3>",
        *(f"<p>{escape(text)}</p>" for text in (gate_words.summary(results.gate), gate_words.alarm(results.gate))),
        f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>",
    ]


def headline(grouped: Entry, published: Entry) -> str:
    """Both numbers and their difference, in one breath."""
    gap = points(grouped["published_minus_grouped"]["accuracy"])
    unseen, shared = (share(entry["measures"]["accuracy"]) for entry in (grouped, published))
    return (
        f"When look-alike slices are kept apart between learning and testing, this recipe names the data set's class "
        f"in {unseen} of slices. On the published test split, which shares scans with the training data, the figure is "
        f"{shared}. The difference, {gap}, is what the published split gives away."
    )


def is_border(entry: Entry) -> bool:
    """Whether a control is the one without a body."""
    return bool(entry["control"] == "border_only")


def without_body(entry: Entry) -> str:
    """What is reached where there is nothing of the patient to see, said before any table."""
    return (
        f"With everything inside the body blacked out, a network trained the same way still reaches "
        f"{share(entry['measures']['balanced_accuracy'])}, the mean over the classes; chance is 25 %. What remains is "
        "the table, the cushions and the outline. So part of every figure here is recognition of scans, not of disease."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table whose first column names the row."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = ""
    for first, *cells in rows:
        rest = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        body += f'<tr><th scope="row">{escape(str(first))}</th>{rest}</tr>'
    return (
        f'<div class="scroll"><table class="figures"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def side_by_side(results: Results, grouped: Entry, published: Entry) -> str:
    """The same measures on each split, with n."""
    columns = {words.APART: grouped, words.PUBLISHED: published}
    if results.deduplicated:
        columns[words.WITHOUT_COPIES] = results.deduplicated
    rows = [["slices (visual groups)", *(f"{e['n']} ({e['groups']})" for e in columns.values())]]
    rows += [[title, *(share(e["measures"][name]) for e in columns.values())] for name, title in words.SHARES.items()]
    rows += [[title, *(decimal(e["measures"][name]) for e in columns.values())] for name, title in words.AREAS.items()]
    return table(["", *columns], rows)


def folds(grouped: Entry) -> str:
    """How much the five parts differ."""
    each = ", ".join(f"{100 * fold['balanced_accuracy']:.0f}" for fold in grouped["folds"])
    return (
        f"Brackets hold 95 % intervals, computed over visual groups. Balanced accuracy in the five parts: {each} %. "
        "Each part was scored by a network trained on the other four, once."
    )


def per_class(grouped: Entry, published: Entry) -> str:
    """Sensitivity and specificity on both splits."""
    kinds = ("sensitivity", "specificity")
    rows = [
        [c.title, *(share(entry["measures"][f"{kind}.{c.key}"]) for kind in kinds for entry in (grouped, published))]
        for c in CLASSES
    ]
    head = ["class", *(f"{kind}, {split}" for kind in kinds for split in ("kept apart", "published"))]
    return table(head, rows)


def confusion(title: str, entry: Entry) -> str:
    """The matrix, cells shaded by the share of the true class."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in TITLES)
    lines = ""
    for name, counts in zip(TITLES, entry["confusion"], strict=True):
        cells = "".join(f'<td style="{shade(n / max(sum(counts), 1))}">{n}</td>' for n in counts)
        lines += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    caption = f"{escape(title)}: {entry['n']} slices; rows: class in the data, columns: the model's answer"
    return (
        f'<div class="scroll"><table class="figures matrix"><caption>{caption}</caption>'
        f'<thead><tr><th scope="col"></th>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def shade(share: float) -> str:
    """A tint that both themes bear; a shadow, because Gradio's tables let no background through."""
    return f"box-shadow: inset 0 0 0 9em rgb(70 150 180 / {0.5 * share:.2f})"


def bullets(sentences: Iterable[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"
