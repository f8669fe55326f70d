"""A checkpoint is exactly what was written, or it is refused with a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import ctscan
from ctscan.errors import DataError, ModelError
from ctscan.inference.gate import KINDS, Reference
from ctscan.model import checkpoint as files
from ctscan.model.card import Card, GateCard, Thresholds
from ctscan.model.checkpoint import Checkpoint, Tensors, read_checkpoint, write_checkpoint
from ctscan.model.runtime import TorchRuntime
from tests.conftest import COMMITTED

AT = Thresholds(refused=0.5, unusual=0.8, far=2.0, strange=20.0, tone=0.04, greys=64, outside=0.2)


@pytest.fixture(scope="module")
def checkpoint(checkpoint_path: Path) -> Checkpoint:
    return read_checkpoint(checkpoint_path)


@pytest.fixture(scope="module")
def gate() -> Tensors:
    shapes = {"weights": (6, 640), "bias": (6,), "neighbours": (9, 512), "usual": (1,), "mean": (128,)}
    shapes |= {"whitening": (128, 128), "tones": (9, 6)}
    generator = np.random.default_rng(0)
    return Reference(**{n: generator.random(s).astype(np.float32) for n, s in shapes.items()}).to_tensors()


def refuse(path: Path, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        ctscan.load(path)
    assert "\n" not in str(caught.value)


def rewrite(path: Path, checkpoint: Checkpoint, **changes: object) -> Path:
    """Another card around the same weights, with a valid seal: only its content can be refused."""
    write_checkpoint(path, replace(checkpoint, card=replace(checkpoint.card, **changes)))  # type: ignore[arg-type]
    return path


def forge(path: Path, raw: bytes, **entries: object) -> Path:
    """The same with entries that the card's class would not take."""
    header, body = files._split(raw)
    text = json.dumps(json.loads(header.pop("__metadata__")["card"]) | entries)
    path.write_bytes(files._encode(header, {"card": text, "sha256": files._digest(header, text, body)}) + body)
    return path


def test_save_load_save_is_byte_identical(checkpoint_path: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "again.safetensors", checkpoint)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint_path.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_the_gate_travels_in_the_file_and_does_not_change_the_models_name(
    checkpoint: Checkpoint, gate: Tensors, tmp_path: Path
) -> None:
    path = tmp_path / "gated.safetensors"
    card = replace(checkpoint.card, gate=GateCard(AT, {"slices": 9}, KINDS))
    written = write_checkpoint(path, Checkpoint(card, checkpoint.tensors, gate))
    again = read_checkpoint(path)
    assert again.card == written == card
    assert written.model_id == checkpoint.card.model_id
    assert again.gate is not None
    assert set(again.tensors) == set(checkpoint.tensors)
    assert {n: v.dtype for n, v in again.gate.items()} == {n: v.dtype for n, v in gate.items()}
    assert all(np.array_equal(again.gate[n], v) for n, v in gate.items())


def test_another_gate_than_this_version_knows_is_refused(checkpoint: Checkpoint, gate: Tensors, tmp_path: Path) -> None:
    card = replace(checkpoint.card, gate=GateCard(AT, {}, KINDS))
    fewer = {n: v for n, v in gate.items() if n != "bias"}
    write_checkpoint(tmp_path / "fewer.safetensors", Checkpoint(card, checkpoint.tensors, fewer))
    refuse(tmp_path / "fewer.safetensors", "gate lacks tensors")
    turned = replace(card, gate=GateCard(AT, {}, KINDS[::-1]))
    write_checkpoint(tmp_path / "kinds.safetensors", Checkpoint(turned, checkpoint.tensors, gate))
    refuse(tmp_path / "kinds.safetensors", "other kinds")


def test_the_committed_model_keeps_its_name_and_has_its_gate(tmp_path: Path) -> None:
    committed = read_checkpoint(COMMITTED)
    assert committed.card.model_id == "resnet18-661400533d1b"
    assert write_checkpoint(tmp_path / "again.safetensors", committed) == committed.card
    assert committed.gate is not None
    assert not list(COMMITTED.parent.glob("*gate*"))


def test_weights_are_half_precision_and_small(checkpoint_path: Path, checkpoint: Checkpoint) -> None:
    assert all(v.dtype == np.float16 for v in checkpoint.tensors.values() if v.ndim > 1)
    assert checkpoint_path.stat().st_size < 24e6


def test_a_flipped_bit_anywhere_is_refused(checkpoint_path: Path, tmp_path: Path) -> None:
    raw = checkpoint_path.read_bytes()
    header = int.from_bytes(raw[:8], "little")
    rng = np.random.default_rng(0)
    places = [3, 9, 8 + header - 1, *rng.integers(8, 8 + header, 60), *rng.integers(8 + header, len(raw), 6)]
    for place in [*places, len(raw) - 1]:
        broken = bytearray(raw)
        broken[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / "broken.safetensors"
        path.write_bytes(broken)
        with pytest.raises(ModelError):
            read_checkpoint(path)


@pytest.mark.parametrize("part", [0, 4, 1000, 0.5, -1])
def test_a_truncated_file_is_refused(checkpoint_path: Path, tmp_path: Path, part: float) -> None:
    raw = checkpoint_path.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(raw[: int(part * len(raw)) if 0 < part < 1 else int(part)])
    refuse(path, "cut off")


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pointer.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 22000000\n")
    refuse(path, "git-lfs pointer")


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    header = b'{"a":' + b"[" * 59_996
    path = tmp_path / "deep.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="header is damaged"):
        read_checkpoint(path)


def test_a_missing_file_a_folder_and_a_foreign_file(tmp_path: Path) -> None:
    refuse(tmp_path / "none.safetensors", "There is no model")
    refuse(tmp_path, "cannot be opened")
    foreign = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, foreign)
    refuse(foreign, "not one that ctscan wrote")


def test_a_file_of_an_earlier_version_is_refused_in_words(checkpoint_path: Path, tmp_path: Path) -> None:
    header, body = files._split(checkpoint_path.read_bytes())
    text = header.pop("__metadata__")["card"]
    earlier = tmp_path / "earlier.safetensors"
    earlier.write_bytes(files._encode(header, {"card": text, "card_sha256": "0" * 64}) + body)
    refuse(earlier, "earlier version of ctscan")
    refuse(forge(tmp_path / "one.safetensors", checkpoint_path.read_bytes(), schema=1), "schema 1.* schema 2")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"classes": ["normal", "adenocarcinoma"]}, "classes are not"),
        ({"extra": 1}, "at extra"),
        ({"calibration": {"temperature": 1.0}}, "at calibration"),
        ({"calibration": {"temperature": 0.0, "alpha": 0.1, "thresholds": [1, 1, 1, 1]}}, "at calibration.temperature"),
        ({"calibration": {"temperature": 1, "alpha": 0.1, "thresholds": [1]}}, "at calibration.thresholds"),
        ({"calibration": [1]}, "at calibration"),
        ({"gate": {"thresholds": {}, "fitted": {}, "kinds": []}}, "at gate.thresholds"),
        ({"preprocess": {"size": 224, "crop": "sideways", "tone": "none", "surround": "keep"}}, "at preprocess"),
        ({"architecture": {"head": "conv"}}, "at architecture.head"),
    ],
)
def test_a_card_that_is_not_as_it_should_be_is_refused_by_name(
    entries: dict[str, object], sentence: str, checkpoint_path: Path, tmp_path: Path
) -> None:
    refuse(forge(tmp_path / "other.safetensors", checkpoint_path.read_bytes(), **entries), sentence)


def test_golden_logits_off_by_more_than_a_thousandth_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    golden = checkpoint.card.golden_logits
    near = (golden[0] + 5e-4, *golden[1:])
    off = (*golden[:3], golden[3] + 2e-3)
    ctscan.load(rewrite(tmp_path / "near.safetensors", checkpoint, golden_logits=near))
    refuse(rewrite(tmp_path / "off.safetensors", checkpoint, golden_logits=off), "self-test")
    refuse(rewrite(tmp_path / "nan.safetensors", checkpoint, golden_logits=(float("nan"),) * 4), "self-test")
    refuse(rewrite(tmp_path / "few.safetensors", checkpoint, golden_logits=golden[:3]), "self-test")


def test_weights_that_do_not_fit_the_card_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    fewer = {n: v for n, v in checkpoint.tensors.items() if n != "trunk.bn1.weight"}
    path = tmp_path / "fewer.safetensors"
    write_checkpoint(path, replace(checkpoint, tensors=fewer))
    refuse(path, "do not fit")
    mlp = replace(checkpoint.card.architecture, head="mlp")
    refuse(rewrite(tmp_path / "mlp.safetensors", checkpoint, architecture=mlp), "do not fit")


def test_what_stood_there_stays_when_writing_fails(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        write_checkpoint(tmp_path / "file" / "x.safetensors", checkpoint)
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_card_survives_its_json(checkpoint: Checkpoint) -> None:
    assert Card.from_json(checkpoint.card.to_json()) == checkpoint.card
    with pytest.raises(ModelError, match="not readable"):
        Card.from_json("[")


def test_a_loaded_network_computes_what_the_stored_weights_say(checkpoint: Checkpoint) -> None:
    squares = np.random.default_rng(0).random((2, 2, 224, 224), np.float32)
    first, second = (TorchRuntime.from_checkpoint(checkpoint).run(squares) for _ in range(2))
    assert np.array_equal(first.logits, second.logits)
