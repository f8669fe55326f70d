"""ctscan as others install it: a wheel that predicts in another folder, for a user without home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import ctscan
from ctscan.bundle import bundled, remedy
from tests.caller import Caller
from tests.conftest import free_port, one_now, wait_until
from tests.samples import write_data
from tests.test_anywhere import is_up

ROOT = Path(__file__).parent.parent
REQUIREMENTS = sorted(ROOT.glob("requirements*.txt"))
DATA = {"checkpoints", "examples"}  # folders of the checkout that become packages in the wheel


def pins(path: Path) -> dict[str, str]:
    """Package -> version in a file of requirements, where every line must be one pin or name another file."""
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith(("#", "-r "))
    ]
    return dict(line.split("==") for line in lines)


def run(python: Path, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with no variable of ours but those that are given."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    return subprocess.run(
        [str(python), *arguments], cwd=cwd, env=kept | environment, text=True, capture_output=True, check=False
    )


def test_a_package_has_the_same_version_in_every_file_of_requirements() -> None:
    versions: dict[str, str] = {}
    for path in REQUIREMENTS:
        for name, version in pins(path).items():
            assert versions.setdefault(name, version) == version, name


def test_every_folder_of_the_package_travels_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "ctscan").rglob("__init__.py")}
    assert set(settings["packages"]) == folders | {f"ctscan.{name}" for name in DATA}
    assert settings["package-dir"] == {f"ctscan.{name}": name for name in DATA}


def test_what_ctscan_brings_is_found_in_the_checkout() -> None:
    assert bundled("checkpoints/resnet18.safetensors") == ROOT / "checkpoints" / "resnet18.safetensors"
    assert bundled("none") == ROOT / "none"


def test_the_page_needs_no_package_of_trainings() -> None:
    """Gradio, torch and what they need are enough: a Space installs nothing else."""
    trained = set(pins(ROOT / "requirements-train.txt")) - {
        "filelock",
        "pyarrow",
    }  # torch brings the one, pandas takes the other
    modules = {"grad-cam": "pytorch_grad_cam", "pynrrd": "nrrd", "scikit-image": "skimage", "scikit-learn": "sklearn"}
    names = sorted(modules.get(name, name) for name in trained)
    program = f"""
import importlib, pkgutil, sys, ctscan.page, ctscan.model.network
for module in pkgutil.iter_modules(ctscan.page.__path__, "ctscan.page."):
    importlib.import_module(module.name)
print(sorted(set({names}) & set(sys.modules)))
"""
    done = run(Path(sys.executable), "-c", program, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git knows, as `pip install .` in a fresh clone builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():  # a file may be deleted and not yet committed
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", ".", "source/"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel; for all else it looks into the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip())
    (site / "tests.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return python


@pytest.mark.slow
def test_an_installed_wheel_predicts_without_home_and_with_nothing_to_write_to(installed: Path, tmp_path: Path) -> None:
    site = next(installed.parent.parent.glob("lib/python*/site-packages"))
    folders = [site, *(p for p in site.rglob("*") if p.is_dir())]
    before = sorted(site.rglob("*"))
    for folder in folders:
        folder.chmod(0o555)
    (tmp_path / "slice.png").write_bytes(next(bundled("examples").glob("*.png")).read_bytes())
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    try:
        done = run(installed.with_name("ctscan"), "predict", "slice.png", cwd=tmp_path, TMPDIR=str(temporary))
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == ctscan.load()(tmp_path / "slice.png").to_dict()
    assert json.loads(done.stdout)["verdict"] == "ok"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["slice.png", "temporary"]
    assert [p for p in sorted(site.rglob("*")) if p not in before and "__pycache__" not in p.parts] == []


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """In front of a command: it runs as nobody, without a name or a home, who may read all and write nowhere."""
    may = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # root's own folders may be closed
    becomes = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *may]
    if shutil.which("setpriv") is None or subprocess.run([*becomes, "true"], check=False).returncode:
        pytest.skip("only root becomes somebody else")
    return becomes


@pytest.fixture
def lobby() -> Iterator[Path]:
    """A folder that everybody may read, which pytest's own are not."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def run_as(stranger: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command of somebody else, in a folder where nobody writes."""
    command, *rest = [*stranger, *map(str, arguments)]
    return run(Path(command), *rest, cwd=Path("/"))


@pytest.mark.nightly  # as the next one does, with the same model
def test_nobody_predicts_from_anywhere(installed: Path, stranger: list[str]) -> None:
    done = run_as(stranger, installed.with_name("ctscan"), "predict", min(bundled("examples").glob("*.png")))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verdict"] == "ok"


@pytest.mark.slow
def test_nobody_serves_the_page_from_anywhere(installed: Path, stranger: list[str], lobby: Path) -> None:
    """By the program that lies in no checkout, with the model that was installed."""
    program, temporary, port = lobby / "app.py", lobby / "temporary", free_port()
    shutil.copy(ROOT / "app.py", program)
    temporary.mkdir()
    temporary.chmod(0o777)
    kept = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary)}
    command = [*stranger, str(installed), str(program), "--port", str(port)]
    with subprocess.Popen(command, cwd="/", env=kept, stderr=subprocess.PIPE, text=True) as process:
        caller = Caller(f"http://127.0.0.1:{port}")
        try:
            wait_until(lambda: process.poll() is not None or is_up(caller), 90)
            example = min(bundled("examples").glob("*.png")).read_bytes()
            assert caller.classify(example)["verdict"] == "ok"
        finally:
            process.terminate()
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "flag"),
    one_now(
        ("export", "--onnx"),
        ("evaluate --data {data}", "--ledger"),
        ("train --data {data}", "--out"),
        ("train --data {data} --out /dev/shm/never", "--init"),
        ("gate --data {data} --pictures {data}", "--checkpoint"),
        ("search --data {data}", "--init"),
        ("audit --data {data} --manifest m.json", "--manifest"),
        ("reproduce --data {data}", "--root"),
        ("report", "--root"),
    ),
)
def test_what_nobody_may_write_or_nothing_brings_is_one_line_that_names_the_flag(
    line: str, flag: str, installed: Path, stranger: list[str], lobby: Path
) -> None:
    data = write_data(lobby / "data", {"train": 4, "valid": 1, "test": 1}, seed=500)
    done = run_as(stranger, installed.with_name("ctscan"), *line.format(data=data).split())
    assert done.returncode == 2
    said = [text for text in done.stderr.replace("\r", "\n").splitlines() if text.startswith("ctscan: ")]
    assert len(said) == 1
    assert flag in said[0]
    assert not [word for word in ("Traceback", "atplotlib") if word in done.stderr]


def test_what_is_missing_is_installed_as_ctscan_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert remedy("train") == "`pip install -r requirements-train.txt` brings it"
    assert remedy() == "`pip install -r requirements.txt` brings it"
    monkeypatch.setattr("ctscan.bundle.PACKAGE", tmp_path / "site-packages" / "ctscan")
    assert remedy("train") == "`pip install 'ctscan[train]'` brings it"
    assert remedy() == "`pip install 'ctscan'` brings it"


@pytest.mark.slow
@pytest.mark.parametrize("command", one_now("train", "evaluate", "search", "export", "gate", "reproduce"))
def test_help_needs_no_file(command: str, installed: Path, stranger: list[str]) -> None:
    done = run_as(stranger, installed.with_name("ctscan"), command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--" in done.stdout


@pytest.mark.slow
def test_the_wheel_is_typed_has_one_version_and_the_licences_of_its_pictures(installed: Path, tmp_path: Path) -> None:
    program = """
import ctscan, importlib.metadata, pathlib
from ctscan.bundle import bundled
package = pathlib.Path(ctscan.__file__).parent
print(importlib.metadata.version("ctscan"), ctscan.__version__, (package / "py.typed").exists())
print(*sorted(p.name for p in bundled("examples").iterdir() if p.is_file() and p.parent.parent == package))
"""
    done = run(installed, "-c", program, cwd=tmp_path)
    first, examples = done.stdout.splitlines()
    assert first.split() == [ctscan.__version__, ctscan.__version__, "True"]
    expected = {p.name for p in (ROOT / "examples").iterdir() if p.is_file()}
    assert set(examples.split()) == expected
