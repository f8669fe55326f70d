"""Trainings that must fail. What a control learns, a model may learn too, and it would not be the disease.

shuffled_labels  each visual group gets another group's class: beyond chance, something leaks
border_only      everything inside the body is black: outline, table, burned-in signs remain
lungs_black      the hull of each lung is black: bones, heart, body shape and window remain
tone_only        the pixels are shuffled: how often each grey occurs remains

Each hides something of the square that the recipe's own preprocessing makes, after it: the question is what the
network that is shipped could use. So a crop still tells the body's proportions, and ranks were made with the
inside that is then hidden. Where `surround` blackens what lies outside, border_only would be a black square; what
it leaves is then one flat grey, so that its outline, all that a border can still tell, remains to be seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import Anatomy, Mask, Pixels, find_anatomy
from ctscan.imaging.preprocess import Preprocess

Control = Literal["none", "shuffled_labels", "border_only", "lungs_black", "tone_only"]
CONTROLS: tuple[Control, ...] = get_args(Control)[1:]
FLAT_GREY = 0.5
SHUFFLES = 6  # of the labels: how they happen to fall among look-alikes moves the result more than groups tell


def view(control: Control, preprocess: Preprocess) -> Callable[[Pixels], Pixels]:
    """Slice pixels (H, W) -> the square (1, S, S) that this control's network is shown."""

    def hide(pixels: Pixels, find: Callable[[Anatomy], Mask], grey: float = 0) -> Pixels:
        anatomy = find_anatomy(pixels)
        square, placement = preprocess(pixels, anatomy)
        hidden = placement.apply(find(anatomy).astype(np.float32)) > 0
        return np.where(hidden, grey, square).astype(np.float32)

    match control:
        case "border_only" if preprocess.surround == "keep":
            return lambda pixels: hide(pixels, lambda anatomy: anatomy.body)
        case "border_only":
            return lambda pixels: hide(pixels, preprocess.visible, FLAT_GREY)
        case "lungs_black":
            return lambda pixels: hide(pixels, lambda anatomy: anatomy.lung_hulls)
        case "tone_only":
            return lambda pixels: shuffle_pixels(preprocess.square(pixels))
        case _:
            return preprocess.square


def shuffle_pixels(square: Pixels) -> Pixels:
    """The same greys in a random order of each slice's own, the same at every call."""
    generator = np.random.default_rng(zlib.crc32(square.tobytes()))
    return generator.permutation(square.ravel()).reshape(square.shape)


def shuffle_labels(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """Every group's slices take the label of another group drawn without replacement: (N,) -> (N,).

    A group of several classes stands in the draw with its most frequent one.
    """
    names, place = np.unique(groups, return_inverse=True)
    own = np.array([np.bincount(labels[place == i]).argmax() for i in range(len(names))], np.int64)
    drawn: NDArray[np.int64] = np.random.default_rng(seed).permutation(own)[place]
    return drawn
