"""Every slice with one histogram: what stays, what goes."""

from __future__ import annotations

import numpy as np

from ctscan.evaluation.studies import body_quantiles, match
from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess

NOISE = np.random.default_rng(0).normal(0, 0.03, (256, 320))
PHANTOM = draw_phantom()
NOISY = np.clip(PHANTOM + NOISE, 0.1, 1)
SLICE = np.where(find_anatomy(PHANTOM).body, NOISY, PHANTOM).astype(np.float32)
BODY = find_anatomy(SLICE).body
OTHER = np.where(BODY, np.clip(SLICE**2 + 0.1, 0, 1), SLICE).astype(np.float32)


def test_a_matched_slice_has_the_reference_and_the_order_of_its_greys() -> None:
    reference = np.mean([body_quantiles(SLICE), body_quantiles(OTHER)], axis=0)
    matched = match(SLICE, reference)
    assert np.abs(np.quantile(matched[BODY], (np.arange(256) + 0.5) / 256) - reference).max() < 0.01
    assert (np.diff(matched[BODY][np.argsort(SLICE[BODY])]) >= 0).all()
    assert np.array_equal(matched[~BODY], SLICE[~BODY])


def test_two_windows_of_a_slice_become_one() -> None:
    reference = body_quantiles(OTHER)
    assert np.abs(SLICE - OTHER).mean() > 0.04
    assert np.abs(match(SLICE, reference) - match(OTHER, reference)).mean() < 1e-3


def test_matching_to_itself_changes_nothing() -> None:
    assert np.abs(match(SLICE, body_quantiles(SLICE)) - SLICE).mean() < 1e-3


def test_ranks_hear_little_of_it() -> None:
    matched = match(SLICE, body_quantiles(OTHER))
    one, other = (Preprocess().square(pixels) for pixels in (SLICE, matched))
    assert np.abs(one - other).mean() < 0.02
