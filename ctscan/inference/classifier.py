"""A file, a slice or an array -> the answer that page, API, command line and library give, word for word the same.

    source --read--> Slice --gate--> refused | unusual | ok --network--> Prediction --> Answer

The gate always comes first; a model without one calls every slice unusual. No state: threads may share one classifier.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctscan.bundle import MODEL, bundled
from ctscan.errors import ModelError, UnreadableSlice
from ctscan.imaging.anatomy import Anatomy, find_anatomy
from ctscan.imaging.lettering import has_lettering
from ctscan.inference.answer import Answer, Prediction
from ctscan.inference.confidence import calibrate, prediction_sets
from ctscan.inference.gate import Gate, Judgement, Ungated
from ctscan.io.images import Slice, read_file, read_slice
from ctscan.io.medical import Window, resolve
from ctscan.model.card import Card
from ctscan.model.checkpoint import Tensors, is_checkpoint, read_checkpoint
from ctscan.model.runtime import OnnxRuntime, Runtime, TorchRuntime, choose_device, golden_logits
from ctscan.notices import Notice

GOLDEN_TOLERANCE = 1e-3  # logits, fp32: what processors differ by is below it, what a wrong weight does is above
GOLDEN_TOLERANCE_INT8 = 0.1  # a value rounded to the next of 256 steps moves logits by 0.03, a saturated sum by more
ROUNDING = 1e-6  # how far a float array may lie outside [0, 1]

Source: TypeAlias = str | os.PathLike[str] | bytes | Slice | NDArray[np.floating]
Reader: TypeAlias = Callable[..., Slice]  # of bytes, and of slice and window as `read_slice`; raises UnreadableSlice
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Patch:
    """A disc that covers a place of a slice: centre and radius in its pixels."""

    x: float
    y: float
    radius: float


class Classifier:
    """A model that answers: card, runtime, and the gate that was fitted to them."""

    def __init__(self, card: Card, runtime: Runtime, gate: Tensors | None = None) -> None:
        """Raises ModelError where the gate's tensors do not fit the card."""
        self.card = card
        self.runtime = runtime
        self.gate: Gate | Ungated
        if card.gate is None:
            self.gate = Ungated()
        elif gate is None:
            raise ModelError("The model's card speaks of a gate, but its gate is missing.")
        else:
            self.gate = Gate(card.gate, gate, runtime)

    def __call__(self, source: Source, reader: Reader = read_slice) -> Answer:
        """What ctscan says of one source; the gate is asked first.

        Args:
            source: A path, the bytes of a picture file, a `Slice`, or a float array (H, W) in [0, 1].
            reader: How bytes are read; for strangers' files `Decoder.read`, in a process of its own.

        Returns:
            The answer. A file that cannot be read is an answer too, not an error.

        Raises:
            TypeError: The source is something else, or an array of whole numbers.
            ValueError: An array that is no picture: another shape, values that are not in [0, 1].
        """
        return next(self.many([source], 1, reader))

    def many(
        self, sources: Iterable[Source], batch: int = 32, reader: Reader = read_slice, threads: int = 0
    ) -> Iterator[Answer]:
        """The same answers for many sources, in order, with two forward passes a batch.

        Args:
            sources: As for one; taken as they are needed.
            batch: How many are answered at once.
            reader: How bytes are read.
            threads: How many batches are worked on at once, ahead of what is asked for; with 0 one, when it is.

        Yields:
            One answer a source; probabilities differ from those for one source by less than 1e-5.

        Raises:
            TypeError: As for one source.
            ValueError: As for one source, or `batch` is below 1.
        """
        if batch < 1:
            raise ValueError(f"batch must be 1 or more, not {batch}")
        answer = partial(self._answer, reader=reader)
        yield from chain.from_iterable(work_ahead(answer, batches(sources, batch), threads))

    def cover(self, source: Source, patches: Sequence[Patch], reader: Reader = read_slice) -> Prediction | None:
        """What the network says once places are covered with the body's mean grey, and nothing else is changed.

        Crop, surround and verdict are those of the slice as it came, so that the change of a score is the covered
        places' alone. None for what gets no scores.

        Args:
            source: As for an answer.
            patches: What is covered.
            reader: How bytes are read.
        """
        try:
            slice_ = read(source, reader)
        except UnreadableSlice:
            return None
        anatomy = find_anatomy(slice_.pixels)
        judgements = self.gate.judge([slice_], [anatomy])
        rows, columns = np.ogrid[: anatomy.shape[0], : anatomy.shape[1]]
        covered = np.zeros(anatomy.shape, bool)
        for patch in patches:
            covered |= (columns + 0.5 - patch.x) ** 2 + (rows + 0.5 - patch.y) ** 2 <= patch.radius**2
        grey = slice_.pixels[anatomy.body].mean()
        hidden = replace(slice_, pixels=np.where(covered, grey, slice_.pixels).astype(np.float32))
        return self._predict([hidden], [anatomy], judgements)[0]

    def _answer(self, sources: Sequence[Source], reader: Reader) -> list[Answer]:
        """The answers of a batch: read, judge, predict, and say what is to be said of it."""
        answers: dict[int, Answer] = {}
        slices: dict[int, Slice] = {}
        for place, source in enumerate(sources):
            try:
                slices[place] = read(source, reader)
            except UnreadableSlice as error:
                answers[place] = Answer("unreadable", (error.notice,), self.card.model_id)
        read_ones, anatomies = list(slices.values()), [find_anatomy(slice_.pixels) for slice_ in slices.values()]
        judgements = self.gate.judge(read_ones, anatomies)
        predictions = self._predict(read_ones, anatomies, judgements)
        rows = zip(slices, read_ones, anatomies, judgements, predictions, strict=True)
        for place, slice_, anatomy, judgement, prediction in rows:
            notices = judgement.reasons
            if prediction:
                evidence = np.maximum(prediction.maps[prediction.top], 0)
                notices += self.gate.find_shortcut(evidence, prediction.placement, anatomy)
                notices += (Notice("lettering"),) if has_lettering(slice_.pixels, anatomy) else ()
            notices += slice_.notices
            answers[place] = Answer(judgement.verdict, notices, self.card.model_id, slice_, prediction)
        return [answers[place] for place in range(len(sources))]

    def _predict(
        self, slices: Sequence[Slice], anatomies: Sequence[Anatomy], judgements: Sequence[Judgement]
    ) -> list[Prediction | None]:
        """One forward pass over the slices that may be scored; None for the others.

        Scores of unusual ones stay raw, and have no set.
        """
        predictions: list[Prediction | None] = [None] * len(slices)
        scored = [index for index, judgement in enumerate(judgements) if judgement.verdict != "refused"]
        if not scored:
            return predictions
        seen = [self.card.preprocess(slices[index].pixels, anatomies[index]) for index in scored]
        output = self.runtime.run(np.stack([square for square, _ in seen]))
        for row, (index, (square, placement)) in enumerate(zip(scored, seen, strict=True)):
            usual = judgements[index].verdict == "ok"
            probabilities = calibrate(output.logits[row], self.card.temperature if usual else 1.0)
            possible = None
            if usual and self.card.calibration:
                inside = prediction_sets(probabilities, np.array(self.card.calibration.thresholds))
                possible = tuple(key for key, holds in zip(self.card.classes, inside, strict=True) if holds)
            predictions[index] = Prediction(
                classes=self.card.classes,
                logits=output.logits[row],
                probabilities=probabilities,
                possible=possible,
                maps=output.maps[row],
                square=square[0],
                placement=placement,
                map_top=self.card.map_scale_top,
            )
        return predictions


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """So many at once, taken as they are needed; the last ones may be fewer."""
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])


def work_ahead(work: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """What `work` makes of each item, in order; each thread works on one that is not asked for yet, or one waits."""
    if not threads:
        yield from map(work, items)
        return
    pool, under_way = ThreadPoolExecutor(threads), deque[Future[Made]]()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read(
    source: Source, reader: Reader = read_slice, *, slice: int | None = None, window: Window | None = None
) -> Slice:
    """One slice, as every stage takes it.

    Args:
        source: A path, the bytes of a picture file, a `Slice`, or a float array (H, W) in [0, 1], black to white.
        reader: How bytes are read.
        slice: Which slice or frame of a medical file, counted from 0, in a volume from the feet up; the middle one by
            default.
        window: Under which Hounsfield units become greys: `lung`, `mediastinal`, `bone`, `training` (by default),
            `file` for the file's own, or centre and width.

    Raises:
        UnreadableSlice: The file cannot be opened, or is no picture that gives a slice.
        TypeError: The source is something else, or its values are no floats.
        ValueError: An array of another shape, or with values that are not in [0, 1]; there is no such window.
    """
    if slice is not None or window is not None:
        resolve(window)
        reader = partial(reader, slice=slice, window=window)
    if isinstance(source, str | os.PathLike):
        return reader(read_file(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return reader(bytes(source))
    if not isinstance(source, Slice | np.ndarray):
        raise TypeError(f"a slice is a path, bytes, a ctscan.Slice or a float array, not {type(source).__name__}")
    slice_ = source if isinstance(source, Slice) else Slice(source)
    pixels = slice_.pixels
    if not isinstance(pixels, np.ndarray):
        raise TypeError(f"a slice's pixels are an array, not {type(pixels).__name__}")
    if not np.issubdtype(pixels.dtype, np.floating):
        raise TypeError(f"a slice holds floats in [0, 1], not {pixels.dtype}; divide by the value of white")
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"a slice has the shape (H, W), not {pixels.shape}")
    if not (pixels.min() >= -ROUNDING and pixels.max() <= 1 + ROUNDING):  # so that NaN fails
        raise ValueError(f"a slice holds values in [0, 1], not {pixels.min():g} to {pixels.max():g}")
    return replace(slice_, pixels=np.ascontiguousarray(np.clip(pixels, 0, 1), np.float32))


def load(path: str | Path | None = None, device: str = "cpu", cores: int | None = None) -> Classifier:
    """A classifier, read, verified and tested.

    Args:
        path: A checkpoint or an exported ONNX file, told apart by content; by default the checkpoint that ctscan
            brings. An ONNX file needs no torch.
        device: `cpu`, `cuda`, or `auto` for cuda where there is one; ONNX Runtime computes on the processor.
        cores: How many a forward pass may use, all by default; of torch this holds for the whole process.

    Raises:
        ModelError: The file is not there or not exactly what ctscan wrote, or the device or a package is missing.

    Example:
        >>> load().card.model_id
        'resnet18-661400533d1b'
    """
    file = Path(path) if path is not None else bundled(MODEL)
    tolerance = GOLDEN_TOLERANCE
    if is_checkpoint(file):
        checkpoint = read_checkpoint(file)
        runtime = TorchRuntime.from_checkpoint(checkpoint, choose_device(device), cores)
        classifier = Classifier(checkpoint.card, runtime, checkpoint.gate)
    elif device == "cuda":
        raise ModelError("--device cuda: an exported file is computed on the processor; give the checkpoint itself.")
    else:
        onnx = OnnxRuntime(file, cores)
        classifier = Classifier(onnx.card, onnx, onnx.gate)
        tolerance = GOLDEN_TOLERANCE if onnx.export.get("precision") == "fp32" else GOLDEN_TOLERANCE_INT8
    card = classifier.card
    golden, logits = np.array(card.golden_logits), np.array(golden_logits(classifier.runtime, card.preprocess))
    # `not <=` so that NaN fails
    if logits.shape != golden.shape or not np.abs(logits - golden).max() <= tolerance:
        raise ModelError("The model fails its self-test: its answer to the synthetic slice is not the one in its card.")
    return classifier
