"""No number in README or model card that is not in metrics.json and in the checkpoint's card."""

from __future__ import annotations

import json
from pathlib import Path

from ctscan.checkpoint import read_checkpoint
from ctscan.metrics import wilson_interval
from ctscan.report import BEGIN, END, generate

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


def test_readme_states_no_accuracy_outside_the_generated_block() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    by_hand = before + rest.split(END)[1]
    card = read_checkpoint(CHECKPOINT).card
    for score in card.metrics.values():
        assert f"{100 * score['accuracy']:.1f} %" not in by_hand
