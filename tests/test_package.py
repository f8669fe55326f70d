"""ctscan as others install it: a wheel that predicts in another folder, for a user without home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ctscan
from ctscan.bundle import bundled

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
    trained = set(pins(ROOT / "requirements-train.txt")) - {"filelock", "tqdm"}  # torch and Gradio bring these two
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
    try:
        done = run(installed.with_name("ctscan"), "predict", "slice.png", cwd=tmp_path)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, "")
    ours = run(Path(sys.executable), "-m", "ctscan", "predict", str(tmp_path / "slice.png"), cwd=ROOT)
    assert json.loads(done.stdout) == json.loads(ours.stdout)
    assert json.loads(done.stdout)["verdict"] == "ok"
    assert [p for p in tmp_path.iterdir() if p.name != "slice.png"] == []
    assert [p for p in sorted(site.rglob("*")) if p not in before and "__pycache__" not in p.parts] == []


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
