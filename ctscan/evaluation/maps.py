"""Maps put to the test: do they depend on the weights, do they mark what the answer rests on, where do they lie?

sanity   with blocks of the network at random, from the head down, maps must become others: less like the true ones
         than the maps of two different slices are (Adebayo et al., NeurIPS 2018; Arun et al., Radiology AI 2021)
road     what a map marks is filled in from its neighbours, first the most, then the least relevant; the better the
         map, the more the first costs over the second (Rong et al., ICML 2022), beside two maps that know nothing
outside  how much of the evidence lies where no disease can be, beside that of a map spread evenly over what is shown
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from datetime import date

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
from ctscan.evaluation.intervals import estimate, resample
from ctscan.imaging.anatomy import Mask, Pixels, find_anatomy
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.gate import share_outside
from ctscan.io.volumes import WINDOWS, Volume
from ctscan.model.checkpoint import Checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import TorchRuntime, build_net, run_in_batches
from ctscan.results.records import Estimate, Lesion, Likeness, MapTests

PAIRS = 50
PERCENTILES = [50, 70, 90]  # of a map's values: half, three tenths and a tenth of the square are filled in
STAGES = ("head", "layer4", "layer3", "layer2", "layer1", "stem")
SSIM_SIDE = 56  # px: maps are compared as they are shown, with their cells run into one another
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
    net, preprocess = build(checkpoint), checkpoint.card.preprocess
    squares = np.stack([preprocess.square(pixels) for pixels in slices])
    outside, even = outside_shares(preprocess, slices, np.maximum(predicted_maps(net, squares), 0))
    positive = ~np.isnan(outside)
    randomised, pairs = judge_sanity(net, squares)
    road_, over_random, over_centre = judge_road(net, squares, draws)
    return MapTests(
        date=date.today().isoformat(),
        model_id=checkpoint.card.model_id,
        n=len(slices),
        randomised=randomised,
        pairs=pairs,
        road=road_,
        road_over_random=over_random,
        road_over_centre=over_centre,
        outside=mean(outside[positive], draws),
        outside_lead=mean((outside - even)[positive], draws),
        lesions=tuple(judge_lesion(net, preprocess, volume, window) for volume in volumes for window in WINDOWS),
    )


def build(checkpoint: Checkpoint) -> SliceNet:
    """The network of a checkpoint, to be looked at."""
    return build_net(checkpoint).eval().requires_grad_(False)


def predicted_maps(net: SliceNet, squares: Pixels, labels: NDArray[np.integer] | None = None) -> Maps:
    """Squares (N, 1, S, S) -> the signed maps (N, h, w) of the classes in `labels`, or of those that are predicted."""
    output = run_in_batches(TorchRuntime(net), squares)
    chosen = output.logits.argmax(axis=1) if labels is None else labels
    maps: Maps = output.maps[np.arange(len(chosen)), chosen]
    return maps


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
    ranks = [float(spearmanr(a.ravel(), b.ravel()).statistic) for a, b in zip(first, second, strict=True)]
    pictures = zip(*(enlarge(unit_range(maps), SSIM_SIDE) for maps in (first, second)), strict=True)
    structure = [float(structural_similarity(a, b, data_range=1.0)) for a, b in pictures]  # type: ignore[no-untyped-call]
    return Likeness(spearman=float(np.nanmean(ranks)), ssim=float(np.mean(structure)))


def unit_range(maps: Maps) -> Maps:
    """Each map moved and scaled to 0 to 1; a flat one is 0."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    scaled: Maps = (maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return scaled


def judge_sanity(net: SliceNet, squares: Pixels, seed: int = 0) -> tuple[dict[str, Likeness], Likeness]:
    """Squares (N, 1, S, S) of N different scans, two or more.

    Returns:
        Likeness to the true maps by the lowest block at random, and that of the maps of two different slices.
    """
    labels = run_in_batches(TorchRuntime(net), squares).logits.argmax(axis=1)
    true = predicted_maps(net, squares, labels)
    stages = tqdm(randomise(net, seed), "randomised weights", len(STAGES), leave=False)
    randomised = {stage: likeness(true, predicted_maps(other, squares, labels)) for stage, other in stages}
    generator = np.random.default_rng(seed)
    first = generator.integers(len(squares), size=PAIRS)
    second = (first + generator.integers(1, len(squares), size=PAIRS)) % len(squares)
    return randomised, likeness(true[first], true[second])


class Logits(nn.Module):
    """A network of which only the logits are asked."""

    def __init__(self, net: SliceNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        """Squares (N, 1, S, S) -> (N, K)."""
        return self.net(squares).logits  # type: ignore[no-any-return]


def road(net: nn.Module, squares: Pixels, maps: Maps, labels: NDArray[np.integer], seed: int = 0) -> Maps:
    """(N,): how much more probability of its class each slice loses by what its map marks than by what it does not.

    Squares (N, 1, S, S), maps (N, S, S) of any scale: their order alone counts, so the signed map is given, for a map
    cut off at zero has no order where it is zero.
    """
    metric, found = ROADCombined(PERCENTILES), []
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the filled-in pixels carry a little noise
        for square, map_, label in zip(tqdm(squares, "ROAD", leave=False), maps, labels, strict=True):
            target = ClassifierOutputSoftmaxTarget(int(label))
            half = metric(torch.from_numpy(square[None]), map_[None], [target], net)[0]  # the library's definition
            found.append(2 * half)
    return np.array(found, np.float32)


def judge_road(net: SliceNet, squares: Pixels, draws: int, seed: int = 0) -> tuple[Estimate, Estimate, Estimate]:
    """ROAD of our maps, and its lead over random and over centred maps, slice by slice."""
    labels = run_in_batches(TorchRuntime(net), squares).logits.argmax(axis=1)
    maps, size = predicted_maps(net, squares, labels), squares.shape[-1]
    noise = np.random.default_rng(seed).random(maps.shape, np.float32)
    others = enlarge(noise, size), np.repeat(centre_map(size)[None], len(maps), axis=0)
    ours = road(Logits(net), squares, enlarge(maps, size), labels, seed)
    over_random, over_centre = (mean(ours - road(Logits(net), squares, other, labels, seed), draws) for other in others)
    return mean(ours, draws), over_random, over_centre


def centre_map(size: int) -> Maps:
    """(size, size): a bell in the middle, which no slice has a part in."""
    along = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    squared = along[:, None] ** 2 + along[None, :] ** 2
    return np.asarray(np.exp(-squared / (2 * CENTRE_SIGMA**2)), np.float32)


def mean(values: NDArray[np.floating], draws: int) -> Estimate:
    """The mean of values (N,) of N different visual groups, with its interval over them."""
    drawn = [float(values[index].mean()) for (index,) in resample([np.arange(len(values))], draws)]
    return estimate(float(values.mean()), drawn)


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


def share_inside(evidence: Maps, mask: Mask) -> float:
    """Of evidence >= 0 (H, W) the share that lies in the mask; NaN where there is no evidence."""
    total = float(evidence.sum())
    return float(evidence[mask].sum()) / total if total > 0 else float("nan")


def judge_lesion(net: SliceNet, preprocess: Preprocess, volume: Volume, window: str) -> Lesion:
    """One volume under one window."""
    seen = [volume.slice(z, window) for z in volume.outlined()]
    placed = [preprocess(pixels) for pixels, _ in seen]
    squares = np.stack([square for square, _ in placed])
    logits = run_in_batches(TorchRuntime(net), squares).logits
    logits[:, NORMAL] = -np.inf
    maps = np.maximum(predicted_maps(net, squares, logits.argmax(axis=1)), 0)
    evidence = [placement.invert(map_) for map_, (_, placement) in zip(maps, placed, strict=True)]
    pairs = list(zip(evidence, seen, strict=True))
    return Lesion(
        volume=volume.name,
        window=window,
        slices=len(seen),
        inside=float(np.nanmean([share_inside(e, lesion) for e, (_, lesion) in pairs])),
        area=float(np.mean([lesion.sum() / find_anatomy(pixels).body.sum() for pixels, lesion in seen])),
        peaks=sum(bool(lesion.ravel()[e.argmax()]) for e, (_, lesion) in pairs),
    )
