"""What docs/deploy.md and the Dockerfile promise, read and tried without docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from huggingface_hub.utils._paths import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from ctscan.page.launch import parse_flags
from tests.caller import Caller
from tests.conftest import ROOT, SPACE, free_port, running_app
from tests.test_package import pins

MOST_LINES = 24
DOCUMENT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = [
    tuple(line.split(maxsplit=1)) for line in DOCKERFILE.replace("\\\n", "").splitlines() if line and line[0] != "#"
]


def said(instruction: str) -> list[str]:
    """What stands behind an instruction, wherever it comes."""
    return [rest for name, rest in STEPS if name == instruction]


def copied() -> list[str]:
    """The files and folders that come from this checkout."""
    return [source for rest in said("COPY") for source in rest.split()[:-1]]


def test_it_is_short_and_of_a_slim_python_that_a_space_has_too() -> None:
    assert len(DOCKERFILE.splitlines()) <= MOST_LINES
    (version,) = re.findall(r'^python_version: "([\d.]+)"$', (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert said("FROM") == [f"python:{version}-slim"]


def test_the_app_is_not_root_and_owns_nothing_of_itself() -> None:
    (user,) = said("USER")
    assert user not in ("root", "0")
    names = [name for name, _ in STEPS]
    assert not {"COPY", "RUN"} & set(names[names.index("USER") :])
    assert "--chown" not in DOCKERFILE


def test_the_port_is_the_default_and_every_address_of_the_container_is_listened_at() -> None:
    variables = dict(pair.split("=", 1) for rest in said("ENV") for pair in rest.split())
    settings = parse_flags([], variables)
    assert said("EXPOSE") == [str(settings.port)]
    assert settings.host == "0.0.0.0"
    assert f":{settings.port}/health" in said("HEALTHCHECK")[0]
    assert f":{settings.port}:{settings.port} ctscan" in DOCUMENT


def test_what_is_copied_is_there_and_is_all_that_the_wheel_brings() -> None:
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    assert {"app.py", "ctscan", "checkpoints", "examples", "requirements.txt"} <= set(copied())


def test_all_that_is_installed_is_pinned() -> None:
    (installed,) = said("RUN")[:1]
    assert re.fullmatch(r"pip install --no-cache-dir --requirement (\S+)", installed)
    assert len(pins(ROOT / installed.split()[-1])) > 5  # where a line is no pin it raises


def test_nothing_is_fetched_but_what_pip_installs() -> None:
    assert not said("ADD")
    assert not re.search(r"\b(curl|wget|apt-get|git)\b|https?://(?!127\.0\.0\.1)", DOCKERFILE)
    assert json.loads(said("CMD")[0]) == ["python", "app.py"]  # no shell, so that SIGTERM comes to the app


# --- a Space


def git(folder: Path, *arguments: str) -> str:
    """What git says of a checkout."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the document sends to a Space: all that is committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    folder = tmp_path_factory.mktemp("space") / "ctscan-space"
    git(ROOT, "clone", "--quiet", ".", str(folder))
    return folder


def test_hf_sends_what_is_committed_and_a_space_finds_what_it_wants_to_know(clone: Path) -> None:
    there = [path.relative_to(clone).as_posix() for path in clone.rglob("*") if path.is_file()]
    sent = set(filter_repo_objects(there, ignore_patterns=DEFAULT_IGNORE_PATTERNS))
    assert sent == set(git(clone, "ls-files", "-z").split("\0")) - {""}
    wanted = SpaceCard.load(clone / "README.md").data.to_dict()
    assert {wanted["app_file"], "requirements.txt", "checkpoints/resnet18.safetensors"} <= sent
    assert wanted["sdk_version"] == pins(clone / "requirements.txt")["gradio"]
    assert wanted["sdk"] == "gradio"
    assert len(wanted["short_description"]) <= 60  # the Hub takes no more


def test_hf_knows_the_flags_of_the_document() -> None:
    hf = Path(sys.executable).with_name("hf")
    (line,) = [line for line in DOCUMENT.splitlines() if line.startswith("hf upload")]
    told = subprocess.run([hf, "upload", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(flag in told for flag in [*re.findall(r"--[\w-]+", line), "--create-pr"])


@pytest.mark.slow
def test_what_the_image_copies_is_all_that_a_space_needs_to_be_healthy_asks_nobody_and_stays_as_it_was(
    clone: Path, tmp_path: Path
) -> None:
    for path in clone.iterdir():
        if path.name not in {*copied(), ".git"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    removed = git(clone, "status", "--porcelain")
    checkpoint, program = clone / "checkpoints" / "resnet18.safetensors", clone / "app.py"
    _, command = said("HEALTHCHECK")[0].split("CMD", 1)
    _, *arguments = json.loads(command)
    with running_app(checkpoint, tmp_path / "temporary", SPACE, program=program) as app:
        asked = [part.replace("http://127.0.0.1:7860", app.address) for part in arguments]
        assert subprocess.run([sys.executable, *asked], check=False).returncode == 0
        example = min((clone / "examples").glob("*.png")).read_bytes()
        assert Caller(app.address).classify(example)["verdict"] == "ok"
        lines = app.connections.read_text(encoding="utf-8").splitlines() if app.connections.exists() else []
        assert [line for line in lines if "('0.0.0.0'" not in line] == []  # where it listens
    assert subprocess.run([sys.executable, *asked], check=False, stderr=subprocess.DEVNULL).returncode == 1
    port = app.address.rpartition(":")[2]
    assert app.log.read_text() == f"ctscan: http://0.0.0.0:{port}\n"  # where the Space's own proxy finds it
    assert git(clone, "status", "--porcelain") == removed
    git(clone, "checkout", "--quiet", "--", ".")


@pytest.mark.slow
def test_weights_that_git_lfs_has_not_fetched_are_one_line(clone: Path) -> None:
    weights = clone / "checkpoints" / "resnet18.safetensors"
    weights.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 23003688\n")
    try:
        command = [sys.executable, str(clone / "app.py"), "--port", str(free_port())]
        done = subprocess.run(command, env=os.environ | SPACE, capture_output=True, text=True, check=False, timeout=90)
    finally:
        git(clone, "checkout", "--quiet", "--", ".")
    assert (done.returncode, done.stdout) == (2, "")
    said = f"app.py: The model {weights} is a git-lfs pointer, not the file itself: run `git lfs pull`.\n"
    assert done.stderr == said


def test_every_file_that_the_document_names_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", DOCUMENT)
    named = re.findall(r"`(tests/\w+\.py)`", DOCUMENT)
    assert named
    assert all((ROOT / "docs" / link).exists() for link in links)
    assert all((ROOT / name).exists() for name in named)
