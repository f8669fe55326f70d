"""Exported files answer as PyTorch does, vouch for themselves, and need neither ctscan nor torch."""

from __future__ import annotations

import json
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

from ctscan import export, quantisation
from ctscan.cli import main
from ctscan.errors import ModelError
from ctscan.export import export_onnx, export_torchscript
from ctscan.inference.answer import answer
from ctscan.inference.classifier import Classifier
from ctscan.inference.gate_file import gate_path
from ctscan.metrics import softmax
from ctscan.model import graph
from ctscan.model.card import Architecture, Calibration, Card
from ctscan.model.checkpoint import Checkpoint, read_checkpoint
from ctscan.model.gradcam import head_gradients
from ctscan.model.network import build_head
from ctscan.model.onnx_file import OPSET, OnnxFile, read_onnx_file, write_onnx_file
from ctscan.model.onnx_runtime import OnnxRuntime
from ctscan.model.runtime import TorchRuntime
from ctscan.quantisation import export_int8
from ctscan.training.data import read_dataset
from tests.conftest import ROOT, running_app, write_random_checkpoint
from tests.samples import write_data

EXAMPLES = ROOT / "examples"
HEADS = ("linear", "mlp")
NAMES = ("logits", "probabilities", "maps", "pooled", "shallow")

# Programs that import nothing of ctscan: file, squares.npz in, answers.npz out, the card on standard output.
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
OPEN_TORCHSCRIPT = """
import sys, numpy, torch
card = {"card.json": ""}
net = torch.jit.load(sys.argv[1], _extra_files=card)
answers = {}
for key, squares in numpy.load(sys.argv[2]).items():
    answers |= {f"{name}.{key}": v.numpy() for name, v in net(torch.from_numpy(squares)).items()}
numpy.savez(sys.argv[3], **answers)
print(card["card.json"].decode())
assert not {"ctscan", "torchvision"} & set(sys.modules)
"""


def silent(_: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module", params=HEADS)
def checkpoint(request: pytest.FixtureRequest, best_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed checkpoint, whose head is linear, and a random one with the other head."""
    if request.param == "linear":
        return best_checkpoint
    return write_random_checkpoint(tmp_path_factory.mktemp("mlp") / "mlp.safetensors", Architecture(head="mlp"))


@pytest.fixture(scope="module")
def exported(best_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of the committed checkpoint."""
    path = tmp_path_factory.mktemp("onnx") / "best.onnx"
    export_onnx(read_checkpoint(best_checkpoint), path, EXAMPLES, silent)
    if gate_path(best_checkpoint).exists():
        shutil.copy(gate_path(best_checkpoint), gate_path(path))
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


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_written_out_is_autograds(head: str) -> None:
    torch.manual_seed(3)
    layers = build_head(Architecture(head=head)).eval()  # type: ignore[arg-type]
    pooled = torch.rand(7, 512) * 3
    logits, gradients = graph.differentiate(layers, pooled)
    expected_logits, expected = head_gradients(layers, pooled)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(gradients, expected)
    assert float(expected.abs().max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "program"),
    [(export_onnx, OPEN_ONNX), (export_torchscript, OPEN_TORCHSCRIPT)],
    ids=["onnx", "torchscript"],
)
def test_a_file_answers_alike_where_ctscan_is_not(
    write: Callable[..., None], program: str, checkpoint: Path, tmp_path: Path
) -> None:
    source = read_checkpoint(checkpoint)
    write(source, tmp_path / "file", EXAMPLES, silent)
    real = next(export.reference_batches(source.card.preprocess, EXAMPLES))
    batches = {"one": real, "three": np.random.default_rng(5).random((3, *real.shape[1:]), np.float32)}
    np.savez(tmp_path / "squares.npz", **batches)  # type: ignore[arg-type]
    command = [sys.executable, "-W", "ignore", "-c", program, "file", "squares.npz", "answers.npz"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
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


def close(given: NDArray[np.floating], expected: NDArray[np.floating], tolerance: float) -> None:
    assert given.shape == expected.shape
    assert float(np.abs(given - expected).max()) <= tolerance


def test_probabilities_are_taken_at_the_temperature(best_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(best_checkpoint)
    card = replace(checkpoint.card, calibration=Calibration(2.5, 0.10, (0.5,) * 4))
    net = export.build_graph(replace(checkpoint, card=card))
    with torch.inference_mode():
        answers = net(torch.rand(2, 1, 224, 224))
    close(answers["probabilities"].numpy(), softmax(answers["logits"].numpy() / 2.5), 1e-6)


def test_a_graph_that_differs_is_not_written(
    checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = graph.differentiate
    monkeypatch.setattr(graph, "differentiate", lambda *a: (right(*a)[0], right(*a)[1] * 1.01))
    path = tmp_path / "file"
    path.write_text("what stood there")
    with pytest.raises(ModelError, match=r"PyTorch: maps by 1\.0e-02 .* nothing was written"):
        export_onnx(read_checkpoint(checkpoint_path), path, EXAMPLES, silent)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "what stood there"


def test_not_a_number_and_a_wrong_shape_differ_infinitely() -> None:
    ones = np.ones((2, 4))
    assert export.difference("logits", ones, ones * np.nan) == float("inf")
    assert export.difference("logits", ones, ones[:1]) == float("inf")
    assert export.difference("maps", ones * 5, ones * 4) == pytest.approx(0.2)


def test_both_runtimes_give_the_same_answer(best_checkpoint: Path, exported: Path, slice_png: bytes) -> None:
    torch_, onnx_ = Classifier.load(best_checkpoint), Classifier.load(exported, runtime="onnx")
    pixels = cv2.imdecode(np.frombuffer(slice_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    noticed = cv2.imencode(".png", pixels.astype(np.uint16) * 16)[1].tobytes()
    files = [file.read_bytes() for file in sorted(EXAMPLES.glob("*.png"))]
    for data in [*files, slice_png, noticed, b"no picture"]:
        one, other = answer(torch_, data), answer(onnx_, data)
        assert (one.verdict, one.notices, one.model_id) == (other.verdict, other.notices, other.model_id)
        if one.prediction is None or other.prediction is None:
            assert one.prediction is other.prediction is None
            continue
        close(other.prediction.probabilities, one.prediction.probabilities, 1e-4)
        close(other.prediction.maps, one.prediction.maps, 1e-3 * float(np.abs(one.prediction.maps).max()))
    assert answer(onnx_, noticed).notices


def test_a_runtime_gives_all_that_the_other_gives(best_checkpoint: Path, exported: Path) -> None:
    squares = np.random.default_rng(1).random((3, 1, 224, 224), np.float32)
    one = TorchRuntime.from_checkpoint(read_checkpoint(best_checkpoint)).run(squares)
    other = OnnxRuntime(exported, read_onnx_file(exported).card).run(squares)
    for name in ("logits", "maps", "pooled", "shallow"):
        close(getattr(other, name), getattr(one, name), 1e-4)


def test_threads_share_an_onnx_runtime(exported: Path) -> None:
    runtime = OnnxRuntime(exported, read_onnx_file(exported).card)
    inputs = [np.random.default_rng(seed).random((1, 1, 224, 224), np.float32) for seed in range(16)]
    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(runtime.run, inputs))
    for squares, output in zip(inputs, parallel, strict=True):
        close(output.logits, runtime.run(squares).logits, 1e-5)


def test_with_onnx_torch_is_not_imported(exported: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from ctscan.cli import main
from ctscan.inference.classifier import Classifier
from ctscan.page.examples import read_examples
from ctscan.page.server import Desk, build
from ctscan.page.memory import Memory
from ctscan.page.views import Views
from ctscan.results.summary import Facts
assert main(["predict", "--checkpoint", {str(exported)!r}, {str(example())!r}]) == 0
classifier = Classifier.load({str(exported)!r}, "auto", "onnx")
build(Views(classifier, read_examples(Path("examples")), Facts(classifier.card)), Memory(), Desk())
print(sorted({{"torch", "torchvision", "pytorch_grad_cam", "matplotlib", "onnx"}} & set(sys.modules)))
"""
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
    line, modules = done.stdout.splitlines()
    assert json.loads(line)["verdict"] == "ok"
    assert modules == "[]"


def example() -> Path:
    return next(EXAMPLES.glob("*.png"))


def refuse(path: Path, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        Classifier.load(path, runtime="onnx")


@pytest.mark.parametrize("flip", [0.3, 0.7])
def test_a_changed_or_cut_file_is_refused(exported: Path, tmp_path: Path, flip: float) -> None:
    raw = bytearray(exported.read_bytes())
    path = tmp_path / "broken.onnx"
    raw[int(flip * len(raw))] ^= 4
    path.write_bytes(raw)
    refuse(path, "graph was changed")
    path.write_bytes(exported.read_bytes()[: int(flip * len(raw))])
    refuse(path, "cut off")
    raw = bytearray(exported.read_bytes().replace(b'"schema":1', b'"schema":2'))
    path.write_bytes(raw)
    refuse(path, "card was changed")


@pytest.mark.parametrize("raw", [b"", b"\x00", b"?" * 5000, b"\xff" * 40, bytes(range(256)) * 20, b"\x3a\x05abc"])
def test_garbage_is_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(raw)
    refuse(path, "no ONNX file")


def test_a_checkpoint_a_folder_and_no_file_are_refused(checkpoint_path: Path, tmp_path: Path) -> None:
    refuse(checkpoint_path, "no ONNX file")
    refuse(tmp_path, "cannot be opened")
    refuse(tmp_path / "none.onnx", r"`python -m ctscan export --onnx .*none\.onnx` makes it")


def foreign(opset: int, outputs: tuple[str, ...] = ("logits",), operator: str = "Identity") -> bytes:
    """A small model that ctscan did not make."""
    shapes = {"logits": [None, 4], "maps": [None, 4, 7, 7], "pooled": [None, 512], "shallow": [None, 128]}
    made = helper.make_graph(
        [helper.make_node(operator, ["slices"], [name]) for name in outputs], "foreign",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, [None, 1, 224, 224])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
    )  # fmt: skip
    serialised: bytes = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()
    return serialised


def test_a_foreign_model_another_opset_and_a_card_that_does_not_fit(
    exported: Path, model: bytes, tmp_path: Path
) -> None:
    path, card = tmp_path / "file.onnx", read_onnx_file(exported).card
    path.write_bytes(foreign(OPSET))
    refuse(path, "ctscan did not write")
    write_onnx_file(path, foreign(OPSET + 4), OnnxFile(card, "fp32"))
    refuse(path, f"opset {OPSET + 4}.*opset {OPSET}")
    write_onnx_file(path, foreign(OPSET), OnnxFile(card, "fp32"))
    refuse(path, "does not fit its card")
    write_onnx_file(path, foreign(OPSET, operator="NoSuchOperator"), OnnxFile(card, "fp32"))
    refuse(path, "does not take the graph")
    write_onnx_file(path, model, OnnxFile(replace(card, preprocess=replace(card.preprocess, size=256)), "fp32"))
    refuse(path, "does not fit its card")
    write_onnx_file(path, model, OnnxFile(replace(card, classes=card.classes[:3]), "fp32"))
    refuse(path, "classes are not")
    write_onnx_file(path, model, OnnxFile(replace(card, golden_logits=(9.0, *card.golden_logits[1:])), "fp32"))
    refuse(path, "self-test")
    with pytest.raises(ModelError, match="--device cuda"):
        Classifier.load(exported, "cuda", "onnx")


def test_a_bad_file_ends_the_command_and_the_page_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(foreign(OPSET))
    assert "did not write" in main_refuses(capsys, "predict", example(), "--checkpoint", path)
    assert "export --onnx" in refused(run("app.py", "--checkpoint", tmp_path / "none.onnx"))


def main_refuses(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_mistakes_of_export_are_one_line(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    given = ("export", "--checkpoint", checkpoint_path)
    assert "--data" in main_refuses(capsys, *given, "--int8")
    assert "no folder" in main_refuses(capsys, *given, "--int8", "--data", tmp_path)
    assert "no checkpoint" in main_refuses(capsys, "export", "--checkpoint", tmp_path / "none")
    assert "cannot be written" in main_refuses(capsys, *given, "--onnx", tmp_path / "file" / "x.onnx")
    assert "cannot be written" in main_refuses(capsys, *given, "--torchscript", tmp_path / "file" / "x")


@pytest.fixture(scope="module")
def source(best_checkpoint: Path) -> Checkpoint:
    return read_checkpoint(best_checkpoint)


@pytest.mark.slow
def test_int8_is_measured_and_written_where_it_loses_little(
    source: Checkpoint,
    model: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = read_dataset(write_data(tmp_path / "data", {"train": 2, "valid": 3}), ("train", "valid"))
    squares = data.of("valid").squares(source.card.preprocess.square)
    capfd.readouterr()
    path, said = tmp_path / "int8.onnx", list[str]()
    monkeypatch.setattr(quantisation, "MAX_LOSS", -101.0)
    with pytest.raises(ModelError, match=r"points of accuracy on valid \(n = 12, .* nothing was written"):
        export_int8(source.card, model, data, path, False, silent)
    assert not path.exists()
    export_int8(source.card, model, data, path, True, said.append)
    assert capfd.readouterr().out == ""
    assert any("95 % interval" in line for line in said)
    assert path.stat().st_size < len(model) / 3

    file, classifier = read_onnx_file(path), Classifier.load(path, runtime="onnx")
    loss = file.quantisation["loss"]
    assert file.precision == "int8"
    assert file.quantisation["of"] == source.card.model_id != file.card.model_id
    assert file.card.metrics == {"valid": loss["int8"]}
    assert loss["interval95"][0] <= loss["points"] <= loss["interval95"][1]
    fp32 = TorchRuntime.from_checkpoint(source).run(squares)
    int8 = OnnxRuntime(path, file.card).run(squares)
    assert 0 < float(np.abs(int8.logits - fp32.logits).max()) < 1
    assert float(np.abs(int8.maps - fp32.maps).max()) < 0.5 * float(np.abs(fp32.maps).max())
    assert classifier.card.golden_logits != source.card.golden_logits

    off = replace(file.card, golden_logits=tuple(v + 0.3 for v in file.card.golden_logits))
    bare = onnx.load(path)
    del bare.metadata_props[:]
    write_onnx_file(path, bare.SerializeToString(), OnnxFile(off, "int8"))
    refuse(path, "self-test")


@pytest.mark.slow
def test_the_page_answers_in_an_environment_without_torch(exported: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements-onnx.txt"]
    subprocess.run(install, cwd=ROOT, check=True)
    assert "--runtime onnx does without" in refused(run("app.py", python=python))
    assert run("-c", "import torch", python=python).returncode != 0
    expected = answer(Classifier.load(exported, runtime="onnx"), example().read_bytes()).to_json()
    with running_app(exported, tmp_path, python=python) as app:
        given, overlay_png = Client(app.address, verbose=False).predict(handle_file(example()), api_name="/classify")
    assert given["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    assert overlay_png
    line = run("-m", "ctscan", "predict", "--checkpoint", exported, example(), python=python)
    assert json.loads(line.stdout)["model_id"] == expected["model_id"]
