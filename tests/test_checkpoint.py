"""A checkpoint is exactly what was written, or it is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from ctscan.errors import ModelError
from ctscan.inference.classifier import Classifier
from ctscan.model.card import Card
from ctscan.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ctscan.model.runtime import TorchRuntime


@pytest.fixture(scope="module")
def checkpoint(checkpoint_path: Path) -> Checkpoint:
    return read_checkpoint(checkpoint_path)


def refuse(path: Path, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        Classifier.load(path)
    assert "\n" not in str(caught.value)


def rewrite(path: Path, checkpoint: Checkpoint, **changes: object) -> Path:
    """Another card around the same weights, with valid hashes: only its content can be refused."""
    write_checkpoint(path, replace(checkpoint.card, **changes), checkpoint.tensors)  # type: ignore[arg-type]
    return path


def forge(path: Path, checkpoint: Checkpoint, **entries: object) -> Path:
    """As `rewrite`, but with entries that the dataclass would not take."""
    text = json.dumps(json.loads(checkpoint.card.to_json()) | entries)
    metadata = {"card": text, "card_sha256": hashlib.sha256(text.encode()).hexdigest()}
    path.write_bytes(safetensors.numpy.save(dict(sorted(checkpoint.tensors.items())), metadata))
    return path


def test_save_load_save_is_byte_identical(checkpoint_path: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "again.safetensors", checkpoint.card, checkpoint.tensors)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint_path.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_weights_are_half_precision_and_small(checkpoint_path: Path, checkpoint: Checkpoint) -> None:
    assert all(v.dtype == np.float16 for v in checkpoint.tensors.values() if v.ndim > 1)
    assert checkpoint_path.stat().st_size < 24e6


def test_a_flipped_bit_anywhere_is_refused(checkpoint_path: Path, tmp_path: Path) -> None:
    raw = checkpoint_path.read_bytes()
    header = int.from_bytes(raw[:8], "little")
    rng = np.random.default_rng(0)
    places = [3, 9, *rng.integers(8, 8 + header, 60), *rng.integers(8 + header, len(raw), 6), len(raw) - 1]
    for place in places:
        broken = bytearray(raw)
        broken[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / "broken.safetensors"
        path.write_bytes(broken)
        with pytest.raises(ModelError):
            Classifier.load(path)


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


def test_a_missing_file_a_folder_and_a_foreign_file(tmp_path: Path) -> None:
    refuse(tmp_path / "none.safetensors", "There is no checkpoint")
    refuse(tmp_path, "cannot be opened")
    foreign = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, foreign)
    refuse(foreign, "not one that ctscan wrote")


def test_another_class_list_or_schema_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    swapped = [checkpoint.card.classes[i] for i in (1, 0, 2, 3)]
    refuse(forge(path, checkpoint, classes=swapped), "classes are not")
    refuse(forge(path, checkpoint, classes=[*checkpoint.card.classes, "other"]), "classes are not")
    refuse(forge(path, checkpoint, schema=2), "schema 1")
    refuse(forge(path, checkpoint, extra=1), "unknown")
    for wrong in ({"temperature": 1.0}, {"temperature": 0.0, "alpha": 0.1, "thresholds": [1, 1, 1, 1]}, [1]):
        refuse(forge(path, checkpoint, calibration=wrong), "does not know")
    refuse(forge(path, checkpoint, calibration={"temperature": 1, "alpha": 0.1, "thresholds": [1]}), "does not know")
    refuse(forge(path, checkpoint, preprocess={"size": 224, "crop": "sideways", "tone": "none"}), "does not know")


def test_golden_logits_off_by_more_than_a_thousandth_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    golden = checkpoint.card.golden_logits
    near = (golden[0] + 5e-4, *golden[1:])
    off = (*golden[:3], golden[3] + 2e-3)
    Classifier.load(rewrite(tmp_path / "near.safetensors", checkpoint, golden_logits=near))
    refuse(rewrite(tmp_path / "off.safetensors", checkpoint, golden_logits=off), "self-test")
    refuse(rewrite(tmp_path / "nan.safetensors", checkpoint, golden_logits=(float("nan"),) * 4), "self-test")
    refuse(rewrite(tmp_path / "few.safetensors", checkpoint, golden_logits=golden[:3]), "self-test")


def test_weights_that_do_not_fit_the_card_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    fewer = {n: v for n, v in checkpoint.tensors.items() if n != "trunk.bn1.weight"}
    path = tmp_path / "fewer.safetensors"
    write_checkpoint(path, checkpoint.card, fewer)
    refuse(path, "do not fit")
    mlp = replace(checkpoint.card.architecture, head="mlp")
    refuse(rewrite(tmp_path / "mlp.safetensors", checkpoint, architecture=mlp), "do not fit")


def test_what_stood_there_stays_when_writing_fails(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be written"):
        write_checkpoint(tmp_path / "file" / "x.safetensors", checkpoint.card, checkpoint.tensors)


def test_a_card_survives_its_json(checkpoint: Checkpoint) -> None:
    assert Card.from_json(checkpoint.card.to_json()) == checkpoint.card


def test_a_runtime_gives_logits_and_maps(checkpoint: Checkpoint) -> None:
    output = TorchRuntime.from_checkpoint(checkpoint).run(np.zeros((3, 1, 224, 224), np.float32))
    assert output.logits.shape == (3, 4)
    assert output.maps.shape == (3, 4, 7, 7)
