"""What is written is whole or not there, and lies where the user said: odd names, links, devices, full disks."""

from __future__ import annotations

import ast
import os
import re
import resource
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ctscan.cli import main
from ctscan.errors import DataError
from ctscan.files import make_folder, prepare, write
from ctscan.model.checkpoint import read_checkpoint
from tests.conftest import ROOT, Ctscan, one_now
from tests.samples import write_data

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, devices and limits of POSIX systems")

NAMES = ["a?b=c#d", "50%20 off", "{SCHEMA_VERSION}", "Lunge ä 肺", "new\nline", "b\udcff", "-", "x" * 250]


@contextmanager
def full_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes lies at the folder; where none may be mounted, no file may be longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    disk = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    is_mounted = bool(shutil.which("mount")) and subprocess.run(disk, capture_output=True, check=False).returncode == 0
    if not is_mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)  # whatever still has a file open


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies there, and of what kind."""
    return {path.name: (path.lstat().st_ino, path.lstat().st_mode) for path in folder.iterdir()}


# --- one file


@pytest.mark.parametrize("name", NAMES)
def test_any_name_that_the_system_takes_is_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / "made" / name
    for content in (b"first", "zweitens ä"):
        write(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_names_its_flag(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b", "--runs")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with pytest.raises(DataError, match="try another --runs") as caught:
            make_folder(path, "--runs")
        assert str(path) in str(caught.value)


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    target, link, again = tmp_path / "elsewhere" / "file", tmp_path / "link", tmp_path / "again"
    link.symlink_to("elsewhere/file")  # which is not there yet, nor is its folder
    again.symlink_to(link)
    for path in (link, again):
        assert prepare(path) == target.resolve()
        write(path, path.name)
        assert target.read_text() == path.name
        assert link.readlink() == Path("elsewhere/file")
        assert again.is_symlink()
    assert list(target.parent.iterdir()) == [target]


def test_a_name_of_a_file_with_two_names_takes_one_from_it(tmp_path: Path) -> None:
    write(tmp_path / "one", "before")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    write(tmp_path / "one", "after")
    assert (tmp_path / "two").read_text() == "before"


def test_what_is_no_file_is_refused_and_stays(tmp_path: Path) -> None:
    pipe, folder, ring, plug = (tmp_path / name for name in ("pipe", "folder", "ring", "plug"))
    os.mkfifo(pipe)
    folder.mkdir()
    ring.symlink_to(ring)
    places = [pipe, folder, ring, tmp_path / "to pipe", tmp_path / "null"]
    places[3].symlink_to(pipe)
    try:  # whoever may make a device might replace the real one
        os.mknod(places[4], stat.S_IFCHR | 0o600, Path(os.devnull).stat().st_rdev)
    except PermissionError:
        places[4].symlink_to(os.devnull)
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(plug))
        before = listing(tmp_path)
        for path in [*places, plug, plug / "file"]:
            with pytest.raises(DataError, match=r" cannot be written \([^)]+\)\.$") as caught:
                write(path, "content")
            assert str(path) in str(caught.value)
        assert listing(tmp_path) == before


def test_on_a_full_disk_the_old_file_stays_and_no_half_of_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with full_disk(tmp_path, 8192):
        write(path, "old")
        with pytest.raises(DataError, match=r"No space left on device|File too large"):
            write(path, bytes(10_000))
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


def test_nothing_in_the_package_is_written_in_another_way() -> None:
    """But a journal, which grows, and what a library is given a path for: a lock, Optuna's study, torch's download."""
    for path in (ROOT / "ctscan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                opened = node.func.attr == "open" and any(
                    isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in node.args
                )
                grows = ast.unparse(node.func.value) == "journal"
                written = node.func.attr in ("write_text", "write_bytes") or (opened and not grows)
                assert not written or path.name == "files.py", f"{path}:{node.lineno}"


# --- commands


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), {"train": 4, "valid": 1, "test": 1}, seed=500)


WAYS = {
    "train": "train --data {data} --init {init} --out {at}/t.safetensors --runs {at} {tiny} --force",
    "audit": "audit --data {data} --manifest {at}/m.json --report {at}/r.html --ledger {at}/l.json",
    "export": "export --checkpoint {checkpoint} --onnx {at}/m.onnx",
    "search": "search --data {data} --init {init} --trials 1 --ledger {at}/s.json --runs {at} {tiny}",
}
TINY = "--set size=32 --set epochs=1 --set precision=fp32 --device cpu"


def asked(way: str, at: Path, **places: Path) -> list[str]:
    named = {name: shlex.quote(str(path)) for name, path in (places | {"at": at}).items()}
    return shlex.split(WAYS[way].format(**named, tiny=TINY))


@pytest.mark.slow
@pytest.mark.parametrize("way", one_now(*WAYS, count=2))
def test_commands_write_into_folders_of_any_name_and_through_links(
    way: str, data: Path, init: Path, checkpoint_path: Path, tmp_path: Path, run_ctscan: Ctscan
) -> None:
    folder, link = tmp_path / "a?b=c#d 50%20 {x} ä肺", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    for at in (folder, link):
        done = run_ctscan(
            *asked(way, at, data=data, init=init, checkpoint=checkpoint_path), *["--force"] * (way == "train")
        )
        assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert set(tmp_path.iterdir()) == {folder, link}
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if path.name.endswith((".partial", ".lock"))]
    if way == "train":
        assert read_checkpoint(folder / "t.safetensors").card.recipe["size"] == 32


@pytest.mark.slow
@pytest.mark.parametrize("way", one_now(*WAYS, count=2))
def test_on_a_full_disk_a_command_ends_in_one_line_and_leaves_no_half(
    way: str, data: Path, init: Path, checkpoint_path: Path, tmp_path: Path, run_ctscan: Ctscan
) -> None:
    at = tmp_path / "full"
    at.mkdir()
    with full_disk(at, 4096):
        done = run_ctscan(*asked(way, at, data=data, init=init, checkpoint=checkpoint_path))
        assert not [path for path in at.rglob("*") if path.name.endswith((".partial", ".safetensors", ".onnx"))]
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ctscan: ")]
    assert str(at) in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "audit --data {data} --manifest {pipe}",
        "audit --data {data} --report {pipe}",
        "audit --data {data} --ledger {pipe}",
        "train --data {data} --init {init} --out {pipe} --force",
        "train --data {data} --init {init} --runs {pipe}",
        "train --data {data} --init {init} --ledger {pipe}",
        "evaluate --data {data} --ledger {pipe}",
        "search --data {data} --init {init} --runs {pipe}",
        "export --checkpoint {checkpoint} --onnx {pipe}",
    ],
)
def test_a_device_is_refused_in_one_line_before_the_work(
    line: str, data: Path, init: Path, checkpoint_path: Path, tmp_path: Path, run_ctscan: Ctscan
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run_ctscan(*shlex.split(line.format(data=data, init=init, checkpoint=checkpoint_path, pipe=pipe)))
    assert done.returncode == 2
    assert [said for said in done.stderr.splitlines() if said.startswith("ctscan: ") and str(pipe) in said]
    assert pipe.is_fifo()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "line", ["train --init {init}", "search --init {init}", "evaluate --cross-validate", "reproduce --init {init}"]
)
def test_runs_that_cannot_be_kept_are_refused_before_the_data_is_read(
    line: str, init: Path, tmp_path: Path, run_ctscan: Ctscan
) -> None:
    places = ["--data", tmp_path / "none", "--runs", "/dev/null/runs"]
    places += ["--root", tmp_path] if line.startswith("reproduce") else []
    places += ["--ledger", tmp_path / "l.json"] if line.startswith("evaluate") else []
    done = run_ctscan(*line.format(init=init).split(), *places)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"ctscan: /dev/null/runs cannot be made \(.+\); try another --runs\.\n", done.stderr)


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(
    checkpoint_path: Path, slice_png: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slice.png").write_bytes(slice_png)
    out = tmp_path / "b\udcff.csv"
    assert main(["predict", str(tmp_path / "slice.png"), "--out", str(out), "--checkpoint", str(checkpoint_path)]) == 0
    assert out.exists()
    assert r"b\udcff.csv: 1 unusual" in capfd.readouterr().out
