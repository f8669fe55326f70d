"""Exported files answer as PyTorch does, keep their gate, vouch for themselves, and need neither ctscan nor torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

import ctscan
from ctscan import export
from ctscan.cli import main
from ctscan.errors import ModelError
from ctscan.export import OPSET, Exported, export_int8, export_onnx, write_onnx
from ctscan.metrics import softmax
from ctscan.model.card import Architecture, Card
from ctscan.model.checkpoint import Checkpoint, read_checkpoint
from ctscan.model.runtime import OnnxRuntime, TorchRuntime, build_net, import_onnxruntime
from ctscan.training.data import read_dataset
from tests.conftest import ROOT, running_app, write_random_checkpoint
from tests.samples import write_data

EXAMPLES = ROOT / "examples"
FP32 = {"precision": "fp32", "opset": OPSET}

# A program that imports nothing of ctscan: file, squares.npz in, answers.npz out, the card on standard output.
OPEN_ONNX = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [node.name for node in session.get_outputs()]
answers = {}
for key, squares in numpy.load(sys.argv[2]).items():
    answers |= {f"{name}.{key}": v for name, v in zip(names, session.run(names, {"slices": squares}))}
numpy.savez(sys.argv[3], **answers)
print(session.get_modelmeta().custom_metadata_map["card"])
assert not {"ctscan", "torch", "onnx"} & set(sys.modules)
"""


def silent(_: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def source(best_checkpoint: Path) -> Checkpoint:
    return read_checkpoint(best_checkpoint)


@pytest.fixture(scope="module")
def exported(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of the committed checkpoint, alone in its folder."""
    path = tmp_path_factory.mktemp("onnx") / "best.onnx"
    export_onnx(source, path, EXAMPLES, silent)
    return path


@pytest.fixture(scope="module")
def model(exported: Path) -> bytes:
    """Its graph without metadata."""
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    serialised: bytes = proto.SerializeToString()
    return serialised


def run(*arguments: object, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, check=False)


def close(given: NDArray[np.floating], expected: NDArray[np.floating], tolerance: float) -> None:
    assert given.shape == expected.shape
    assert float(np.abs(given - expected).max()) <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_file_answers_alike_where_ctscan_is_not(
    head: str, source: Checkpoint, exported: Path, tmp_path: Path
) -> None:
    """The committed model, whose head is linear, and a random one with the other head."""
    if head == "mlp":
        source = read_checkpoint(write_random_checkpoint(tmp_path / "mlp.safetensors", Architecture(head="mlp")))
        export_onnx(source, tmp_path / "file", EXAMPLES, silent)
    else:
        shutil.copy(exported, tmp_path / "file")
    generator, side = np.random.default_rng(5), source.card.preprocess.size
    batches = {str(n): generator.random((n, 2, side, side), np.float32) for n in (1, 3)}
    np.savez(tmp_path / "squares.npz", **batches)  # type: ignore[arg-type]
    command = [sys.executable, "-W", "ignore", "-c", OPEN_ONNX, "file", "squares.npz", "answers.npz"]
    quiet = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    assert Card.from_json(done.stdout.strip()) == source.card
    given = np.load(tmp_path / "answers.npz")
    for key, squares in batches.items():
        output = TorchRuntime.from_checkpoint(source).run(squares)
        close(given[f"probabilities.{key}"], softmax(output.logits / source.card.temperature), 1e-4)
        for name in ("logits", "pooled", "shallow"):
            close(given[f"{name}.{key}"], getattr(output, name), 1e-4)
        close(given[f"maps.{key}"], output.maps, 1e-4 * float(np.abs(output.maps).max()))
    raw = (tmp_path / "file").read_bytes()
    assert not [trace for trace in ("site-packages", "stack_trace", str(ROOT), sys.prefix) if trace.encode() in raw]


def test_probabilities_are_taken_at_the_temperature(source: Checkpoint) -> None:
    with torch.inference_mode():
        logits, *_, probabilities = Exported(build_net(source), 2.5)(torch.rand(2, 2, 224, 224))
    close(probabilities.numpy(), softmax(logits.numpy() / 2.5), 1e-6)


@pytest.mark.parametrize(
    ("spoil", "difference"),
    [
        (lambda maps: maps * np.float32(1.01), r"1\.0e-02"),
        (lambda maps: np.where(maps == maps.max(), np.float32(np.nan), maps), "nan"),
        (lambda maps: maps[..., :1], "inf"),
    ],
    ids=("another scale", "not a number", "another shape"),
)
def test_a_graph_that_differs_from_pytorch_is_refused(
    spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]], difference: str, source: Checkpoint
) -> None:
    runtime = TorchRuntime.from_checkpoint(source)

    def off(squares: NDArray[np.float32]) -> dict[str, NDArray[np.floating]]:
        output = runtime.run(squares)
        probabilities = softmax(output.logits / source.card.temperature)
        return vars(output) | {"maps": spoil(output.maps), "probabilities": probabilities}

    with pytest.raises(ModelError, match=rf"PyTorch: maps by {difference} .* nothing was written"):
        export.compare(off, source, EXAMPLES)


def test_both_runtimes_give_the_same_answer(best_checkpoint: Path, exported: Path, slice_png: bytes) -> None:
    torch_, onnx_ = ctscan.load(best_checkpoint), ctscan.load(exported)
    pixels = cv2.imdecode(np.frombuffer(slice_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    noticed = cv2.imencode(".png", pixels.astype(np.uint16) * 16)[1].tobytes()
    files: list[Path | bytes] = [*sorted(EXAMPLES.glob("*.png"))[:3], slice_png, noticed, b"no picture"]
    for one, other in zip(torch_.many(files), onnx_.many(files), strict=True):
        assert (one.verdict, one.possible, one.model_id) == (other.verdict, other.possible, other.model_id)
        assert [n.code for n in one.notices] == [n.code for n in other.notices]
        if one.prediction is None or other.prediction is None:
            assert one.prediction is other.prediction is None
            continue
        close(other.prediction.probabilities, one.prediction.probabilities, 1e-4)
        close(other.prediction.maps, one.prediction.maps, 1e-3 * float(np.abs(one.prediction.maps).max()))


def test_an_exported_file_keeps_its_gate_wherever_it_lies(exported: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "x.bin"  # told apart by content, not by name
    alone.parent.mkdir()
    shutil.copy(exported, alone)
    noise = np.random.default_rng(0).random((256, 256))
    given = ctscan.load(alone)(noise)
    assert given.verdict == "refused"
    assert given.prediction is None


def test_a_file_of_a_model_without_a_gate_says_so(source: Checkpoint, model: bytes, tmp_path: Path) -> None:
    ungated = replace(source, card=replace(source.card, gate=None), gate=None)
    write_onnx(tmp_path / "x.onnx", model, ungated, FP32)
    given = ctscan.load(tmp_path / "x.onnx")(min(EXAMPLES.glob("*.png")))
    assert [notice.code for notice in given.notices] == ["ungated"]


def test_threads_share_an_onnx_runtime(exported: Path) -> None:
    runtime = OnnxRuntime(exported)
    inputs = [np.random.default_rng(seed).random((1, 2, 224, 224), np.float32) for seed in range(16)]
    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(runtime.run, inputs))
    for squares, output in zip(inputs, parallel, strict=True):
        close(output.logits, runtime.run(squares).logits, 1e-5)


def test_an_exported_file_needs_no_torch_talks_to_nobody_and_leaves_nothing(exported: Path, tmp_path: Path) -> None:
    """ONNX Runtime's wheel looks up a telemetry host and leaves a device id at home, unless it is told not to."""
    home, calls = tmp_path / "home", tmp_path / "calls.txt"
    home.mkdir()
    program = (
        "import sys, ctscan\n"
        f"answer = ctscan.load({str(exported)!r})({str(min(EXAMPLES.glob('*.png')))!r})\n"
        "print(answer.verdict, sorted({'torch', 'torchvision', 'matplotlib', 'onnx'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    if shutil.which("strace"):  # a look-up of a native library is seen by the system alone
        command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(calls), *command]
    settings = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    settings |= {"HOME": str(home), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=ROOT, env=settings, text=True, capture_output=True, check=False)
    assert done.stdout == "ok []\n", done.stderr
    assert not list(home.rglob("*"))
    if calls.exists():
        assert not re.search("AF_INET|nscd", calls.read_text())


def test_no_module_loads_onnx_runtime_by_another_door() -> None:
    assert import_onnxruntime() is sys.modules["onnxruntime"]
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    inside = [
        p.name
        for p in (ROOT / "ctscan").rglob("*.py")
        if re.search(r"^\s*(import|from) onnxruntime\b", p.read_text(), re.M)
    ]
    assert sorted(inside) == ["export.py", "runtime.py"]


def refuse(path: Path, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        ctscan.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1 - 1e-6])
def test_a_changed_or_cut_file_is_refused(place: float, exported: Path, tmp_path: Path) -> None:
    raw = bytearray(exported.read_bytes())
    path = tmp_path / "broken.onnx"
    raw[int(place * len(raw))] ^= 4
    path.write_bytes(raw)
    refuse(path, "changed after it was written")
    path.write_bytes(exported.read_bytes()[: int(place * len(raw))])
    refuse(path, "cut off, or not one that ctscan wrote")


@pytest.mark.parametrize("raw", [b"", b"\x00", b"?" * 5000, b"\xff" * 40, bytes(range(256)) * 20, b"\x3a\x05abc"])
def test_garbage_is_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(raw)
    refuse(path, "not one that ctscan wrote")


def foreign(outputs: tuple[str, ...] = ("logits",), operator: str = "Identity") -> bytes:
    """A small model that ctscan did not make."""
    shapes = {"logits": [None, 4], "maps": [None, 4, 7, 7], "pooled": [None, 512], "shallow": [None, 128]}
    made = helper.make_graph(
        [helper.make_node(operator, ["slices"], [name]) for name in outputs], "foreign",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, [None, 1, 224, 224])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
    )  # fmt: skip
    serialised: bytes = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)]).SerializeToString()
    return serialised


def test_a_foreign_model_and_a_card_that_does_not_fit(source: Checkpoint, model: bytes, tmp_path: Path) -> None:
    path, card = tmp_path / "file.onnx", source.card
    path.write_bytes(foreign())
    refuse(path, "not one that ctscan wrote")
    write_onnx(path, foreign(), source, FP32)
    refuse(path, "does not fit its card")
    write_onnx(path, foreign(operator="NoSuchOperator"), source, FP32)
    refuse(path, "does not take the graph")
    larger = replace(card, preprocess=replace(card.preprocess, size=256))
    write_onnx(path, model, replace(source, card=larger), FP32)
    refuse(path, "self-test")
    write_onnx(path, model, replace(source, card=replace(card, classes=card.classes[:3])), FP32)
    refuse(path, "classes are not")
    golden = (9.0, *card.golden_logits[1:])
    write_onnx(path, model, replace(source, card=replace(card, golden_logits=golden)), FP32)
    refuse(path, "self-test")
    write_onnx(path, model, source, FP32)
    with pytest.raises(ModelError, match="--device cuda"):
        ctscan.load(path, "cuda")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_mistakes_of_export_are_one_line(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    given = ("export", "--checkpoint", checkpoint_path)
    assert "--data" in refused(capsys, *given, "--int8")
    assert "no model" in refused(capsys, "export", "--checkpoint", tmp_path / "none")
    assert "cannot be written" in refused(capsys, *given, "--onnx", tmp_path / "file" / "x.onnx")
    (tmp_path / "bad.onnx").write_bytes(foreign())
    assert "ctscan wrote" in refused(capsys, "predict", "x.png", "--checkpoint", tmp_path / "bad.onnx")


@pytest.mark.slow
def test_int8_is_measured_and_written_where_it_loses_little(
    source: Checkpoint, model: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = read_dataset(write_data(tmp_path / "data", {"train": 2, "valid": 3}), ("train", "valid"))
    squares = data.of("valid").squares(source.card.preprocess.square)
    capfd.readouterr()
    path, said = tmp_path / "int8.onnx", list[str]()
    with pytest.raises(ModelError, match=r"points of accuracy on valid \(n = 12, .* nothing was written"):
        export_int8(source, model, path, data, silent, max_loss=-101)
    assert not path.exists()
    export_int8(source, model, path, data, said.append, max_loss=100)
    assert capfd.readouterr().out == ""
    assert any("95 % interval" in line for line in said)
    assert path.stat().st_size < len(model) / 3

    runtime, classifier = OnnxRuntime(path), ctscan.load(path)
    loss = runtime.export["loss"]
    assert runtime.export["precision"] == "int8"
    assert runtime.export["of"] == source.card.model_id != runtime.card.model_id
    assert runtime.card.metrics == {"valid": loss["int8"]}
    assert loss["interval95"][0] <= loss["points"] <= loss["interval95"][1]
    fp32, int8 = TorchRuntime.from_checkpoint(source).run(squares), runtime.run(squares)
    assert 0 < float(np.abs(int8.logits - fp32.logits).max()) < 1
    assert float(np.abs(int8.maps - fp32.maps).max()) < 0.5 * float(np.abs(fp32.maps).max())
    assert classifier.card.golden_logits != source.card.golden_logits
    assert classifier(np.random.default_rng(0).random((256, 256))).verdict == "refused"


@pytest.mark.nightly
def test_the_page_answers_in_an_environment_without_torch(exported: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements-onnx.txt"]
    subprocess.run(install, cwd=ROOT, check=True)
    assert "exported ONNX file does without" in run("app.py", python=python).stderr
    assert run("-c", "import torch", python=python).returncode != 0
    example = min(EXAMPLES.glob("*.png"))
    expected = ctscan.load(exported)(example).to_dict()
    with running_app(exported, tmp_path, python=python) as app:
        given, overlay_png = Client(app.address, verbose=False).predict(handle_file(example), api_name="/classify")
    assert given["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    assert overlay_png
    line = run("-m", "ctscan", "predict", "--checkpoint", exported, example, python=python)
    assert json.loads(line.stdout)["model_id"] == expected["model_id"]
