"""Records and their file; the texts that are made from them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from huggingface_hub import ModelCard, ModelCardData
from pydantic import ValidationError

from ctscan.errors import DataError
from ctscan.model.checkpoint import read_checkpoint
from ctscan.page import launch
from ctscan.results import summary
from ctscan.results.ledger import read_ledger, to_json, update
from ctscan.results.records import Entry, Estimate, Fold, Ledger, Reading, Score, Search
from ctscan.results.report import BEGIN, END, decimal, generate, percent, points, render, share
from ctscan.results.summary import Facts, facts_of
from ctscan.training.recipe import PLAIN, read_recipe
from tests.conftest import COMMITTED, ROOT, free_port

METRICS = COMMITTED.parent / "metrics.json"


def reading(model_id: str, accuracy: float = 0.9, day: str = "2026-11-26") -> Reading:
    score = Score(n=10, accuracy=accuracy, interval95=(0.5, 1.0), cross_entropy=0.3)
    return Reading(date=day, model_id=model_id, recipe="0" * 12, recipe_name="ctscan", scores={"test": score})


def search(number: int) -> Search:
    return Search(date="2026-11-26", folds=2, trials={"complete": number}, importance={})


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


def test_every_kind_of_entry_has_its_section() -> None:
    sections = {get_args(field.annotation)[0] for name, field in Ledger.model_fields.items() if name != "version"}
    assert sections == set(Entry.__subclasses__())


def test_entries_about_other_things_stand_beside_one_another() -> None:
    ledger = read_ledger(METRICS)
    again = Ledger()
    for name in set(Ledger.model_fields) - {"version"}:
        for entry in (*getattr(ledger, name), *getattr(ledger, name)):
            again = again.put(entry)
    assert again == ledger


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
        ("[" * 100_000, "the file"),
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


WRITER = """
import subprocess
import sys
from pathlib import Path
from ctscan.results.ledger import update
from ctscan.results.records import Reading
for number in range(int(sys.argv[2]), 31, 3):
    update(Path(sys.argv[1]), Reading(model_id=str(number), recipe="0", recipe_name="ctscan", scores={}))
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    commands = [[sys.executable, "-c", WRITER, str(path), str(start)] for start in (1, 2, 3)]
    writers = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert {entry.model_id for entry in read_ledger(path).readings} == {str(n) for n in range(1, 31)}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_ledger_that_is_a_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is a directory"):
        read_ledger(tmp_path)


@pytest.mark.usefixtures("own_process")
def test_a_bug_while_the_page_is_built_is_not_blamed_on_the_ledger(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ctscan.page.views.Views.home", lambda views, language: views.no_such_record)
    monkeypatch.setattr(sys, "argv", ["app.py", "--checkpoint", str(COMMITTED), "--port", str(free_port())])
    with pytest.raises(AttributeError, match="no_such_record"):
        launch.main()
    assert "metrics.json" not in capsys.readouterr().err


# --- the committed figures, and what is made of them


@pytest.fixture(scope="module")
def facts() -> Facts:
    return facts_of(read_ledger(METRICS), read_checkpoint(COMMITTED).card)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): text for path, text in generate(ROOT).items()}


def leaves(value: object) -> Iterator[object]:
    """The strings and numbers of a JSON value, keys of objects too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_the_ledger_holds_figures_and_names_but_no_sentence() -> None:
    assert METRICS.stat().st_size < 60_000
    for leaf in leaves(json.loads(METRICS.read_text(encoding="utf-8"))):
        assert not isinstance(leaf, str) or (len(leaf.split()) < 6 and not re.search(r"[.!?](\s|$)", leaf)), leaf


def test_the_committed_texts_are_what_is_generated(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run `ctscan report`"


def test_the_texts_are_short(texts: dict[str, str]) -> None:
    assert len(texts["README.md"].split()) <= 1000
    assert len(texts["checkpoints/README.md"].split()) <= 1500


def known_numbers(facts: Facts) -> list[float]:
    """All that the records hold, as it is and as a percentage, and the shares of counts that tables give."""
    leaves_ = [str(leaf) for leaf in leaves(json.loads(METRICS.read_text(encoding="utf-8")))]
    held = [float(leaf) for leaf in leaves_ if re.fullmatch(r"-?[\d.]+(e-?\d+)?", leaf)]
    assert facts.gate is not None
    assert facts.volumes is not None
    assert facts.grouped is not None
    held += [k / row.n for row in facts.gate.rows for k in (row.refused, row.refused + row.unusual)]
    held += [scan.alarms / scan.slices for scan in facts.volumes.free]
    held += [float(sum(counts)) for counts in facts.grouped.result.confusion]
    held += [figure for pair in summary.SEED_DESIGN.values() for figure in pair]
    return held + [100 * number for number in held]


def tables(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def test_every_number_of_a_table_stands_in_the_records(texts: dict[str, str], facts: Facts) -> None:
    known = known_numbers(facts)
    block = texts["README.md"].split(BEGIN)[1].split(END)[0]
    for text in (block, tables(texts["checkpoints/README.md"]), tables(texts["checkpoints/DATA.md"])):
        text = re.sub(r"lung[12]|chest_1\.5mm", "", text)
        found = re.findall(r"\d+(?:\.\d+)?", text)
        assert found
        for shown in found:
            digits = len(shown.partition(".")[2])
            assert any(f"{number:.{digits}f}" == shown for number in known), shown


def test_no_figure_of_the_model_is_written_by_hand_in_the_readme(texts: dict[str, str]) -> None:
    before, rest = texts["README.md"].split(BEGIN)
    prose = re.sub(r"```.*?```|<http.*?>", "", before + rest.split(END)[1], flags=re.DOTALL)
    assert not re.findall(r"\b0\.\d|\d\s?%(?! intervals)", prose)


def test_the_python_of_the_readme_gives_what_its_comments_say(
    texts: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = re.findall(r"```python\n(.*?)```", texts["README.md"], re.DOTALL)[0]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    checked = 0
    for line in program.splitlines():
        code, _, comment = line.partition("  # ")
        literal = re.match(r"'[^']*'|\([^)]*\)|\[\]|[\d.]+", comment)
        if literal:
            assert eval(code, names) == ast.literal_eval(literal[0]), line
            checked += 1
        else:
            exec(code, names)
    assert checked == 5
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")


def test_the_hub_finds_the_results_in_the_model_card(texts: dict[str, str], facts: Facts) -> None:
    card = ModelCard(texts["checkpoints/README.md"])
    assert isinstance(card.data, ModelCardData)
    assert card.data.model_name == facts.card.model_id
    assert facts.published is not None
    assert facts.grouped is not None
    results = {"published test split": facts.published.result, "look-alikes kept apart": facts.grouped.result}
    found = {(entry.dataset_config, entry.metric_type): entry.metric_value for entry in card.data.eval_results or ()}
    assert found == {
        (split, metric): round(result.measures[metric].value, 4)
        for split, result in results.items()
        for metric in ("accuracy", "balanced_accuracy")
    }


def test_links_between_texts_lead_somewhere() -> None:
    for path in (path for pattern in ("*.md", "*/*.md") for path in ROOT.glob(pattern)):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_no_text_says_where_a_tumour_sits() -> None:
    """Folder names of the data say a site; pictures in them show others."""
    folders = ("*.md", "checkpoints/*.md", "docs/*.md", "ctscan/locales/*", "ctscan/*/templates/*", "ctscan/page/*.py")
    words = [path for pattern in folders for path in ROOT.glob(pattern)]
    assert len(words) > 8
    for path in words:
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert not re.search(r"left (lower lobe|hilum)", text, re.IGNORECASE), path


def test_a_model_that_the_ledger_does_not_know_leaves_the_texts(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / COMMITTED.name).symlink_to(COMMITTED)
    (tmp_path / "README.md").write_text(f"{BEGIN}{END}")
    with pytest.raises(DataError, match="holds no reading, published, grouped"):
        generate(tmp_path)
    (tmp_path / "checkpoints" / "metrics.json").symlink_to(METRICS)
    (tmp_path / "README.md").write_text("")
    with pytest.raises(DataError, match="lacks the lines"):
        generate(tmp_path)


def test_the_figures_are_about_the_recipe_of_the_checkpoint(facts: Facts) -> None:
    assert facts.grouped is not None
    assert facts.grouped.recipe == read_recipe(facts.card.recipe).digest
    assert facts.plain is not None
    assert facts.plain.recipe == PLAIN.digest


def test_cards_leave_out_what_was_not_measured(facts: Facts) -> None:
    least = replace(
        Facts(facts.card),
        **{name: getattr(facts, name) for name in ("reading", "published", "grouped", "audit")},
    )
    card = render("model_card.md.j2", least)
    assert "## How good is it?" in card
    for title in ("Trainings that must fail", "How sure is a score?", "Are the maps right?", "The input gate"):
        assert (f"## {title}" in card) is False
        assert f"## {title}" in render("model_card.md.j2", facts)
    assert "\n\n\n" not in render("model_card.md.j2", facts)
    assert render("readme.md.j2", least).count("\n|") == 3


def test_a_fold_without_a_class_has_no_auroc() -> None:
    sizes = {"fold": 0, "n": 3, "groups": 2, "accuracy": 1.0, "balanced_accuracy": 1.0, "auroc_macro": 1.0}
    assert Fold.model_validate(sizes | {"auroc_normal": float("nan")}).auroc_normal is None


def test_verdicts_follow_the_figures(facts: Facts) -> None:
    assert facts.normal_is_doubtful
    assert not Facts(facts.card).normal_is_doubtful
    control = facts.controls["border_only"]
    certain = control.model_copy(update={"auroc_normal": Estimate(value=0.6, low=0.5, high=0.7, se=0.1)})
    assert not Facts(facts.card, controls={"border_only": certain}).normal_is_doubtful
    assert facts.shuffled_is_chance
    learned = control.model_copy(update={"balanced_accuracy": Estimate(value=0.5, low=0.4, high=0.6, se=0.05)})
    assert not Facts(facts.card, controls={"shuffled_labels": learned}).shuffled_is_chance


def test_figures_are_written_with_no_more_digits_than_they_carry() -> None:
    estimate = Estimate(value=0.8104, low=0.7249, high=0.8851, se=0.04)
    assert share(estimate) == "81 % (72–89)"
    assert decimal(estimate) == "0.81 (0.72–0.89)"
    assert percent(-0.0001) == "0 %"
    assert points(Estimate(value=-0.01, low=-0.027, high=0.004, se=0.01)) == "-1 point (-3 to 0)"
