"""Results -> the tab "How good is it?": published beside grouped, class by class, in words for a doctor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ctscan.classes import CLASSES
from ctscan.page import words
from ctscan.results import gate_words
from ctscan.results.chapters import Chapter, chapters
from ctscan.results.figures import by_fold, decimal, points, share
from ctscan.results.findings import CHANCE, OUTSIDE
from ctscan.results.goals import size_of_controls, withdrawal
from ctscan.results.grouping_words import stricter
from ctscan.results.summary import Entry, Results

TITLES = [c.title for c in CLASSES]


def how_good(results: Results) -> str:
    """The tab; one sentence where the model shown has not been evaluated."""
    grouped, published = results.grouped, results.published
    if grouped is None or published is None:
        return f'<article class="prose"><h3>{words.HOW_GOOD}</h3><p>{words.NOT_EVALUATED}</p></article>'
    bodiless = [without_body(entry) for entry in results.controls if is_border(entry)]
    leads = [headline(grouped, published), stricter(results), *bodiless, withdrawal(results)]
    parts = [
        *(f'<p class="lead">{escape(sentence)}</p>' for sentence in leads if sentence),
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
        bullets([grouped["finding"], size_of_controls(results), *(entry["finding"] for entry in results.controls)]),
        *(chapter(one) for one in chapters(results)),
        *gate_section(results),
        f"<h3>{words.CANNOT}</h3>",
        bullets(words.CANNOT_LIST),
    ]
    return f'<article class="prose wide">{"".join(parts)}</article>'


def chapter(one: Chapter) -> str:
    """Sentences and tables; what only some want is folded away."""
    folded = "".join(
        f"<details><summary>{escape(t.caption)}</summary>{table(t.head, t.rows)}</details>" for t in one.details
    )
    shown = "".join(table(t.head, t.rows, t.caption) for t in one.tables)
    return f"<h3>{escape(one.title)}</h3>{bullets(one.sentences)}{shown}{folded}"


def gate_section(results: Results) -> list[str]:
    """What the input gate refuses and lets pass."""
    if results.gate is None:
        return []
    return [
        f"<h3>{words.GATE}</h3>",
        *(f"<p>{escape(text)}</p>" for text in (gate_words.summary(results.gate), gate_words.alarm(results.gate))),
        table(gate_words.HEAD, gate_words.rows(results.gate, whole=False)),
    ]


def headline(grouped: Entry, published: Entry) -> str:
    """Both numbers and their difference, in one breath."""
    gap = points(grouped["published_minus_grouped"]["accuracy"])
    unseen, shared = (share(entry["measures"]["accuracy"]) for entry in (grouped, published))
    return (
        f"When look-alike slices are kept apart between learning and testing, this recipe names the data set's class "
        f"in {unseen} of slices. On the published test split, which shares scans with the training data, the figure is "
        f"{shared}. The difference is {gap}, most of it likely due to shared scans; the slices and the shares of the "
        "classes differ too."
    )


def is_border(entry: Entry) -> bool:
    """Whether a control is the one without a body."""
    return bool(entry["control"] == "border_only")


def without_body(entry: Entry) -> str:
    """What is reached where there is nothing of the disease to see, said before any table."""
    found, (hidden, left) = entry["measures"]["balanced_accuracy"], OUTSIDE[entry["settings"].get("surround", "keep")]
    weight = (
        "So part of every figure here is recognition of scans, not of disease."
        if found["low"] > CHANCE
        else "That is not clearly above chance."
    )
    return (
        f"With {hidden[0].lower()}{hidden[1:]}, a small network still names the class right in {share(found)}, the "
        f"mean over the classes; chance is {100 * CHANCE:.0f} %. What remains is {left}. {weight}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """An HTML table whose first column names the row."""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in rest)
        body += f'<tr><th scope="row">{escape(str(first))}</th>{cells}</tr>'
    return (
        f'<div class="scroll"><table class="figures">{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def side_by_side(results: Results, grouped: Entry, published: Entry) -> str:
    """The same measures on each split, with n."""
    columns = {words.APART: grouped}
    if results.stricter:
        columns[words.STRICTER] = results.stricter
    columns[words.PUBLISHED] = published
    if results.deduplicated:
        columns[words.WITHOUT_COPIES] = results.deduplicated
    rows = [["slices (visual groups)", *(f"{e['n']} ({e['groups']})" for e in columns.values())]]
    found = [e["measures"] for e in columns.values()]
    rows += [[title, *(share(measures.get(name)) for measures in found)] for name, title in words.SHARES.items()]
    rows += [[title, *(decimal(measures.get(name)) for measures in found)] for name, title in words.AREAS.items()]
    return table(["", *columns], rows)


def folds(grouped: Entry) -> str:
    """How much the five parts differ."""
    each = by_fold(grouped["folds"])
    return (
        f"Brackets hold 95 % intervals, computed over visual groups. Balanced accuracy in the five parts: {each} %. "
        "Each part was scored by a network trained on the other four, once."
    )


def per_class(grouped: Entry, published: Entry) -> str:
    """Slices, sensitivity and specificity on both splits."""
    kinds, entries = ("sensitivity", "specificity"), (grouped, published)
    rows = [
        [
            c.title,
            *(sum(entry["confusion"][place]) for entry in entries),
            *(share(entry["measures"].get(f"{kind}.{c.key}")) for kind in kinds for entry in entries),
        ]
        for place, c in enumerate(CLASSES)
    ]
    head = ["class", *(f"{kind}, {split}" for kind in ("slices", *kinds) for split in ("kept apart", "published"))]
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
    """A list; an empty sentence says nothing."""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences if sentence)}</ul>"
