"""No number in README or model card that is not in metrics.json and in the checkpoint's card."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ctscan.cli import main
from ctscan.metrics import wilson_interval
from ctscan.model.checkpoint import read_checkpoint
from ctscan.results.entries import read_ledger
from ctscan.results.figures import share
from ctscan.results.goals import GOALS
from ctscan.results.model_card import model_card
from ctscan.results.report import BEGIN, END, SEED_DESIGN, generate
from ctscan.results.summary import results_of
from ctscan.training.control import CONTROLS

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "checkpoints" / "resnet18.safetensors"


def test_readme_and_model_card_are_what_the_sources_give() -> None:
    for path, text in generate(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python -m ctscan report`"


def test_the_committed_checkpoint_has_a_reading_with_the_same_scores() -> None:
    card = read_checkpoint(CHECKPOINT).card
    readings = json.loads((ROOT / "checkpoints" / "metrics.json").read_text())["readings"]
    (reading,) = [r for r in readings if r["model_id"] == card.model_id]
    assert reading["scores"] == json.loads(json.dumps(card.metrics))
    for score in reading["scores"].values():
        assert score["n"] == sum(map(sum, score["confusion"]))
        assert score["accuracy"] == score["correct"] / score["n"]
        assert tuple(score["interval95"]) == wilson_interval(score["correct"], score["n"])


def test_readme_states_no_share_and_no_score_outside_the_generated_block() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    by_hand = before + rest.split(END)[1]
    assert not re.findall(r"\d\s?%|\b0\.\d{2,}", by_hand)


def gate_counts() -> list[tuple[int, int]]:
    """Of each row of the gate's entries, and of all slices shown wrong: what was refused, unusual and either, and n."""
    found = []
    for gate in read_ledger(ROOT / "checkpoints" / "metrics.json")["gates"]:
        wrong = [r for r in gate["rows"] if not r["group"] and r["kind"] in ("turned", "upside_down", "inverted")]
        total = {key: sum(r[key] for r in wrong) for key in ("refused", "unusual", "n")}
        for row in (*gate["rows"], total):
            refused, unusual = row["refused"], row["unusual"]
            found += [(count, row["n"]) for count in (refused, unusual, refused + unusual)]
        found.append((gate["alarmed"], 790))
    return found


def alarm_shares() -> list[float]:
    """Of each volume without a mass, under each window, the share of its slices in which a tumour was named."""
    whole = json.loads((ROOT / "checkpoints" / "metrics.json").read_text())
    return [one["alarms"] / one["slices"] for entry in whole.get("volumes", []) for one in entry["free"]]


def all_numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in all_numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in all_numbers(v)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "checkpoints/README.md", ROOT / "checkpoints/DATA.md"])
def test_every_share_in_the_texts_stands_in_the_ledger(path: Path) -> None:
    known = all_numbers(json.loads((ROOT / "checkpoints" / "metrics.json").read_text()))
    known += [count / n for count, n in gate_counts()]
    known += alarm_shares()
    known += [goal.bound for goal in GOALS]
    known += [v for split in SEED_DESIGN.values() for v in split.values()]
    for whole, part in re.findall(r"(\d+)(\.\d+)? %", path.read_text(encoding="utf-8")):
        digits = len(part[1:])
        shown = float(whole + part)
        if (shown, digits) != (95, 0):  # "95 % interval"
            assert any(abs(100 * n - shown) <= 0.5 * 10**-digits + 1e-9 for n in known), f"{whole}{part} %"


def test_published_and_grouped_stand_side_by_side_with_intervals_and_n() -> None:
    card = read_checkpoint(CHECKPOINT).card
    results = results_of(read_ledger(ROOT / "checkpoints" / "metrics.json"), card)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.published is not None
    assert results.grouped is not None
    for entry in (results.published, results.grouped):
        counts = f"{entry['n']} | {entry.get('refused', '')} | {entry['groups']}"
        assert f"| {counts} | {share(entry['measures']['accuracy'])} |" in readme
    gap = results.grouped["published_minus_grouped"]["accuracy"]
    first, second = (e["measures"]["accuracy"]["value"] for e in (results.published, results.grouped))
    assert gap["value"] == pytest.approx(first - second)
    assert gap["low"] < gap["value"] < gap["high"]
    assert {entry["control"] for entry in results.controls} == set(CONTROLS)
    assert all(entry["finding"] in readme for entry in (results.grouped, *results.controls))


def test_every_try_stands_in_the_card_with_what_it_changed() -> None:
    ledger = read_ledger(ROOT / "checkpoints" / "metrics.json")
    first = ledger["grouped"][0]
    estimate = {"value": 0.02, "low": -0.01, "high": 0.05, "se": 0.01}
    settings = first["settings"] | {"surround": "hull", "mixup": 0.2}
    against = {"settings": first["settings"], "measures": {"balanced_accuracy": estimate, "nll": estimate}}
    tried = first | {"settings": settings, "matched": {"fall": estimate, "finding": ""}, "against": against}
    trial = {"number": 0, "state": "pruned", "loss": None, "folds": [], "settings": {"rate": 1e-4}, "seconds": 1}
    search = {"date": "2026-12-01", "trials": [trial], "folds": [0, 1], "importance": {}}
    card = read_checkpoint(CHECKPOINT).card
    more = ledger | {"grouped": [*ledger["grouped"], tried], "searches": [search]}
    text = model_card(card, more, results_of(more, card))
    assert "| black outside the body's hull, mixup 0.2 |" in text
    assert text.count("| 2 points (-1 to 5)") == 2
    assert "| 0 | pruned |" in text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of all that the texts are made from."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("resnet18.safetensors", "metrics.json", "README.md", "DATA.md"):
        shutil.copy(ROOT / "checkpoints" / name, tmp_path / "checkpoints")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("ledger", "reason"),
    [("", "no ledger"), ("{}", "no reading of resnet18-"), ('{"readings": [{"model_id": "%s"}]}', "no ledger")],
)
def test_a_ledger_that_does_not_know_the_model_leaves_the_texts(
    ledger: str, reason: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_id = read_checkpoint(CHECKPOINT).card.model_id
    (checkout / "checkpoints" / "metrics.json").write_text(ledger.replace("%s", model_id))
    texts = [checkout / "README.md", *(checkout / "checkpoints").glob("*.md")]
    before = [text.read_bytes() for text in texts]
    assert main(["report", "--root", str(checkout)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert reason in said
    assert [text.read_bytes() for text in texts] == before


def test_report_says_what_it_cannot_read_or_write(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["report", "--root", str(checkout)]
    assert main(command) == 0
    card = checkout / "checkpoints" / "DATA.md"
    card.unlink()
    card.mkdir()
    assert main(command) == 2
    (checkout / "checkpoints" / "resnet18.safetensors").unlink()
    assert main(command) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"ctscan: {card}: Is a directory."
    assert "resnet18.safetensors" in second
