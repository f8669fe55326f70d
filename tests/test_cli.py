"""The command line: one JSON line a file, one line for each mistake, and an end that is an end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
import typer
from typer.core import TyperGroup

from ctscan.cli import app
from ctscan.evaluation.cross_validation import open_setting
from ctscan.inference.classifier import Classifier
from ctscan.training.recipe import CTSCAN
from tests.conftest import COMMITTED, ROOT, Ctscan
from tests.samples import spoiled, write_data

COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands if command.callback)


def test_one_line_a_file_in_order(
    checkpoint_path: Path, classifier: Classifier, slice_png: bytes, tmp_path: Path, run_ctscan: Ctscan
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad.png"
    good.write_bytes(slice_png)
    bad.write_bytes(b"?")
    done = run_ctscan("predict", bad, good, "--checkpoint", checkpoint_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [classifier(data).to_dict() for data in (b"?", slice_png)]
    assert [line["verdict"] for line in lines] == ["unreadable", "unusual"]  # this model has no gate


def test_a_file_that_cannot_be_opened_has_its_line_without_its_name_and_exit_2(
    checkpoint_path: Path, slice_png: bytes, tmp_path: Path, run_ctscan: Ctscan
) -> None:
    good, missing = tmp_path / "good.png", tmp_path / "patient.png"
    good.write_bytes(slice_png)
    done = run_ctscan("predict", good, missing, good, "--checkpoint", checkpoint_path)
    assert done.returncode == 2
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first == third
    assert second.keys() == first.keys()
    assert (second["verdict"], second["model_id"]) == ("unreadable", first["model_id"])
    assert "No such file or directory" in second["notices"][0]
    assert "patient" not in done.stdout
    assert done.stderr == f"ctscan: {missing}: No such file or directory.\n"


# --- the process


@contextmanager
def predicting(checkpoint: Path, slice_png: bytes, folder: Path) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """`predict` that has answered for one file and reads another, which comes through the pipe."""
    good, waiting = folder / "good.png", folder / "waiting.png"
    good.write_bytes(slice_png)
    os.mkfifo(waiting)
    command = [sys.executable, "-m", "ctscan", "predict", str(good), str(waiting), "--checkpoint", str(checkpoint)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())
        with waiting.open("wb") as pipe:
            yield process, pipe


def test_ctrl_c_is_one_line_and_exit_130(checkpoint_path: Path, slice_png: bytes, tmp_path: Path) -> None:
    with predicting(checkpoint_path, slice_png, tmp_path) as (process, _):
        said = ""
        for _ in range(30):  # a signal between two looks at signals and the wait for the pipe is seen after that wait
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                _, said = process.communicate(timeout=10)
                break
    assert (process.returncode, said) == (130, "ctscan: interrupted.\n")


def test_a_reader_that_has_seen_enough_ends_it_quietly(checkpoint_path: Path, slice_png: bytes, tmp_path: Path) -> None:
    with predicting(checkpoint_path, slice_png, tmp_path) as (process, pipe):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        pipe.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""


# --- help


def test_help_names_every_command_and_every_flag_of_it(run_ctscan: Ctscan) -> None:
    front = run_ctscan("--help")
    assert front.returncode == 0
    assert run_ctscan().stdout == front.stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w.*", front.stdout, re.MULTILINE)
        done = run_ctscan(command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(help_ for _, help_ in re.findall(r"^  (--[\w-]+)(.*(?:\n {20,}.*)*)", done.stdout, re.MULTILINE))


def test_help_needs_neither_torch_nor_the_page() -> None:
    program = "import sys, ctscan.cli as c; c.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True)
    assert not {"torch", "torchvision", "gradio", "onnxruntime", "sklearn", "scipy"} & set(done.stderr.split())


def fenced(path: Path) -> str:
    """The blocks of code in a Markdown file."""
    return "".join(path.read_text(encoding="utf-8").split("```")[1::2])


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTED = [line for path in DOCUMENTS for line in re.findall(r"^ctscan (.+)$", fenced(path), re.MULTILINE)]


@pytest.mark.parametrize("line", DOCUMENTED)
def test_commands_in_the_documents_have_the_flags_that_they_are_given(line: str) -> None:
    command, *arguments = shlex.split(line, comments=True)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    group.commands[command].make_context(command, arguments)


# --- what a user can mend

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 22000000\n"

# `{...}` is a place that `places` makes. Unwritable is a path below a file: that stops root too.
MISTAKES = """
nonsense
--nonsense
predict
predict {slice} --nonsense
predict {slice} --device tpu
predict {slice} --checkpoint
predict {slice} --checkpoint {missing}
predict {slice} --checkpoint {folder}
predict {slice} --checkpoint {text}
predict {slice} --checkpoint {empty_file}
predict {slice} --checkpoint {pointer}
predict {slice} --checkpoint {cut}
predict {slice} --checkpoint {changed}
predict {missing}
predict {folder}
audit
audit --data {missing}
audit --data {text}
audit --data {folder}
audit --data {spoiled}
audit --data {data} --manifest {unwritable}
audit --data {data} --report {unwritable}
audit --data {data} --ledger {unwritable}
audit --data {data} --ledger {text}
audit --data {data} --ledger {folder}
gate --data {data}
gate --data {missing} --pictures {folder}
gate --data {data} --pictures {missing}
gate --data {data} --pictures {folder}
gate --data {data} --pictures {text}
gate --data {data} --pictures {folder} --checkpoint {missing}
gate --data {data} --pictures {folder} --checkpoint {pointer}
gate --data {data} --pictures {folder} --checkpoint {cut}
gate --data {data} --pictures {folder} --runs {missing}
gate --data {data} --pictures {folder} --runs {damaged} --checkpoint {shipped}
export --checkpoint {missing}
export --checkpoint {folder}
export --checkpoint {pointer}
export --checkpoint {changed}
export --checkpoint {checkpoint} --onnx {unwritable}
export --checkpoint {checkpoint} --onnx {folder}
export --checkpoint {checkpoint} --int8
export --checkpoint {checkpoint} --int8 --data {missing}
export --checkpoint {checkpoint} --int8 --data {folder}
report --root {missing}
report --root {folder}
report --root {text}
train
train --data {missing}
train --data {spoiled} --init {init}
train --data {data} --out {folder}
train --data {data} --out {checkpoint}
train --data {data} --out {unwritable}
train --data {data} --init {missing}
train --data {data} --init {text}
train --data {data} --init {pointer}
train --data {data} --set epochs
train --data {data} --set epochs=0
train --data {data} --set epochs=many
train --data {data} --set mixup=1
train --data {data} --recipe old
train --data {data} --device tpu
train --data {data} --ledger {text}
train --data {data} --ledger {unwritable}
evaluate
evaluate --data {data} --folder {folder}
evaluate --data {missing}
evaluate --data {spoiled}
evaluate --data {data} --checkpoint {pointer}
evaluate --data {data} --ledger {text}
evaluate --data {data} --ledger {unwritable}
evaluate --data {data} --draws 3
evaluate --data {data} --folds 9
evaluate --data {data} --threshold 2
evaluate --data {data} --control sideways
evaluate --data {data} --cross-validate --set crop=lungs
evaluate --data {data} --calibrate
evaluate --data {data} --calibrate --runs {damaged} --checkpoint {shipped}
evaluate --data {data} --against plain
evaluate --data {data} --volumes {missing}
evaluate --data {data} --volumes {folder}
evaluate --folder {missing}
evaluate --folder {text}
evaluate --folder {folder}
search --data {missing}
search --data {data} --trials 0
search --data {data} --set rate=5 --init {init}
search --data {data} --init {text}
reproduce --data {missing} --root {checkout}
reproduce --data {data} --root {missing}
reproduce --data {data} --root {checkout} --init {missing}
"""


@pytest.fixture(scope="module")
def places(
    checkpoint_path: Path, init: Path, slice_png: bytes, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """What a command may be pointed at."""
    at = tmp_path_factory.mktemp("places")
    raw = checkpoint_path.read_bytes()
    files = {
        "slice": slice_png,
        "text": b"in the way",
        "empty_file": b"",
        "pointer": LFS_POINTER.encode(),
        "cut": raw[: len(raw) // 2],
        "changed": raw[:-1] + bytes([raw[-1] ^ 1]),
    }
    for name, content in files.items():
        (at / name).write_bytes(content)
    (at / "folder").mkdir()
    (at / "checkout" / "checkpoints").mkdir(parents=True)
    data = write_data(at / "data", {"train": 4, "valid": 1, "test": 1})
    spoiled(data, at / "spoiled")
    named = {name: at / name for name in [*files, "checkout", "data", "folder", "missing", "spoiled"]}
    folds = open_setting(data, at / "missing", runs=at / "damaged").folder(CTSCAN)
    folds.mkdir(parents=True)
    for name in (f"fold-{fold}{kind}" for fold in range(5) for kind in (".npz", ".safetensors")):
        (folds / name).write_bytes(b"damaged")
    named |= {"damaged": at / "damaged", "shipped": COMMITTED}
    return named | {"init": init, "checkpoint": checkpoint_path, "unwritable": at / "text" / "file"}


@pytest.mark.parametrize("line", MISTAKES.strip().splitlines())
def test_a_mistake_is_one_line_and_exit_2(line: str, places: dict[str, Path], run_ctscan: Ctscan) -> None:
    done = run_ctscan(*shlex.split(line.format(**places)))
    assert done.returncode == 2
    assert re.fullmatch(r"(.*\r)?ctscan: [^\r\n]+\n", done.stderr)  # a bar of progress may have come and gone


def test_every_command_has_its_mistakes() -> None:
    assert {line.split()[0] for line in MISTAKES.strip().splitlines()} >= set(COMMANDS)
