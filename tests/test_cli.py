"""`python -m ctscan predict`: one JSON line a file, the same answer as the page's. The ledger behind the commands."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import IO

import pytest

from ctscan.errors import DataError
from ctscan.inference.answer import answer
from ctscan.inference.classifier import Classifier
from ctscan.results.entries import append, read_ledger
from tests.conftest import free_port

ROOT = Path(__file__).parent.parent


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ctscan", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def test_one_line_a_file_in_order(
    checkpoint_path: Path, classifier: Classifier, slice_png: bytes, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad.png"
    good.write_bytes(slice_png)
    bad.write_bytes(b"?")
    done = run("predict", bad, good, "--checkpoint", checkpoint_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [answer(classifier, data).to_json() for data in (b"?", slice_png)]
    assert [line["verdict"] for line in lines] == ["unreadable", "unusual"]  # this model has no gate


def test_a_missing_checkpoint_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = run("predict", "x.png", "--checkpoint", tmp_path / "none")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_file_that_cannot_be_opened_has_its_line_without_its_name_and_exit_2(
    checkpoint_path: Path, slice_png: bytes, tmp_path: Path
) -> None:
    good, missing = tmp_path / "good.png", tmp_path / "patient.png"
    good.write_bytes(slice_png)
    done = run("predict", good, missing, good, "--checkpoint", checkpoint_path)
    assert done.returncode == 2
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first == third
    assert second.keys() == first.keys()
    assert (second["verdict"], second["model_id"]) == ("unreadable", first["model_id"])
    assert second["notices"] == ["The file cannot be opened (No such file or directory)."]
    assert "patient" not in done.stdout
    assert done.stderr == f"ctscan: {missing}: No such file or directory.\n"


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
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "ctscan: interrupted.\n")


def test_a_reader_that_has_seen_enough_ends_it_quietly(checkpoint_path: Path, slice_png: bytes, tmp_path: Path) -> None:
    with predicting(checkpoint_path, slice_png, tmp_path) as (process, pipe):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        pipe.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""


def append_many(path: Path, who: int, start: Barrier) -> None:
    start.wait(timeout=60)
    for number in range(20):
        append(path, "readings", {"who": who, "number": number})


def test_processes_that_append_at_once_lose_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [context.Process(target=append_many, args=(path, who, start)) for who in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted((e["who"], e["number"]) for e in read_ledger(path)["readings"]) == [
        (who, number) for who in range(3) for number in range(20)
    ]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ['{"readings": "abc"}', '{"readings": [1]}', '{"other": []}', "[]", "1", "[" * 100_000]
)
def test_what_is_no_ledger_is_refused_and_left_as_it_is(text: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"no ledger of readings; move it away\.$"):
        append(path, "readings", {})
    assert path.read_text() == text


def test_a_ledger_that_is_a_folder_is_one_sentence_and_none_at_all_is_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is a directory"):
        read_ledger(tmp_path)
    assert not any(read_ledger(tmp_path / "none" / "metrics.json").values())


@pytest.mark.slow
@pytest.mark.parametrize("text", ['{"grouped": [{}]}', '{"readings": [{"model_id": "x", "settings": 1}]}'])
def test_the_page_does_not_start_with_entries_that_are_not_ctscans(
    text: str, checkpoint_path: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copy(checkpoint_path, tmp_path)
    (tmp_path / "metrics.json").write_text(text)
    command = [sys.executable, "app.py", "--checkpoint", checkpoint, "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=90)
    assert done.returncode == 2
    assert done.stderr == f"app.py: {tmp_path / 'metrics.json'} is no ledger of readings; move it away.\n"
