"""Checkpoints, a running app and a browser, each started once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib
import numpy as np
import pytest
import safetensors.torch
import torch
from torchvision.models import resnet18

from ctscan.classes import CLASS_KEYS
from ctscan.cli import main
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.classifier import Classifier, load
from ctscan.io.sandbox import Decoder
from ctscan.model.card import Architecture, Card
from ctscan.model.checkpoint import Checkpoint, write_checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import Output, TorchRuntime, golden_logits, store_tensors

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "checkpoints" / "resnet18.safetensors"
SPACE = {"SYSTEM": "spaces", "SPACE_ID": "somebody/ctscan"}
START_LIMIT = 90  # s
ANSWERED = re.compile("Looks most like|Uncertain|No answer")  # what the page says of a slice that has scores


def one_now(*values: object, count: int = 1) -> list[Any]:
    """Parameters whose first ones are tried in every run and the others nightly: each costs the start of a program."""
    others = [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.nightly) for value in values
    ]
    return [*values[:count], *others[count:]]


def write_random_checkpoint(path: Path, architecture: Architecture) -> Path:
    """A checkpoint with random weights and no gate: what is true of it is true of any."""
    torch.manual_seed(7)
    tensors = store_tensors(SliceNet(architecture))
    card = Card(CLASS_KEYS, Preprocess(), architecture, {"name": "test"}, {"slices": {}}, {}, 0.05)
    logits = golden_logits(TorchRuntime.from_checkpoint(Checkpoint(card, tensors)), card.preprocess)
    write_checkpoint(path, Checkpoint(replace(card, golden_logits=logits), tensors))
    return path


@pytest.fixture(scope="session")
def features() -> Output:
    """What a network might say of 120 pictures of two kinds."""
    generator = np.random.default_rng(0)
    pooled, shallow = generator.gamma(2, 1, (120, 512)), generator.gamma(2, 1, (120, 128))
    pooled[60:] += generator.gamma(1, 1, 512)
    nothing = np.zeros((120, 4, 1, 1), np.float32)
    return Output(nothing[..., 0, 0], nothing, pooled.astype(np.float32), shallow.astype(np.float32))


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and the linear head."""
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random.safetensors", Architecture())


@pytest.fixture(scope="session")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's resnet18 with random weights, to start training from."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("init") / "resnet18.safetensors"
    safetensors.torch.save_file(resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def classifier(checkpoint_path: Path) -> Classifier:
    """The random one, loaded as the app loads it."""
    return load(checkpoint_path)


@pytest.fixture(scope="session")
def committed() -> Classifier:
    """The one that ctscan brings."""
    return load()


@pytest.fixture(scope="session")
def best_checkpoint(checkpoint_path: Path) -> Path:
    """The committed checkpoint where there is one, else the random one."""
    return COMMITTED if COMMITTED.exists() else checkpoint_path


@pytest.fixture(scope="session")
def slice_png() -> bytes:
    """A slice as a visitor would upload it."""
    return cv2.imencode(".png", (draw_phantom(300, 400) * 255).astype(np.uint8))[1].tobytes()


# Python runs it in the app's process and in its children before anything else; a C library that opens a socket itself
# is not seen. Whatever finds Pillow's `Image` module finds one that notes who opens a picture.
RECORDER = """
import sys

def record(event, arguments, path={connections!r}):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(path, "a") as file:
            print(event, arguments[1] if event != "socket.getaddrinfo" else arguments[:1], file=file)

sys.addaudithook(record)

class PillowWatch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "PIL.Image":
            return None
        sys.meta_path.remove(PillowWatch)
        from importlib.util import find_spec
        spec = find_spec(name)
        execute = spec.loader.exec_module
        def watched(module):
            execute(module)
            for function in ("open", "frombytes", "frombuffer", "fromarray"):
                setattr(module, function, noted(getattr(module, function)))
        spec.loader.exec_module = watched
        return spec

def noted(function, path={pictures!r}):
    def call(*arguments, **options):
        with open(path, "a") as file:
            print(function.__name__, *sys.orig_argv, file=file)
        return function(*arguments, **options)
    return call

sys.meta_path.insert(0, PillowWatch)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return when it holds; fail where it does not come to that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass(frozen=True)
class App:
    """A running `python app.py`."""

    address: str
    process: subprocess.Popen[str]
    temporary: Path  # TMPDIR of the process
    connections: Path  # a line for each host that the process asked for or connected to
    pictures: Path  # a line for each time that Pillow got a picture, in the process or its children
    log: Path  # all that it printed


def free_port() -> int:
    """A port that nothing listens on now."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_app(
    checkpoint: Path,
    temporary: Path,
    environment: dict[str, str] | None = None,
    python: str = sys.executable,
    flags: tuple[str, ...] = (),
    program: Path = ROOT / "app.py",
) -> Iterator[App]:
    """`python app.py` on a free port, until the block ends; `program` may set something before it does the same."""
    port = free_port()
    recorder = temporary.with_name(f"{temporary.name}-recorder")
    for folder in (temporary, recorder):
        folder.mkdir(exist_ok=True)
    connections = recorder / "connections.txt"
    pictures = recorder / "pictures.txt"
    preamble = RECORDER.format(connections=str(connections), pictures=str(pictures))
    (recorder / "sitecustomize.py").write_text(preamble)
    log = recorder / "log.txt"  # a pipe that nobody reads would fill and stop the app
    command = [python, str(program), "--checkpoint", str(checkpoint), "--port", str(port), *flags]
    settings = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(recorder)} | (environment or {})
    with log.open("w") as printed:
        process = subprocess.Popen(command, env=settings, text=True, stdout=printed, stderr=subprocess.STDOUT)
    app = App(f"http://127.0.0.1:{port}", process, temporary, connections, pictures, log)
    try:
        wait_until_ready(app)
        yield app
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_ready(app: App) -> None:
    """Return when the page is served."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        assert app.process.poll() is None, app.log.read_text()
        try:
            with urllib.request.urlopen(app.address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("app.py did not start")


@pytest.fixture(scope="session")
def app(best_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app as a newcomer starts it."""
    with running_app(best_checkpoint, tmp_path_factory.mktemp("laptop")) as running:
        yield running


@pytest.fixture(scope="session")
def app_on_space(best_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app where Gradio believes to be on a Hugging Face Space and changes its defaults."""
    with running_app(best_checkpoint, tmp_path_factory.mktemp("space"), SPACE) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium driven by Playwright; skips where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no browser is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


def turn_to(page: Page, section: str) -> None:
    """Follow the link to a section, and return when it is what the page shows."""
    page.click(f"nav a[href='#{section}']")
    page.locator(f"[data-section={section}]").wait_for()


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A command's `main` with flags, in a folder of its own; in this process, for torch takes seconds to import."""

    def call(main: Callable[[], int], *arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", list(arguments))
        capsys.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        try:
            status = main()
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, said.out, said.err)

    return call


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page's `main` changes in its process for good is put back: the environment, and who may be imported."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "matplotlib", matplotlib)


Ctscan = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_ctscan(command: Command) -> Ctscan:
    """`ctscan ...` as a user types it, in a folder of its own and in this process."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return command(lambda: main([str(argument) for argument in arguments]))

    return run


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with closing(Decoder(children=1)) as started:
        started.wait_until_ready()
        yield started
