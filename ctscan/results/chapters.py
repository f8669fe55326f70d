"""Results -> what is said of a model beside its scores, one chapter a question: the same in README, card and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctscan.results import confidence_words, goals, map_words, trials, tries, volume_words
from ctscan.results.markdown import table
from ctscan.results.summary import Results


@dataclass(frozen=True)
class Table:
    """Rows below a head, and what they are."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Chapter:
    """Sentences, the tables that belong to them, and those that only some readers want."""

    title: str
    sentences: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    details: tuple[Table, ...] = ()

    def to_markdown(self, *, whole: bool) -> str:
        """Sentences and tables below a title that the caller sets; `whole`: with the details."""
        shown = (*self.tables, *self.details) if whole else self.tables
        tables = [f"{one.caption}:\n\n{table(one.head, one.rows)}" for one in shown]
        return "\n\n".join(["\n".join(f"- {sentence}" for sentence in self.sentences), *tables])


def chapters(results: Results) -> list[Chapter]:
    """Those of which the ledger knows something."""
    made = (shortcut(results), confidence(results), maps(results), volumes(results), search(results))
    return [chapter for chapter in made if chapter]


def shortcut(results: Results) -> Chapter | None:
    """Goals, and every recipe that was tried for them."""
    if results.grouped is None:
        return None
    measured = goals.rows(results)
    met = (
        f"Of {len(measured)} goals {sum(row[-1] == 'met' for row in measured)} are met. A goal counts as met where the "
        "value measured reaches it, or where it says so the whole interval; brackets hold 95 % intervals."
    )
    sentences = (tries.comparison(results), tries.strictest(results), tries.by_design(results), met)
    return Chapter(
        "What was tried against the shortcut",
        tuple(sentence for sentence in sentences if sentence),
        (Table("Goals", goals.HEAD, measured),),
        (
            Table("Recipes beside the plain one, oldest first", tries.HEAD, tries.rows(results)),
            *(
                Table(f"Recipes beside another ({base})", tries.BESIDE_HEAD, rows)
                for base, rows in tries.beside_others(results)
            ),
        ),
    )


def confidence(results: Results) -> Chapter | None:
    """How far a score can be taken at its word."""
    entry = results.calibration
    if entry is None:
        return None
    sets = Table("Sets of classes, out of fold", confidence_words.HEAD, confidence_words.rows(entry))
    return Chapter("How sure it may be", confidence_words.sentences(entry), (sets,))


def maps(results: Results) -> Chapter | None:
    """Whether the maps hold what they promise."""
    entry = results.explanation
    if entry is None:
        return None
    lesions = Table("Evidence and outlined tumours", map_words.LESION_HEAD, map_words.lesion_rows(entry))
    stages = Table(
        "How alike maps stay while weights are randomised", map_words.STAGE_HEAD, map_words.stage_rows(entry)
    )
    return Chapter("The maps, tested", map_words.sentences(entry), (lesions,) if lesions.rows else (), (stages,))


def volumes(results: Results) -> Chapter | None:
    """What it says of whole scans from elsewhere."""
    entry = results.volumes
    if entry is None:
        return None
    tables = (
        Table("Volumes with an outlined tumour", volume_words.OUTLINED_HEAD, volume_words.outlined_rows(entry)),
        Table("Volumes without a mass", volume_words.FREE_HEAD, volume_words.free_rows(entry)),
    )
    return Chapter(
        "Whole scans from other hospitals",
        volume_words.sentences(entry),
        tuple(one for one in tables if one.rows),
    )


def search(results: Results) -> Chapter | None:
    """What a search for a recipe has shown."""
    entry = results.search
    if entry is None:
        return None
    importance = Table(
        "What the result depends on, a rough guess from few trials",
        trials.IMPORTANCE_HEAD,
        trials.importance_rows(entry),
    )
    return Chapter("The search for a recipe", (trials.summary(entry),), (importance,) if importance.rows else ())
