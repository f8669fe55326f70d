"""The app from outside: start, one request, memory. `python -m benchmarks.app` (Linux: reads /proc).

- `python app.py` until its first answer / the time to import torch, torchvision and gradio
- one /classify request / the bare forward pass
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.timing import example, parser, print_ratio
from ctscan.bundle import bundled
from ctscan.io.images import read_slice
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.runtime import build_net
from tests.caller import Caller
from tests.conftest import running_app

CHECKPOINT = bundled("checkpoints/resnet18.safetensors")
IMPORTS = "import torch, torchvision, gradio"


@contextmanager
def answering(checkpoint: Path = CHECKPOINT, python: str = sys.executable) -> Iterator[tuple[Caller, int]]:
    """The app when it has given its first answer, and its process id."""
    with TemporaryDirectory() as folder, running_app(checkpoint, Path(folder) / "app", python=python) as app:
        caller = Caller(app.address)
        caller.classify(example())
        yield caller, app.process.pid


def start(checkpoint: Path = CHECKPOINT, python: str = sys.executable) -> float:
    """Seconds from nothing to the first answer; the stop, which takes its own time, is not counted."""
    began = time.perf_counter()
    with answering(checkpoint, python):
        return time.perf_counter() - began


def peak_memory(pid: int) -> float:
    """MiB: the highest resident memory of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios and the app's peak memory."""
    rounds = parser(__doc__, 30).parse_args(arguments).rounds
    checkpoint = read_checkpoint(CHECKPOINT)
    net = build_net(checkpoint).eval()
    tensor = torch.from_numpy(checkpoint.card.preprocess(read_slice(example()).pixels)[0][None])

    def bare() -> None:
        with torch.inference_mode():
            net(tensor)

    def imports() -> None:
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)

    print_ratio("app.py until its first answer / imports", start, imports, -(-rounds // 10))
    with answering() as (caller, pid):
        print_ratio("one /classify request / bare forward pass", lambda: caller.classify(example()), bare, rounds)
        print(f"peak memory of the app: {peak_memory(pid):.0f} MiB")


if __name__ == "__main__":
    main()
