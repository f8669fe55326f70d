"""Maps put to the test: do they depend on the weights, do they mark what the answer rests on, where do they lie?

sanity   with blocks of the network at random, from the head down, maps must become others: less like the true ones
         than the maps of two different slices are (Adebayo et al., NeurIPS 2018; Arun et al., Radiology AI 2021)
road     what a map marks is filled in from its neighbours, first the most, then the least relevant; the better the
         map, the more the first costs over the second (Rong et al., ICML 2022), beside two maps that know nothing
cover    a cell is covered with grey: does the score change by what the map promised for it, within a factor of two?
outside  how much of the evidence lies where no disease can be, beside that of a map spread evenly over what is shown
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import nn
from tqdm.auto import tqdm

from ctscan.classes import NORMAL
from ctscan.evaluation.intervals import mean
from ctscan.imaging.anatomy import Mask, Pixels, find_anatomy
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.gate import share_outside
from ctscan.io.volumes import WINDOWS, Volume
from ctscan.model.checkpoint import Checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import TorchRuntime, build_net, run_in_batches
from ctscan.results.records import Lesion, Likeness, MapTests

SEED = 0
PAIRS = 50
PERCENTILES = [50, 70, 90]  # of a map's values: half, three tenths and a tenth of the square are filled in
STAGES = ("head", "layer4", "layer3", "layer2", "layer1", "stem")
SSIM_SIDE = 56  # px: maps are compared as they are shown, with their cells run into one another
COVERED = 3  # cells a slice, each alone
FACTOR = 2.0  # between what a map promises and what happens
CENTRE_SIGMA = 0.25  # of the square's side

Maps = NDArray[np.float32]


def judge_maps(
    checkpoint: Checkpoint, slices: Sequence[Pixels], volumes: Sequence[Volume] = (), draws: int = 1000
) -> MapTests:
    """All tests of a checkpoint's maps; on two cores about a second a slice and map.

    Args:
        checkpoint: Whose maps.
        slices: (H, W) each, two or more, of different visual groups.
        volumes: With outlined lesions.
        draws: Of slices, for the intervals.
    """
    net, preprocess = build_net(checkpoint).eval().requires_grad_(False), checkpoint.card.preprocess
    squares = np.stack([preprocess.square(pixels) for pixels in slices])
    maps, labels = predicted_maps(net, squares)
    outside, even = outside_shares(preprocess, slices, np.maximum(maps, 0))
    positive = ~np.isnan(outside)
    randomised, pairs = judge_sanity(net, squares)
    size, noise = squares.shape[-1], np.random.default_rng(SEED).random(maps.shape, np.float32)
    compared = {
        "ours": enlarge(maps, size),
        "random": enlarge(noise, size),
        "centre": np.repeat(centre_map(size)[None], len(maps), axis=0),
    }
    top, others = cover(net, squares, maps, labels)
    lost = {name: road(lambda x: net(x).logits, squares, given, labels) for name, given in compared.items()}
    return MapTests(
        model_id=checkpoint.card.model_id,
        n=len(slices),
        randomised=randomised,
        pairs=pairs,
        road=mean(lost["ours"], draws),
        road_over_random=mean(lost["ours"] - lost["random"], draws),
        road_over_centre=mean(lost["ours"] - lost["centre"], draws),
        covered=mean(top, draws),
        covered_elsewhere=mean(others, draws),
        outside=mean(outside[positive], draws),
        outside_lead=mean((outside - even)[positive], draws),
        lesions=tuple(judge_lesion(net, preprocess, volume, window) for volume in volumes for window in WINDOWS),
    )


def predicted_maps(
    net: SliceNet, squares: Pixels, labels: NDArray[np.integer] | None = None
) -> tuple[Maps, NDArray[np.integer]]:
    """Squares (N, 2, S, S) -> the signed maps (N, h, w) of the classes in `labels` or of the likeliest, and these."""
    output = run_in_batches(TorchRuntime(net), squares)
    chosen = output.logits.argmax(axis=1) if labels is None else labels
    return output.maps[np.arange(len(chosen)), chosen], chosen


def randomise(net: SliceNet, seed: int) -> Iterator[tuple[str, SliceNet]]:
    """The network with its head drawn anew, then the block below it as well, and so on to the stem."""
    changed = copy.deepcopy(net)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for stage, block in zip(STAGES, reversed(changed.blocks), strict=True):
            for module in block.modules():
                if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                    module.reset_parameters()
            yield stage, copy.deepcopy(changed)


def enlarge(maps: Maps, size: int) -> Maps:
    """Maps (N, h, w) -> (N, size, size), between the cells bilinear."""
    larger = np.stack([cv2.resize(m, (size, size), interpolation=cv2.INTER_LINEAR) for m in maps])
    return np.asarray(larger, np.float32)


def likeness(first: Maps, second: Maps) -> Likeness:
    """Two sets of maps (N, h, w), pair by pair: ranks of the cells, and structure after each is scaled to 0 to 1."""

    def shown(map_: Maps) -> Maps:
        scaled = (map_ - map_.min()) / max(np.ptp(map_), np.finfo(np.float32).tiny)  # a flat one is 0
        (larger,) = enlarge(scaled[None], SSIM_SIDE)
        return np.asarray(larger)

    ranks, structure = [], []
    for a, b in zip(first, second, strict=True):
        ranks.append(spearmanr(a.ravel(), b.ravel()).statistic)
        structure.append(structural_similarity(shown(a), shown(b), data_range=1.0))  # type: ignore[no-untyped-call]
    return Likeness(spearman=float(np.nanmean(ranks)), ssim=float(np.mean(structure)))


def judge_sanity(net: SliceNet, squares: Pixels) -> tuple[dict[str, Likeness], Likeness]:
    """Squares (N, 2, S, S) of N different scans, two or more.

    Returns:
        Likeness to the true maps by the lowest block at random, and that of the maps of two different slices.
    """
    true, labels = predicted_maps(net, squares)
    stages = tqdm(randomise(net, SEED), "randomised weights", len(STAGES), leave=False)
    randomised = {stage: likeness(true, predicted_maps(other, squares, labels)[0]) for stage, other in stages}
    generator = np.random.default_rng(SEED)
    first = generator.integers(len(squares), size=PAIRS)
    second = (first + generator.integers(1, len(squares), size=PAIRS)) % len(squares)
    return randomised, likeness(true[first], true[second])


def road(
    logits: Callable[[torch.Tensor], torch.Tensor], squares: Pixels, maps: Maps, labels: NDArray[np.integer]
) -> Maps:
    """(N,): how much more probability of its class each slice loses by what its map marks than by what it does not.

    `logits` gives (N, K) of squares (N, 2, S, S). Maps (N, S, S) are of any scale: their order alone counts, so the
    signed map is given, for a map cut off at zero has no order where it is zero.
    """
    metric, losses = ROADCombined(PERCENTILES), []
    with torch.random.fork_rng():
        torch.manual_seed(SEED)  # the filled-in pixels carry a little noise
        for square, map_, label in zip(tqdm(squares, "ROAD", leave=False), maps, labels, strict=True):
            target = ClassifierOutputSoftmaxTarget(int(label))
            weights = torch.from_numpy(square[None, 1:])  # what hides greys must leave them alone

            def ask(greys: torch.Tensor, weights: torch.Tensor = weights) -> torch.Tensor:
                return logits(torch.cat([greys, weights.expand(len(greys), -1, -1, -1)], dim=1))

            halves = metric(torch.from_numpy(square[None, :1]), map_[None], [target], ask)
            losses.append(2 * halves[0])  # the library's definition
    return np.array(losses, np.float32)


def cover(
    net: SliceNet, squares: Pixels, maps: Maps, labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) and (N,): of the `COVERED` cells that mark most, and of as many others, the share that keeps its promise.

    A cell of a map (N, h, w) is kept where covering it, with the mean grey of what is shown, lowers the class's score
    before the softmax by the cell's value within `FACTOR`.
    """
    generator, runtime, kept = np.random.default_rng(SEED), TorchRuntime(net), []
    side = squares.shape[-1] // maps.shape[-1]
    for square, map_, label in zip(squares, maps, labels, strict=True):
        order = np.argsort(-map_, axis=None)
        cells = np.concatenate([order[:COVERED], generator.choice(order[COVERED:], COVERED, replace=False)])
        covered = np.repeat(square[None], len(cells), axis=0)
        for copy_, cell in zip(covered, cells, strict=True):
            row, column = (side * place for place in divmod(int(cell), map_.shape[1]))
            copy_[0, row : row + side, column : column + side] = square[0][square[0] > 0].mean()
        logits = run_in_batches(runtime, np.concatenate([square[None], covered])).logits[:, label]
        ratio = (logits[0] - logits[1:]) / map_.flat[cells]
        kept.append(((ratio >= 1 / FACTOR) & (ratio <= FACTOR)).reshape(2, COVERED).mean(axis=1))
    top, others = np.array(kept).T
    return top, others


def centre_map(size: int) -> Maps:
    """(size, size): a bell in the middle, which no slice has a part in."""
    along = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    squared = along[:, None] ** 2 + along[None, :] ** 2
    return np.asarray(np.exp(-squared / (2 * CENTRE_SIGMA**2)), np.float32)


def outside_shares(preprocess: Preprocess, slices: Sequence[Pixels], maps: Maps) -> tuple[Maps, Maps]:
    """(N,) and (N,): the share outside the body of each map >= 0 (N, h, w), and of one spread over what is shown.

    The whole square counts, its black bars too. The second is as coarse as the first: cells at the body's rim reach
    beyond it, whatever a network has learned. NaN where a map is 0 everywhere.
    """
    pairs = []
    for pixels, map_ in zip(slices, maps, strict=True):
        anatomy = find_anatomy(pixels)
        placement = preprocess.place(anatomy)
        shown = placement.apply(preprocess.visible(anatomy).astype(np.float32))
        even = np.asarray(cv2.resize(shown, map_.shape[::-1], interpolation=cv2.INTER_AREA), np.float32)
        pairs.append([share_outside(cells, placement, anatomy.body) for cells in (map_, even)])
    ours, spread = np.array(pairs, np.float32).T
    return ours, spread


def judge_lesion(net: SliceNet, preprocess: Preprocess, volume: Volume, window: str) -> Lesion:
    """One volume under one window: evidence for the likeliest tumour, slice by slice of those that are outlined."""
    seen = [volume.slice(z, window) for z in volume.outlined()]
    anatomies = [find_anatomy(pixels) for pixels, _ in seen]
    squares = np.stack([preprocess.square(*pair) for pair in zip((p for p, _ in seen), anatomies, strict=True)])
    output = run_in_batches(TorchRuntime(net), squares)
    output.logits[:, NORMAL] = -np.inf
    maps = np.maximum(output.maps[np.arange(len(seen)), output.logits.argmax(axis=1)], 0)
    shares, areas, peaks = [], [], 0
    for map_, anatomy, (_, lesion) in zip(maps, anatomies, seen, strict=True):
        evidence = preprocess.place(anatomy).invert(map_)
        shares.append(share_inside(evidence, lesion))
        areas.append(lesion.sum() / anatomy.body.sum())
        peaks += bool(lesion.flat[evidence.argmax()])
    return Lesion(
        volume=volume.name,
        window=window,
        slices=len(seen),
        inside=float(np.nanmean(shares)),
        area=float(np.mean(areas)),
        peaks=peaks,
    )


def share_inside(evidence: Maps, mask: Mask) -> float:
    """Of evidence >= 0 (H, W) the share that lies in the mask; NaN where there is no evidence."""
    total = float(evidence.sum())
    return float(evidence[mask].sum()) / total if total > 0 else float("nan")
