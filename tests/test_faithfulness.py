"""The tests of maps, tested: a map that is right passes, one that knows nothing does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import nrrd
import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirst as ROADLeast
from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst as ROADMost
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor, nn

from ctscan.errors import DataError
from ctscan.evaluation.maps import (
    PERCENTILES,
    STAGES,
    centre_map,
    cover,
    enlarge,
    judge_lesion,
    judge_maps,
    judge_sanity,
    likeness,
    outside_shares,
    predicted_maps,
    randomise,
    road,
    share_inside,
)  # fmt: skip
from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.io.volumes import WINDOWS, read_volumes
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.network import Outputs, SliceNet
from ctscan.model.runtime import TorchRuntime, build_net
from tests.samples import draw_patient

SIDE = 64


class Spot(nn.Module):
    """A model that rests on the brightness of one corner."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, :16, :16].mean(dim=(1, 2)) * 12 - 6
        return torch.stack([bright, -bright], dim=1)


def squares(n: int) -> np.ndarray:
    return np.stack([Preprocess(SIDE).square(draw_patient(seed)) for seed in range(n)])


def test_road_prefers_the_map_that_marks_what_counts() -> None:
    dark = np.random.default_rng(0).random((4, 1, SIDE, SIDE), np.float32) * 0.2
    dark[:, :, :16, :16] = 0.9
    right = np.zeros((4, SIDE, SIDE), np.float32)
    right[:, :16, :16] = 1
    right += np.random.default_rng(1).random(right.shape, np.float32) * 1e-3
    labels = np.zeros(4, int)
    own, wrong = road(Spot(), dark, right, labels), road(Spot(), dark, 1 - right, labels)
    assert (own > 0.2).all()
    assert (wrong < -0.2).all()
    centred = np.repeat(centre_map(SIDE)[None], 4, axis=0)
    assert (own > road(Spot(), dark, centred, labels)).all()
    assert np.array_equal(own, road(Spot(), dark, right, labels))  # seeded


def test_road_is_what_the_marked_costs_beyond_the_unmarked() -> None:
    dark = np.random.default_rng(0).random((2, 1, SIDE, SIDE), np.float32) * 0.2
    dark[:, :, :16, :16] = 0.9
    right = np.random.default_rng(1).random((2, SIDE, SIDE), np.float32) * 1e-3
    right[:, :16, :16] += 1
    gone = []
    for square, map_ in zip(dark, right, strict=True):
        given = torch.from_numpy(square[None]), map_[None], [ClassifierOutputSoftmaxTarget(0)], Spot()
        changes = [[kind(p)(*given)[0] for kind in (ROADLeast, ROADMost)] for p in PERCENTILES]
        gone.append(np.mean([least - most for least, most in changes]))
    assert road(Spot(), dark, right, np.zeros(2, int)) == pytest.approx(gone, abs=0.02)
    assert min(gone) > 0.1


def test_an_even_map_beside_which_evidence_outside_counts_covers_what_is_shown() -> None:
    pixels = [draw_phantom(256, 320), draw_phantom(200, 260)]
    squares_of = Preprocess(224, "hull", "rank", "hull")
    cells = [
        cv2.resize(
            squares_of.place(a).apply(squares_of.visible(a).astype(np.float32)), (7, 7), interpolation=cv2.INTER_AREA
        )
        for a in map(find_anatomy, pixels)
    ]
    own, even = outside_shares(squares_of, pixels, np.stack(cells))
    assert own == pytest.approx(even)
    middle = np.zeros((2, 7, 7), np.float32)
    middle[:, 3, 3] = 1
    own, even = outside_shares(squares_of, pixels, middle)
    assert (own < even).all()
    assert np.isnan(outside_shares(squares_of, pixels, 0 * middle)[0]).all()
    whole = outside_shares(Preprocess(224, "hull", "rank", "keep"), pixels, middle)[1]
    assert (whole > even).all()  # where table and air are shown, an even map has more of them


class Sum(nn.Module):
    """A model whose maps are exact for covering: the score is the sum of the greys above the mean, cell by cell."""

    def forward(self, x: Tensor) -> Outputs:
        cells = nn.functional.avg_pool2d(x[:, :1], 16)
        maps = torch.cat([cells, -cells], dim=1)
        return Outputs(maps.sum(dim=(2, 3)), maps, cells.flatten(1), cells.flatten(1))


def test_covering_keeps_the_promise_of_a_map_that_adds_up_and_not_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctscan.model.network.fuse", lambda net: net)  # there is nothing to fuse in it
    seen = np.ones((3, 2, SIDE, SIDE), np.float32)
    seen[:, 0] = np.kron(np.random.default_rng(0).random((3, 4, 4)), np.ones((16, 16))) * 0.1 + 1e-3
    seen[:, 0, :16, :48] = 0.9  # three cells that stand out
    net, labels = cast(SliceNet, Sum()), np.zeros(3, int)
    maps = TorchRuntime(net).run(seen).maps[:, 0]
    mean_grey = seen[:, 0].mean(axis=(1, 2))[:, None, None]
    for share in cover(net, seen, maps - mean_grey, labels):
        assert share == pytest.approx(1)
    assert cover(net, seen, 9 * (maps - mean_grey), labels)[0] == pytest.approx(0)


def test_weights_are_drawn_anew_from_the_head_down(checkpoint_path: Path) -> None:
    net = build_net(read_checkpoint(checkpoint_path))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    drawn = dict(randomise(net, seed=0))
    assert tuple(drawn) == STAGES
    head, last = drawn["head"].state_dict(), drawn["stem"].state_dict()
    assert all(torch.equal(head[name], before[name]) == (not name.startswith("head")) for name in before)
    moved = [name for name in before if name.endswith("weight") and before[name].ndim > 1]
    assert not any(torch.equal(last[name], before[name]) for name in moved)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_sanity_is_reported_by_stage(checkpoint_path: Path) -> None:
    randomised, pairs = judge_sanity(build_net(read_checkpoint(checkpoint_path)), squares(6))
    assert tuple(randomised) == STAGES
    assert randomised["stem"].spearman < 0.9
    assert -1 <= pairs.spearman <= 1


def test_a_map_is_like_itself_and_unlike_its_opposite() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 7, 7)).astype(np.float32)
    same, opposite = likeness(maps, 3 * maps + 1), likeness(maps, -maps)
    assert (same.spearman, same.ssim) == pytest.approx((1, 1), abs=1e-5)
    assert opposite.spearman == pytest.approx(-1)
    assert opposite.ssim < 0


def test_the_share_inside_a_mask_by_hand() -> None:
    evidence, mask = np.array([[1, 2], [3, 4]], np.float32), np.array([[True, False], [False, True]])
    assert share_inside(evidence, mask) == 0.5
    assert np.isnan(share_inside(np.zeros((2, 2), np.float32), mask))


def test_enlarged_maps_peak_where_the_cell_lies() -> None:
    cells = np.zeros((1, 7, 7), np.float32)
    cells[0, 1, 5] = 1
    row, column = np.unravel_index(enlarge(cells, 70)[0].argmax(), (70, 70))
    assert (row // 10, column // 10) == (1, 5)


def test_maps_of_given_classes_are_theirs(checkpoint_path: Path) -> None:
    net, some = build_net(read_checkpoint(checkpoint_path)), squares(3)
    (first, _), (second, _) = (predicted_maps(net, some, np.full(3, label)) for label in (0, 1))
    assert first.shape == (3, 2, 2)
    assert not np.allclose(first, second)


def write_volume(folder: Path, space: str = "left-posterior-superior") -> None:
    units: np.ndarray = np.stack([draw_phantom(96, 96) * 1400 - 1000] * 5).astype(np.int16)
    lesion = np.zeros(units.shape, np.uint8)
    lesion[1:3, 40:60, 20:40] = 1
    header = {"space": space, "space directions": np.diag([0.7, 0.7, 5.0]), "space origin": [0, 0, 0]}
    for kind, values in (("image", units), ("label", lesion)):
        nrrd.write(str(folder / f"one_{kind}.nrrd"), values.transpose(2, 1, 0), header)


def test_lesions_are_read_as_the_patient_lies_and_judged(checkpoint_path: Path, tmp_path: Path) -> None:
    write_volume(tmp_path)
    (volume,) = read_volumes(tmp_path)
    assert volume.outlined() == [1, 2]
    pixels, lesion = volume.slice(1, "lung")
    assert lesion[45, 25]
    assert not lesion[25, 45]
    expected = np.clip((draw_phantom(96, 96) * 1400 - 1000 + 600) / 1500 + 0.5, 0, 1)
    assert np.abs(pixels - expected).max() < 1e-3
    checkpoint = read_checkpoint(checkpoint_path)
    for window in WINDOWS:
        lesion_ = judge_lesion(build_net(checkpoint), checkpoint.card.preprocess, volume, window)
        assert (lesion_.window, lesion_.slices) == (window, 2)
        assert 0 <= lesion_.inside <= 1
        assert 0 < lesion_.area < 0.3
        assert 0 <= lesion_.peaks <= 2


def test_a_volume_that_lies_otherwise_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path, "right-anterior-superior")
    with pytest.raises(DataError, match="left, posterior"):
        read_volumes(tmp_path)
    (tmp_path / "one_label.nrrd").unlink()
    with pytest.raises(DataError, match="beside it"):
        read_volumes(tmp_path)
    (tmp_path / "one_image.nrrd").unlink()
    with pytest.raises(DataError, match="no volume"):
        read_volumes(tmp_path)


@pytest.mark.slow
def test_all_of_it_on_a_few_slices(checkpoint_path: Path) -> None:
    slices = [np.pad(draw_patient(seed), 30) for seed in range(2)]
    checkpoint = read_checkpoint(checkpoint_path)
    small = replace(checkpoint, card=replace(checkpoint.card, preprocess=Preprocess(96)))  # nine cells
    entry = judge_maps(small, slices, draws=100)
    assert entry.n == 2
    assert entry.covered is not None
    assert 0 <= entry.covered.value <= 1
    assert tuple(entry.randomised) == STAGES
    assert 0 <= entry.outside.low <= entry.outside.value <= entry.outside.high <= 1
    assert -entry.outside.value <= entry.outside_lead.value < 0.6
