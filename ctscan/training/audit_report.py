"""Audit -> one HTML file with pictures, for the person who has the data. Not to be published: it shows the slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from ctscan.classes import CLASSES
from ctscan.imaging.render import data_uri, fit, to_bytes
from ctscan.io.images import read_slice
from ctscan.training.audit import Audit, Record, near_pairs

PICTURE = 112  # px, longer side
MAX_ROWS = 60  # of each list; the counts are given in full
MAX_MEMBERS = 12  # pictures of a visual group
SHOWN_THRESHOLD = 0.90

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
h2 { margin-top: 2.5rem } table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left }
.row { display: flex; flex-wrap: wrap; gap: .6rem; margin: .6rem 0 1.2rem }
figure { margin: 0; width: 116px; font-size: 11px; overflow-wrap: anywhere } img { background: #000; display: block }
"""


def write_report(path: Path, audit: Audit) -> None:
    """Everything that was found, worst first. Pictures are read again, file by file."""
    sections = [summary(audit), conflicts(audit), copies(audit), near(audit), groups(audit)]
    title = "Audit of a data folder"
    body = f"<h1>{title}</h1><p>Holds pictures of the data: for its owner, not for publication.</p>" + "".join(sections)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    path.write_text(f'<!doctype html><html lang="en">{head}{body}</html>', encoding="utf-8")


def picture(record: Record) -> str:
    """One file: its slice, where it stands, what it is called."""
    small = fit(read_slice(record.path.read_bytes()).pixels, PICTURE)
    place = f"{record.split} · {CLASSES[record.label].title}"
    caption = f"<b>{escape(place)}</b><br>{escape(record.path.name)}"
    return f'<figure><img src="{data_uri(to_bytes(small))}" alt="">{caption}</figure>'


def strip(records: Iterable[Record]) -> str:
    """Files side by side."""
    return f'<div class="row">{"".join(picture(record) for record in records)}</div>'


def listing(title: str, text: str, rows: Sequence[Sequence[Record]]) -> str:
    """A section of strips, cut where it grows long."""
    rest = f"<p>{len(rows) - MAX_ROWS} more are not shown.</p>" if len(rows) > MAX_ROWS else ""
    shown = "".join(strip(row) for row in rows[:MAX_ROWS])
    return f"<h2>{escape(title)}: {len(rows)}</h2><p>{escape(text)}</p>{shown}{rest}"


def files_of(audit: Audit) -> dict[str, list[Record]]:
    """The files of each distinct image."""
    files: dict[str, list[Record]] = {}
    for record in audit.records:
        files.setdefault(record.sha256, []).append(record)
    return files


def summary(audit: Audit) -> str:
    """Counts, and the sweep of thresholds."""
    facts = audit.manifest.facts()
    lines = "".join(
        f"<tr><td>{t}</td><td>{facts['groups'][t]}</td><td>{facts['largest_group'][t]}</td>"
        f"<td>{facts['groups_in_several_splits'][t]}</td></tr>"
        for t in facts["groups"]
    )
    unreadable = "".join(f"<li>{escape(line)}</li>" for line in audit.unreadable)
    return (
        f"<p>{facts['files']} files show {facts['images']} distinct images; {facts['images_in_several_splits']} of "
        f"these stand in more than one split, {facts['conflicting_labels']} under more than one class.</p>"
        "<table><tr><th>threshold</th><th>visual groups</th><th>largest</th><th>in several splits</th></tr>"
        f"{lines}</table>" + (f"<h2>Not readable</h2><ul>{unreadable}</ul>" if unreadable else "")
    )


def conflicts(audit: Audit) -> str:
    """The same picture under two classes."""
    rows = [files for files in files_of(audit).values() if len({r.label for r in files}) > 1]
    return listing("Conflicting labels", "The same pixels under more than one class; left out of the folds.", rows)


def copies(audit: Audit) -> str:
    """The same picture more than once, those that cross a split first."""
    rows = [files for files in files_of(audit).values() if len(files) > 1]
    rows.sort(key=lambda files: (len({r.split for r in files}) == 1, -len(files)))
    return listing("Identical pixels", "Images that several files show; those in several splits first.", rows)


def near(audit: Audit) -> str:
    """Pairs of distinct images that are nearly one."""
    rows = [[audit.distinct[a], audit.distinct[b]] for a, b in near_pairs(audit.correlation)]
    rows.sort(key=lambda pair: pair[0].split == pair[1].split)
    return listing("Near copies", "Distinct images whose thumbnails correlate at 0.98 or more.", rows)


def groups(audit: Audit) -> str:
    """The visual groups, largest first."""
    column = audit.manifest.column(SHOWN_THRESHOLD)
    members: dict[int, list[Record]] = {}
    for record, image in zip(audit.distinct, audit.manifest.images, strict=True):
        members.setdefault(image.groups[column], []).append(record)
    rows = sorted((m[:MAX_MEMBERS] for m in members.values()), key=len, reverse=True)
    text = f"Single linkage at {SHOWN_THRESHOLD}; at most {MAX_MEMBERS} of each are shown. A group is no patient."
    return listing("Visual groups", text, rows)
