"""Records and their file; the texts that are made from them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from pydantic import ValidationError

from ctscan.errors import DataError
from ctscan.results.ledger import read_ledger, to_json, update
from ctscan.results.records import Entry, Ledger, Reading, Score, Search


def reading(model_id: str, accuracy: float = 0.9, day: str = "2026-11-26") -> Reading:
    score = Score(n=10, accuracy=accuracy, interval95=(0.5, 1.0), cross_entropy=0.3)
    return Reading(date=day, model_id=model_id, recipe="0" * 12, recipe_name="ctscan", scores={"test": score})


def search(number: int) -> Search:
    return Search(date=f"2026-01-{number:02}", folds=2, trials={"complete": number}, lowest_loss=None, importance={})


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.json"
    assert read_ledger(path) == Ledger()
    update(path, reading("a"), search(1))
    update(path, reading("b"))
    assert read_ledger(path) == Ledger(readings=(reading("a"), reading("b")), searches=(search(1),))
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_a_new_entry_takes_the_place_of_the_one_about_the_same(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    update(path, reading("a"), reading("b"), reading("a", accuracy=0.8, day="2026-11-27"))
    assert read_ledger(path).readings == (reading("b"), reading("a", accuracy=0.8, day="2026-11-27"))


def test_every_section_holds_the_entries_that_name_it() -> None:
    kinds = {kind.section: kind for kind in Entry.__subclasses__()}
    assert set(kinds) == set(Ledger.model_fields) - {"version"}
    for kind in kinds.values():
        assert kind.about
        assert set(kind.about) <= set(kind.model_fields)


def test_records_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="finding"):
        Score.model_validate(reading("a").scores["test"].model_dump() | {"finding": "Very good."})
    with pytest.raises(ValidationError, match="accuracy"):
        reading("a", accuracy=float("nan"))
    with pytest.raises(ValidationError, match="frozen"):
        reading("a").model_id = "b"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the file"),
        ("[]", "the file"),
        ('{"schema": 1}', "schema"),
        ('{"schema": 2, "grouped": []}', "grouped"),
        (to_json(Ledger(readings=(reading("a"),))).replace('"accuracy": 0.9', '"accuracy": "high"'), "accuracy"),
        (to_json(Ledger(readings=(reading("a"),))).replace('"n": 10,', ""), "readings.0.scores.test.n"),
    ],
)
def test_a_broken_file_is_named_with_the_first_place_of_trouble(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    for use in (read_ledger, lambda path: update(path, reading("a"))):
        with pytest.raises(DataError) as caught:
            use(path)
        assert str(path) in str(caught.value)
        assert place in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert path.read_text() == text


def add_searches(path: Path, numbers: range) -> None:
    for number in numbers:
        update(path, search(number))


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=add_searches, args=(path, range(start, 31, 3))) for start in (1, 2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert {entry.date for entry in read_ledger(path).searches} == {search(n).date for n in range(1, 31)}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
