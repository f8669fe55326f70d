"""A gate's entry in the ledger -> sentences and tables, for README, model card and page."""

from __future__ import annotations

from typing import Any

Entry = dict[str, Any]

KIND_NAMES = {
    "chest": "upright axial chest CT",
    "turned": "turned by a quarter",
    "upside_down": "upside down",
    "inverted": "greys inverted",
    "no_lungs": "CT of other parts or in other planes",
    "no_ct": "no CT",
}
HEAD = ("what it shows", "pictures", "sources", "refused", "unusual", "ok", "refused, %", "not ok, %", "reason named")
GROUP_NAMES = {"brainmr": "brain MR", "othermr": "other MR", "chestxray": "chest radiograph", "greyphoto": "grey photo"}


def rows(entry: Entry, *, whole: bool) -> list[list[object]]:
    """One row for each kind of picture, and with `whole` one for each group of it as well."""
    return [cells(row) for row in entry["rows"] if whole or not row["group"] or row["kind"] == "chest"]


def cells(row: Entry) -> list[object]:
    """Counts, and the two shares with their exact interval."""
    n, refused = row["n"], row["refused"]
    named = "" if row["kind"] == "chest" else row["named"]
    shares = [span(refused, n, row["refused95"]), span(refused + row["unusual"], n, row["not_ok95"])]
    return [title(row), n, row["sources"], refused, row["unusual"], row["ok"], *shares, named]


def title(row: Entry) -> str:
    """What a row counts: a kind as a whole, or one group of it."""
    kind, group = KIND_NAMES[row["kind"]], row["group"]
    return f"{kind}: {GROUP_NAMES.get(group, group)}" if group else f"all: {kind}"


def span(k: int, n: int, interval: list[float]) -> str:
    """`99.4 (98.2 to 99.9)`."""
    low, high = interval
    return f"{100 * k / n:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def find(entry: Entry, kind: str, group: str = "") -> Entry:
    """The row of a kind or of one group of it."""
    found: Entry = next(row for row in entry["rows"] if (row["kind"], row["group"]) == (kind, group))
    return found


def summary(entry: Entry) -> str:
    """What the gate is worth."""
    no_ct, other = find(entry, "no_ct"), find(entry, "no_lungs")
    ours, foreign = find(entry, "chest", "data set"), find(entry, "chest", "other hospitals")
    windowed = find(entry, "chest", "data set, in another window")
    wrong = [find(entry, kind) for kind in ("turned", "upside_down", "inverted")]
    doubted = share(windowed["refused"] + windowed["unusual"], windowed["n"])
    turned, total = sum(r["refused"] + r["unusual"] for r in wrong), sum(r["n"] for r in wrong)
    return (
        f"Of pictures that are no CT {share(no_ct['refused'], no_ct['n'])} were refused, of CT without lungs or in "
        f"another plane {share(other['refused'] + other['unusual'], other['n'])} refused or marked unusual, of chest "
        f"slices turned, upside down or inverted {share(turned, total)} refused or marked unusual. "
        f"Of upright chest slices it refused {share(ours['refused'], ours['n'])} of this data set and "
        f"{share(foreign['refused'], foreign['n'])} from other hospitals, and marked "
        f"{share(ours['unusual'], ours['n'])} and {share(foreign['unusual'], foreign['n'])} unusual. "
        f"Of this data set's slices given another window {doubted} were refused or marked unusual. None of "
        "these pictures, or others of their source, had been seen by the gate that judged it, but its form and its "
        "thresholds were chosen on the same pictures. Intervals are exact (Clopper and Pearson) and take pictures as "
        "independent."
    )


def share(k: int, n: int) -> str:
    """`99.4 % (n = 485)`."""
    return f"{100 * k / n:.1f} % (n = {n})"


def alarm(entry: Entry) -> str:
    """What the shortcut alarm does on the data's own slices."""
    ours = find(entry, "chest", "data set")
    return (
        f"A notice is given where more than {100 * entry['thresholds']['outside']:.0f} % of the top class's positive "
        f"evidence lies outside the body or on the picture's border; out of fold that is so for "
        f"{share(entry['alarmed'], ours['n'])} of the data's slices."
    )
