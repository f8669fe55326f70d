"""Many files become a table: the same answers as one by one, nothing lost or doubled, whatever cuts the run short."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image

from ctscan.batch import Place, here, list_files, predict_files, read_rows, resume
from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.inference.classifier import Classifier, Reader
from ctscan.io.images import Slice, read_file, read_slice
from tests.conftest import ROOT, Ctscan, one_now
from tests.test_files import full_disk

SLICES = 60  # of a run that is cut short
EXAMPLES = sorted((ROOT / "examples").glob("*.png"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "slices"
    (made / "below" / "@eaDir").mkdir(parents=True)
    for file in EXAMPLES:
        shutil.copy(file, made / file.name)
    shutil.copy(EXAMPLES[0], made / "below" / "ähnlich #1.png")
    (made / "broken.png").write_bytes(EXAMPLES[0].read_bytes()[:900])
    (made / "Thumbs.db").write_bytes(b"x")
    shutil.copy(EXAMPLES[0], made / "below" / "@eaDir" / "thumbnail.png")
    return made


def run(
    classifier: Classifier,
    files: Sequence[Place],
    out: Path,
    reader: Reader = read_slice,
    batch: int = 4,
    threads: int = 2,
    about: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, int]:
    engine = here(classifier, reader, batch=batch, threads=threads, overlays="maps" in options)
    run = {"model_id": classifier.card.model_id, **(about or {})}
    return predict_files(engine, files, out, run=run, batch=batch, **options)


def test_folders_are_listed_in_order_without_what_systems_leave(folder: Path) -> None:
    flat = list_files([folder], recursive=False)
    assert [Path(path).name for path in flat] == [*(file.name for file in EXAMPLES), "broken.png"]
    deep = list_files([folder], recursive=True)
    assert set(deep) - set(flat) == {folder / "below" / "ähnlich #1.png"}
    assert list_files([EXAMPLES[0], folder], recursive=False)[0] == EXAMPLES[0]
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no file"):
        list_files([folder / "empty"], recursive=False)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_a_link_to_nothing_has_a_row(tmp_path: Path) -> None:
    links = [tmp_path / "a.png", tmp_path / "b.png"]
    links[0].symlink_to("gone.png")
    links[1].symlink_to("b.png")
    assert list_files([tmp_path], recursive=True) == links


def test_on_a_full_disk_it_is_said_which_file_cannot_be_written(
    committed: Classifier, folder: Path, tmp_path: Path
) -> None:
    disk, files = tmp_path / "disk", list_files([folder], recursive=False)
    disk.mkdir()
    with full_disk(disk, 4096), pytest.raises(DataError, match=r"rows\.jsonl\.part cannot be written"):
        run(committed, files * 2, disk / "rows.jsonl", batch=2)


def test_a_row_is_the_answer_of_the_file_and_a_bad_file_is_a_row(committed: Classifier, folder: Path) -> None:
    files, out = list_files([folder], recursive=True), folder.parent / "rows.jsonl"
    counts = run(committed, files, out, maps=folder.parent / "maps")
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row.pop("path") for row in rows] == [str(path) for path in files]
    for number, (row, path) in enumerate(zip(rows, files, strict=True)):
        alone = committed(path).to_dict()
        assert (row.pop("probabilities") or {}) == pytest.approx(alone.pop("probabilities") or {}, abs=1e-5)
        assert row == alone
        drawn = folder.parent / "maps" / f"{number:06d}.png"
        assert drawn.exists() == (row["verdict"] in ("ok", "unusual"))
    assert sum(counts.values()) == len(files)
    assert counts["unreadable"] == 1
    with Image.open(folder.parent / "maps" / "000000.png") as picture:
        assert picture.size == Image.open(files[0]).size
    assert not out.with_name("rows.jsonl.part").exists()


def test_all_kinds_of_tables_hold_the_same(committed: Classifier, folder: Path) -> None:
    files, made = list_files([folder], recursive=False), {}
    for kind in ("jsonl", "csv", "parquet"):
        made[kind] = folder.parent / f"rows.{kind}"
        run(committed, files, made[kind], paths=False)
    rows = [json.loads(line) for line in made["jsonl"].read_text(encoding="utf-8").splitlines()]
    assert pyarrow.parquet.read_table(made["parquet"]).to_pylist() == rows
    with made["csv"].open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["verdict"] for cell in cells] == [row["verdict"] for row in rows]
    for cell, row in zip(cells, rows, strict=True):
        assert "path" not in cell
        for key, share in (row["probabilities"] or {}).items():
            assert float(cell[f"probabilities.{key}"]) == share
        assert cell["notice_codes"].split() == row["notice_codes"]


def test_a_table_in_the_folder_that_is_read_is_no_row_of_itself(folder: Path) -> None:
    out, maps = folder / "rows.csv", folder / "maps"
    before = list_files([folder], recursive=True, written=[out, maps])
    maps.mkdir()
    for path in (out, folder / "rows.csv.part", maps / "000000.png"):
        path.write_bytes(EXAMPLES[0].read_bytes())
    assert list_files([folder], recursive=True, written=[out, maps]) == before


@pytest.mark.skipif(sys.platform != "linux", reason="names are text here")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_name_that_is_no_text_and_a_table_without_scores_have_their_columns(
    committed: Classifier, tmp_path: Path, kind: str
) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/M\xfcller.png"))
    odd.write_bytes(b"?")
    out = tmp_path / f"rows.{kind}"
    assert run(committed, [odd], out) == {"unreadable": 1}
    if kind == "csv":
        (row,) = csv.DictReader(out.read_text(encoding="utf-8").splitlines())
        assert [row[f"probabilities.{key}"] for key in CLASS_KEYS] == [""] * 4
    elif kind == "jsonl":
        row = json.loads(out.read_text(encoding="utf-8"))
    else:
        (row,) = pyarrow.parquet.read_table(out).to_pylist()
    assert row["path"].endswith(r"/M\xfcller.png")


def test_a_run_goes_on_behind_the_last_whole_line(committed: Classifier, folder: Path) -> None:
    files, whole, cut = list_files([folder], recursive=False), folder.parent / "a.jsonl", folder.parent / "b.jsonl"
    run(committed, files, whole)

    class PowerCutError(Exception):
        pass

    def failing(data: bytes) -> Slice:
        if data == read_file(files[5]):
            raise PowerCutError
        return read_slice(data)

    with pytest.raises(PowerCutError):
        run(committed, files, cut, failing, batch=2, threads=0)
    part = cut.with_name("b.jsonl.part")
    assert len(list(read_rows(part))) == 4
    with part.open("ab") as file:
        file.write(b'{"path": "torn')
    with pytest.raises(DataError, match="other files"):
        run(committed, files[1:], cut)
    with pytest.raises(DataError, match="other flags"):
        run(committed, files, cut, about={"window": "lung"})
    with pytest.raises(DataError, match="other flags"):
        run(committed, files, cut, maps=folder.parent / "maps")
    run(committed, files, cut)
    assert [json.loads(x)["path"] for x in cut.read_text().splitlines()] == [str(path) for path in files]
    assert [json.loads(x)["verdict"] for x in cut.read_text().splitlines()] == [
        json.loads(x)["verdict"] for x in whole.read_text().splitlines()
    ]
    with pytest.raises(DataError, match="--force"):
        run(committed, files, cut)
    run(committed, files, cut, force=True)


def test_a_line_that_is_not_whole_is_cut_off(tmp_path: Path) -> None:
    part, about = tmp_path / "x.part", {"model_id": "m", "files": 3}
    assert resume(part, about) == 0
    head = part.read_bytes()
    part.write_bytes(head + b'{"a": 1}\n{"a": ')
    assert resume(part, about) == 1
    assert part.read_bytes() == head + b'{"a": 1}\n'
    part.write_bytes(head[:7])  # cut while it was begun
    assert resume(part, about) == 0
    assert part.read_bytes() == head


@pytest.fixture
def many(tmp_path: Path) -> Path:
    made = tmp_path / "many"
    made.mkdir()
    for number in range(SLICES):
        (made / f"{number:03d}.png").hardlink_to(shutil.copy(EXAMPLES[number % 6], tmp_path / f"{number % 6}.png"))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("how", one_now(signal.SIGKILL, signal.SIGINT))
def test_a_run_that_is_ended_loses_and_doubles_nothing(
    many: Path, tmp_path: Path, how: int, run_ctscan: Ctscan
) -> None:
    out = tmp_path / "rows.csv"
    command = ["predict", str(many), "--out", str(out), "--batch", "4"]
    with subprocess.Popen(
        [sys.executable, "-m", "ctscan", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as first:
        part, deadline = out.with_name("rows.csv.part"), time.monotonic() + 120
        while not (part.exists() and part.read_bytes().count(b"\n") > 8) and time.monotonic() < deadline:
            time.sleep(0.05)
        first.send_signal(how)
        _, said = first.communicate(timeout=60)
    assert not out.exists()
    if how == signal.SIGINT:
        assert first.returncode == 130
        assert "the same command goes on" in said
    second = run_ctscan(*command)
    assert (second.returncode, str(SLICES) in second.stderr) == (0, True)
    with out.open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [str(many / f"{n:03d}.png") for n in range(SLICES)]


def test_mistakes_are_one_line(run_ctscan: Ctscan, folder: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ([folder, "--out", tmp_path / "x.txt"], ".parquet"),
        ([folder, "--recursive"], "--out"),
        ([tmp_path / "slices" / "below" / "@eaDir", "--out", tmp_path / "x.csv", "--series"], "--series"),
    ):
        done = run_ctscan("predict", *arguments)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
        assert said in done.stderr
