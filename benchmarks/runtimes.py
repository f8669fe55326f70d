"""The app on ONNX Runtime beside the app on torch: `python -m benchmarks.runtimes` (Linux; two cores).

- installed bytes of requirements-onnx.txt / of requirements.txt
- `python app.py --checkpoint FILE.onnx` until its first answer / `python app.py`, each in its own environment
- peak memory after a few answers
- one forward pass with all maps, fp32 and int8 / torch, two threads each

The first three need --venvs, a folder that holds the environments `torch` and `onnx` or gets them, which takes minutes
and gigabytes. The files are those that `ctscan export` writes, without and with --int8.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.app import CHECKPOINT, answering, peak_memory, start
from benchmarks.timing import example, parser, print_ratio
from ctscan.bundle import bundled
from ctscan.io.images import read_slice
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.runtime import OnnxRuntime, TorchRuntime

ROOT = Path(__file__).parent.parent
CORES = 2
ANSWERS = 10  # before memory is read
REQUIREMENTS = {"torch": "requirements.txt", "onnx": "requirements-onnx.txt"}


def make_environment(folder: Path, requirements: str) -> Path:
    """A virtual environment with what the file lists, made where it is missing."""
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(ROOT / requirements)]
        subprocess.run([str(folder / "bin" / "python"), *install], check=True)
    return folder


def installed_bytes(folder: Path) -> int:
    """The bytes of an environment's files, without compiled Python, which comes and goes."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files)


def memory(checkpoint: Path, python: str) -> float:
    """MiB: the app's highest resident memory after some answers."""
    with answering(checkpoint, python) as (caller, pid):
        for _ in range(ANSWERS):
            caller.classify(example())
        return peak_memory(pid)


def compare_environments(venvs: Path, onnx: Path, rounds: int) -> None:
    """Print bytes, start and memory."""
    made = {name: make_environment(venvs / name, file) for name, file in REQUIREMENTS.items()}
    small, large = installed_bytes(made["onnx"]), installed_bytes(made["torch"])
    print(f"installed bytes, onnx / torch: {small / large:.3f}   ({small / 1e6:.0f} / {large / 1e6:.0f} MB)")
    python = {name: str(folder / "bin" / "python") for name, folder in made.items()}
    print_ratio(
        "start to first answer, onnx / torch",
        lambda: start(onnx, python["onnx"]),
        lambda: start(CHECKPOINT, python["torch"]),
        rounds,
    )
    a, b = memory(onnx, python["onnx"]), memory(CHECKPOINT, python["torch"])
    print(f"peak memory, onnx / torch: {a / b:.3f}   ({a:.0f} / {b:.0f} MiB)")


def compare_forward(name: str, path: Path, rounds: int) -> None:
    """Print the ratio of one forward pass with maps."""
    checkpoint = read_checkpoint(CHECKPOINT)
    ours, theirs = OnnxRuntime(path), TorchRuntime.from_checkpoint(checkpoint)
    square = checkpoint.card.preprocess(read_slice(example()).pixels)[0][None]
    print_ratio(f"forward pass, {name} / torch", lambda: ours.run(square), lambda: theirs.run(square), rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios of what was given."""
    given = parser(__doc__, 60)
    given.add_argument("--onnx", type=Path, default=bundled("checkpoints/resnet18.onnx"))
    given.add_argument("--int8", type=Path, help="a file of `ctscan export --int8`")
    given.add_argument("--venvs", type=Path, help="compare the app in two environments too, a tenth of the rounds")
    flags = given.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    compare_forward("onnx fp32", flags.onnx, flags.rounds)
    if flags.int8:
        compare_forward("onnx int8", flags.int8, flags.rounds)
    if flags.venvs:
        compare_environments(flags.venvs, flags.onnx.resolve(), -(-flags.rounds // 10))


if __name__ == "__main__":
    main()
