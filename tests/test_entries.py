"""The ledger of single entries: what two processes append at once stays, what is no ledger is left as it is."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from ctscan.errors import DataError
from ctscan.results.entries import append, read_ledger
from tests.conftest import ROOT, free_port


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
