"""What is said beside the scores: the same words in README, model card and page, and true of the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from ctscan.classes import CLASS_KEYS
from ctscan.evaluation.confidence import judge_confidence
from ctscan.evaluation.intervals import Answers, Estimate, difference, evaluate
from ctscan.evaluation.maps import STAGES, Faithfulness, Lesion, Likeness, Sanity
from ctscan.evaluation.search import describe
from ctscan.model.checkpoint import read_checkpoint
from ctscan.page import words
from ctscan.page.how_good import how_good
from ctscan.results import tries
from ctscan.results.chapters import chapters
from ctscan.results.entries import Ledger, Section, append, read_ledger
from ctscan.results.figures import points
from ctscan.results.findings import OUTSIDE, SHORTCUT, TONE_FALL, judge_control
from ctscan.results.goals import GOALS, normal_is_doubtful, withdrawal
from ctscan.results.grouping_words import stricter
from ctscan.results.model_card import model_card
from ctscan.results.report import generate, numbers
from ctscan.results.summary import PLAIN, SCALE, Results, Try, is_plain, results_of
from ctscan.results.tries import beside_others, comparison, differences, strictest
from ctscan.training.recipe import EvaluateConfig
from tests.conftest import COMMITTED, ROOT
from tests.test_confidence import draw_model

CARD = read_checkpoint(COMMITTED).card
KEYS = CLASS_KEYS
FACTS = {"date": "2026-12-01", "threshold": 0.9, "manifest": "0" * 16}


def answers(n: int = 400, temperature: float = 1.0, seed: int = 0) -> Answers:
    logits, labels = draw_model(n, temperature, seed)
    return Answers(logits, labels, np.arange(n) // 2)


def estimates(found: dict[str, Estimate]) -> dict[str, Any]:
    return {name: vars(value) for name, value in found.items()}


def tried(committed: Ledger) -> dict[str, Any]:
    """The committed recipe's cross-validation, held against a plain one that is worse."""
    gaps = difference(answers(), answers(temperature=-1), KEYS, ["balanced_accuracy", "auroc.normal", "nll"], 100)
    against = {"settings": PLAIN, "measures": estimates(gaps)}
    own = results_of(committed, CARD).grouped
    assert own is not None
    return own | {"date": "2026-12-01", "against": against}


def control(name: Any, normal: float, settings: dict[str, Any]) -> dict[str, Any]:
    found = evaluate(answers(), KEYS, 100)
    measured = found.measures | {"auroc.normal": Estimate(normal, normal - 0.05, normal + 0.05, 0.02)}
    found = replace(found, measures=measured)
    said = FACTS | {"control": name, "settings": settings, "folds": [{}, {}]}
    return said | {"finding": judge_control(name, found, found), **found.to_dict()}


def faithfulness(passed: bool) -> dict[str, Any]:
    randomised = {stage: Likeness(0.1, 0.2) for stage in STAGES}
    lead = Estimate(0.08, 0.02, 0.14, 0.03) if passed else Estimate(0.01, -0.02, 0.04, 0.02)
    tested = Faithfulness(
        n=50,
        sanity=Sanity(randomised, Likeness(0.3, 0.4) if passed else Likeness(0.0, 0.1), passed),
        road={"road": Estimate(0.12, 0.05, 0.2, 0.03), "over_random": lead, "over_centre": lead},
        outside=Estimate(0.05, 0.03, 0.08, 0.01),
        outside_lead=Estimate(-0.1, -0.2, -0.01 if passed else 0.01, 0.05),
    )
    inside = 0.4 if passed else 0.01
    lesions = [Lesion(volume, window, 11, inside, 0.02, 6) for volume in ("a", "b") for window in ("lung", "bone")]
    return FACTS | {"model_id": CARD.model_id, **tested.to_dict(), "lesions": [vars(lesion) for lesion in lesions]}


def searched() -> dict[str, Any]:
    space = {"rate": FloatDistribution(1e-4, 1e-3)}
    made = [
        create_trial(params={"rate": 3e-4}, distributions=dict(space), value=value, state=state)
        for value, state in [(0.61, TrialState.COMPLETE), (0.52, TrialState.COMPLETE), (None, TrialState.PRUNED)]
    ]
    report = {"settings": PLAIN, "folds": (0, 1), "trials": [describe(trial) for trial in made]}
    return {"date": "2026-12-01", "importance": {"rate": 0.613, "weight_decay": 0.387}, **report}


VOLUMES = FACTS | {
    "model_id": CARD.model_id,
    "outlined": [
        {"volume": name, "window": "lung", "outlined": 11, "others": 30, "auroc": auroc, "refused": 2, "unusual": 7}
        for name, auroc in (("a", 0.8123), ("b", 0.6317))
    ],
    "free": [
        {"volume": "c", "window": "lung", "slices": 41, "alarms": 13, "low": 0.1808, "high": 0.4809}
        | {"refused": 1, "unusual": 40}
    ],
}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The committed one, with an entry of every kind for the committed checkpoint."""
    path = tmp_path_factory.mktemp("ledger") / "metrics.json"
    path.write_bytes((COMMITTED.parent / "metrics.json").read_bytes())
    found = judge_confidence(answers(), np.arange(400) // 2 % 5, KEYS, 100)
    added: list[tuple[Section, dict[str, Any]]] = [
        ("grouped", tried(read_ledger(path))),
        ("calibrations", FACTS | {"settings": CARD.training, "folds": 5, **found.to_dict()}),
        ("explanations", faithfulness(True)),
        ("searches", searched()),
    ]
    for section, entry in added:
        append(path, section, entry)
    whole: dict[Any, Any] = dict(read_ledger(path)) | {"volumes": [VOLUMES]}
    return whole


@pytest.fixture(scope="module")
def results(ledger: Ledger) -> Results:
    return results_of(ledger, CARD)


def changed_control(results: Results, name: str, normal: float) -> Results:
    others = [entry for entry in results.controls if entry["control"] != name]
    return replace(results, controls=(*others, control(name, normal, CARD.training)))


def chapter_text(results: Results, place: int) -> str:
    return " ".join(chapters(results)[place].sentences)


def test_a_ledger_without_entries_says_nothing() -> None:
    assert chapters(Results()) == []
    empty: Ledger = {section: [] for section in read_ledger(ROOT / "none.json")}
    assert results_of(empty, CARD) == Results()


def test_readme_card_and_page_say_the_same(ledger: Ledger, results: Results) -> None:
    told = chapters(results)
    assert len(told) == 5
    readme, card, page = numbers(results, ledger["readings"]), model_card(CARD, ledger, results), how_good(results)
    for chapter in told:
        for sentence in (chapter.title, *chapter.sentences):
            assert all(sentence in text for text in (readme, card))
            assert escape(sentence) in page
        for shown in chapter.tables:
            for row in shown.rows:
                line = f"| {' | '.join(map(str, row))} |"
                assert all(line in text for text in (readme, card)), line
                assert all(f">{escape(str(cell))}</t" in page for cell in row)
        for detail in chapter.details:
            assert f"<summary>{escape(detail.caption)}" in page
            assert all(f"| {' | '.join(map(str, row))} |" in card for row in detail.rows)


def test_every_row_is_as_wide_as_its_head(results: Results) -> None:
    shown = [table for chapter in chapters(results) for table in (*chapter.tables, *chapter.details)]
    assert len(shown) == 8 + len(beside_others(results))
    assert all(len(row) == len(table.head) for table in shown for row in table.rows)


def test_nothing_is_said_of_another_model(ledger: Ledger) -> None:
    other = replace(CARD, tensors_sha256="0" * 64, training=CARD.training | {"seed": 1})
    assert [chapter.title for chapter in chapters(results_of(ledger, other))] == ["The search for a recipe"]


def test_the_plain_recipe_is_the_one_that_the_flags_make() -> None:
    config = EvaluateConfig(data=Path("x"), crop="none", tone="none")
    assert config.settings() == PLAIN
    small = PLAIN | dict(zip(SCALE, (128, 12), strict=True))
    assert differences(small) == ""
    assert is_plain(small)
    assert not is_plain(PLAIN | {"mixup": 0.2})
    assert not is_plain(PLAIN | {"rate": 1e-3})
    hull = EvaluateConfig(data=Path("x"), surround="hull", mixup=0.2).settings()
    expected = "cropped to the body, greys spread evenly, black outside the body's hull, mixup 0.2"
    assert differences(hull) == expected


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.title)
def test_a_goal_is_met_at_its_bound_and_not_beyond(goal: Any) -> None:
    beyond = -1e-4 if goal.relation == "at least" else 1e-4
    for value, verdict in ((goal.bound, "met"), (goal.bound + beyond, "not met")):
        found = {"value": 0.3, "low": 0.2, "high": 0.4} | {goal.end: value}
        assert replace(goal, find=lambda _, found=found: found).cells(Results())[2] == verdict
    assert goal.cells(Results())[1:] == ["not measured", ""]


def test_goals_are_measured_where_they_say(results: Results) -> None:
    assert results.grouped is not None
    assert results.published is not None
    by_control = {entry["control"]: entry["measures"]["auroc.normal"]["value"] for entry in results.controls}
    measured = [found["value"] if (found := goal.find(results)) else None for goal in GOALS]
    assert measured == [
        results.grouped["measures"]["balanced_accuracy"]["value"],
        results.grouped["against"]["measures"]["balanced_accuracy"]["value"],
        results.grouped["measures"]["auroc.normal"]["value"],
        results.grouped["matched"]["fall"]["value"],
        by_control["border_only"],
        by_control["tone_only"],
        results.published["measures"]["accuracy"]["value"],
    ]


def test_normal_is_withdrawn_where_a_control_tells_it_apart(ledger: Ledger, results: Results) -> None:
    clean = changed_control(changed_control(results, "border_only", 0.6), "tone_only", SHORTCUT)
    assert not normal_is_doubtful(clean)
    assert withdrawal(clean) == ""
    assert "withdrawn" not in how_good(clean) + numbers(clean, ledger["readings"]) + model_card(CARD, ledger, clean)
    assert not normal_is_doubtful(Results())
    left = OUTSIDE[CARD.preprocess.surround][1]
    for name, seen in (("border_only", left), ("tone_only", "how often each grey occurs")):
        doubtful = changed_control(clean, name, 0.71)
        assert normal_is_doubtful(doubtful)
        sentence = withdrawal(doubtful)
        assert f"by {seen} alone with AUROC 0.71 (0.66 to 0.76)," in sentence
        assert " and by " not in sentence
        assert f'<p class="lead">{escape(sentence)}</p>' in how_good(doubtful)
        assert sentence in numbers(doubtful, ledger["readings"])
        assert sentence in model_card(CARD, ledger, doubtful)
    assert "healthy" in words.NORMAL_WITHDRAWN


def test_what_the_border_leaves_is_named_after_the_surround(results: Results) -> None:
    hidden = CARD.training | {"surround": "hull"}
    entry = control("border_only", 0.9, hidden)
    shown = replace(results, controls=(entry,))
    assert "size and outline of the body's hull alone" in withdrawal(shown)
    sentence = "With one flat grey inside the body's hull, a small network still names the class right in"
    assert escape(sentence) in how_good(shown)
    entry["measures"]["balanced_accuracy"] |= {"low": 0.2}
    assert "not clearly above chance" in how_good(shown)


def test_what_the_recipe_cost_or_gained_is_said(results: Results) -> None:
    assert results.grouped is not None
    assert "a gain;" in comparison(results)
    epochs = CARD.training["epochs"]
    assert f"224 px, {epochs} epochs) minus another (the plain one" in comparison(results)
    gap = results.grouped["against"]["measures"]["balanced_accuracy"]
    for sign, verdict in ((-1, "a cost;"), (0, "which leaves open a gain or a cost of that size;")):
        against = results.grouped["against"]["measures"] | {"balanced_accuracy": turned(gap, sign)}
        entry = results.grouped | {"against": {"settings": PLAIN, "measures": against}}
        assert verdict in comparison(replace(results, grouped=entry))
    falls = results.grouped | {"settings": PLAIN, "matched": {"fall": turned(gap, 1)}}
    measured = replace(results, tried=(Try(falls),))
    assert f"the other's by {points(tries.turned(turned(gap, 1)))}" in comparison(measured)
    assert "no disease" not in comparison(measured)
    plain_controls = {name: control(name, 0.97, PLAIN) for name in ("border_only", "tone_only")}
    controlled = replace(results, tried=(Try(falls, plain_controls),))
    assert "with 0.97 (0.92 to 1.02) and 0.97 (0.92 to 1.02) from the other." in comparison(controlled)
    assert "the other's" not in comparison(replace(results, tried=()))
    plain = results.grouped | {"settings": PLAIN}
    assert "is the plain one" in comparison(replace(results, grouped=plain))
    alone = {key: value for key, value in results.grouped.items() if key != "against"}
    assert comparison(replace(results, grouped=alone, tried=())) == ""
    small = results.grouped | {"settings": CARD.training | {"size": 128, "epochs": 12}}
    assert "128 px, 12 epochs) minus" in comparison(replace(results, grouped=alone, tried=(Try(small),)))
    elsewhere = small | {"against": small["against"] | {"settings": PLAIN | {"crop": "lungs"}}}
    said = comparison(replace(results, grouped=alone, tried=(Try(elsewhere),)))
    assert "minus another (cropped to the lungs; 224 px, 24 epochs)" in said


def test_a_stricter_grouping_is_said_beside_the_number_to_quote(ledger: Ledger, results: Results) -> None:
    strict = results.grouped
    assert strict is not None
    parts = [{"n": n, "balanced_accuracy": 0.5} for n in (300, 200, 100, 100, 90)]
    entry = strict | {"threshold": 0.85, "groups": 129, "n": 790, "folds": parts}
    more: Any = dict(ledger) | {"grouped": [*ledger["grouped"], entry]}
    found = results_of(more, CARD)
    assert found.stricter == entry
    assert found.grouped == strict
    said = stricter(found)
    assert "there are 129 groups" in said
    assert "holds 300 of 790 slices, so its network learned from 490." in said
    shown = numbers(found, ledger["readings"]), model_card(CARD, more, found)
    assert all(said in text for text in shown)
    assert escape(said) in how_good(found)
    unfinished: Any = dict(ledger) | {"grouped": [strict, entry | {"folds": parts[:3]}]}
    assert results_of(unfinished, CARD).stricter is None
    assert stricter(replace(results, stricter=None)) == ""


def test_the_plain_recipe_stands_beside_the_published_figure(ledger: Ledger, results: Results) -> None:
    reading = ledger["readings"][-1] | {"model_id": "resnet18-plain", "settings": PLAIN | {"epochs": 16}}
    scored = ledger["evaluations"][-2] | {"model_id": "resnet18-plain", "split": "published", "n": 258}
    more: Any = dict(ledger) | {"readings": [reading], "evaluations": [*ledger["evaluations"], scored]}
    assert results_of(more, CARD).plain == scored
    assert comparison(results_of(more, CARD)).endswith(" of 258.")
    other: Any = more | {"readings": [reading | {"settings": PLAIN | {"tone": "rank"}}]}
    assert results_of(other, CARD).plain is None
    assert "the plain recipe in" not in comparison(replace(results, plain=None))


def test_what_it_costs_to_pass_every_test_is_said(results: Results) -> None:
    assert results.grouped is not None
    oval = PLAIN | {"crop": "fill", "tone": "clipped_rank", "surround": "oval"}
    fall = {"value": TONE_FALL, "low": 0.0, "high": 0.05}
    entry = results.grouped | {"settings": oval, "matched": {"fall": fall}}
    clean = {name: control(name, 0.5, oval) for name in ("border_only", "tone_only")}
    said = strictest(replace(results, tried=(Try(entry, clean),)))
    assert "the body stretched to a square, greys of one histogram, its top white, black outside an oval" in said
    assert "(224 px, 24 epochs), a gain." in said
    tainted = clean | {"tone_only": control("tone_only", 0.7, oval)}
    steep = entry | {"matched": {"fall": fall | {"value": 0.04}}}
    missing = {"border_only": clean["border_only"]}
    for one in (Try(entry, tainted), Try(steep, clean), Try(entry, missing), Try(results.grouped, clean)):
        assert strictest(replace(results, tried=(one,))) == ""


def test_a_recipe_held_against_another_stands_below_it(results: Results) -> None:
    assert results.grouped is not None
    base = PLAIN | {"crop": "body", "tone": "rank", "size": 128, "epochs": 12}
    entry = results.grouped | {"settings": base}
    against = results.grouped["against"] | {"settings": base}
    mixed, longer, hull = (
        Try(entry | {"settings": base | changed, "against": against})
        for changed in ({"mixup": 0.2}, {"epochs": 24}, {"surround": "hull", "size": 224})
    )
    plain_first = Try(results.grouped | {"settings": PLAIN})
    shown = chapters(replace(results, tried=(plain_first, mixed, Try(entry), longer, hull)))[0]
    first, second = shown.details
    assert [row[0] for row in first.rows] == ["plain recipe", "cropped to the body, greys of one histogram"]
    assert "(cropped to the body, greys of one histogram; 128 px, 12 epochs)" in second.caption
    named = ["that recipe itself", "mixup 0.2", "24 epochs", "black outside the body's hull, 224 px"]
    assert [row[0] for row in second.rows] == named
    gap = points(against["measures"]["balanced_accuracy"])
    assert [row[3] for row in second.rows] == ["", gap, gap, gap]
    assert all(len(row) == len(second.head) for row in second.rows)
    assert differences(PLAIN, PLAIN | {"mixup": 0.2}) == "mixup as by default"


def turned(gap: dict[str, float], sign: int) -> dict[str, float]:
    ends = sorted((sign * gap["low"], sign * gap["high"])) if sign else (-0.01, 0.01)
    return {"value": sign * gap["value"], "low": ends[0], "high": ends[1]}


def test_a_try_shows_controls_of_its_view_at_any_size(ledger: Ledger) -> None:
    rank = PLAIN | {"crop": "body", "tone": "rank", "size": 128}
    entry = ledger["grouped"][-1] | {"settings": rank}
    controls = [*ledger["controls"], control("border_only", 0.58, rank | {"size": 224, "ema": 0.9})]
    more: Any = dict(ledger) | {"grouped": [*ledger["grouped"], entry], "controls": controls}
    (*_, last) = chapters(results_of(more, CARD))[0].details[0].rows
    assert last[0] == "cropped to the body, greys of one histogram"
    assert "0.58 (0.53 to 0.63) at 224 px" in last
    exact = [*controls, control("border_only", 0.61, rank), control("border_only", 0.7, rank | {"size": 224})]
    (*_, last) = chapters(results_of(more | {"controls": exact}, CARD))[0].details[0].rows
    assert "0.61 (0.56 to 0.66)" in last
    assert f"{1 + (entry['matched']['fall']['value'] <= TONE_FALL)} of 2" in last
    assert sum("px" in str(cell) for cell in last) == 0


def test_calibration_in_words(results: Results) -> None:
    assert results.calibration is not None
    text = chapter_text(results, 1)
    assert f"{results.calibration['temperature']['value']:.2f} (" in text
    assert "cannot be told from luck" in text
    assert "no interval below says otherwise" in text
    worse = json.loads(json.dumps(results.calibration))
    worse["perfect_ece"] = worse["calibrated"]["ece"]["value"] / 2
    worse["sets"]["coverage"]["normal"]["high"] = 0.85
    text = chapter_text(replace(results, calibration=worse), 1)
    assert "is more than luck" in text
    assert "too often missed for Normal / benign" in text


def verdicts(results: Results) -> list[str]:
    return [sentence.partition(": ")[2].partition(".")[0] for sentence in chapters(results)[2].sentences[1:4]]


def test_maps_pass_and_fail_in_words(results: Results) -> None:
    assert verdicts(results) == ["passed"] * 3
    assert "on 50 slices of the published test split" in chapter_text(results, 2)
    assert "12 points (5 to 20)" in chapter_text(results, 2)
    assert "in 4 of 4 volumes and windows" in chapter_text(results, 2)
    assert "Whether it does is open, for the strongest place lies in the outline in 24 of" in chapter_text(results, 2)
    assert "Two patients" in chapter_text(results, 2)
    failed = replace(results, explanation=faithfulness(False))
    assert verdicts(failed) == ["failed"] * 3
    assert results.explanation is not None
    elsewhere = [lesion | {"peaks": 0} for lesion in results.explanation["lesions"]]
    unseen = replace(results, explanation=results.explanation | {"lesions": elsewhere})
    assert "That it does is not shown, for the strongest place lies in the outline in 0 of" in chapter_text(unseen, 2)
    unlesioned = replace(results, explanation=faithfulness(True) | {"lesions": []})
    assert chapters(unlesioned)[2].tables == ()


def test_volumes_in_words(results: Results) -> None:
    text = chapter_text(results, 3)
    assert "met in 1 of 2" in text
    assert "two patients" in text
    assert "32 % of 41 slices under the lung window (of all these 1 refused, 40 marked unusual)" in text
    assert "one patient alone" in text
    outlined, free = chapters(results)[3].tables
    assert [row[4:6] for row in outlined.rows] == [["0.812", "met"], ["0.632", "not met"]]
    assert free.rows[0][:4] == ["c", "lung", 41, 13]


def test_a_search_in_words_and_its_plots_in_the_card_alone(ledger: Ledger, results: Results) -> None:
    text = chapter_text(results, 4)
    assert text.startswith(
        "Optuna tried 3 recipes on 2 grouped folds: 2 complete, 1 pruned, lowest cross-entropy 0.520, mean over "
        "classes."
    )
    assert "flatters it a little" in text
    assert "search-history.png" in model_card(CARD, ledger, results)
    without: Any = dict(ledger) | {"searches": []}
    assert "search-history.png" not in model_card(CARD, without, results_of(without, CARD))


def test_the_limit_on_scores_follows_the_calibration(ledger: Ledger, results: Results) -> None:
    uncalibrated = replace(results, calibration=None)
    assert "Scores are not calibrated." in model_card(CARD, ledger, uncalibrated)
    assert "Scores are not calibrated." not in model_card(CARD, ledger, results)
    committed = results_of(read_ledger(COMMITTED.parent / "metrics.json"), CARD)
    readme = generate(ROOT)[ROOT / "README.md"]
    assert ("Scores are not calibrated." in readme) == (committed.calibration is None)


def test_the_cross_validation_shown_is_held_against_this_models_own_answers(ledger: Ledger) -> None:
    newer = {k: v for k, v in ledger["grouped"][-1].items() if k not in ("model_id", "published_minus_grouped")}
    more: Any = dict(ledger) | {"grouped": [*ledger["grouped"], newer]}
    assert results_of(more, CARD).grouped == ledger["grouped"][-1]
