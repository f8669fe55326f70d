"""The app on ONNX Runtime beside the app on torch: `python -m benchmarks.runtimes` (Linux; two cores).

- installed bytes of requirements-onnx.txt / of requirements.txt
- `python app.py --runtime onnx` until its first answer / `python app.py`, each in its own environment
- peak memory after a few answers
- one forward pass with all maps, fp32 and int8 / torch, two threads each

Environments are made in --venvs where they are not there yet, which takes minutes and gigabytes. The files are those
that `python -m ctscan export` writes, without and with --int8.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.app import classify, peak_memory, running_app, start_and_stop
from benchmarks.timing import print_ratio
from ctscan.bundle import bundled
from ctscan.imaging.phantom import draw_phantom
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.onnx_file import read_onnx_file
from ctscan.model.onnx_runtime import OnnxRuntime
from ctscan.model.runtime import TorchRuntime

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


def memory(picture: bytes, python: str, *flags: str) -> float:
    """MiB: the app's highest resident memory after some answers."""
    with running_app(picture, python, *flags) as (address, pid):
        for _ in range(ANSWERS):
            classify(address, picture)
        return peak_memory(pid)


def compare_environments(venvs: Path, onnx: Path, rounds: int) -> None:
    """Print bytes, start and memory."""
    picture = cv2.imencode(".png", (draw_phantom(512, 640) * 255).astype(np.uint8))[1].tobytes()
    made = {name: make_environment(venvs / name, file) for name, file in REQUIREMENTS.items()}
    small, large = installed_bytes(made["onnx"]), installed_bytes(made["torch"])
    print(f"installed bytes, onnx / torch: {small / large:.3f}   ({small / 1e6:.0f} / {large / 1e6:.0f} MB)")
    python = {name: str(folder / "bin" / "python") for name, folder in made.items()}
    flags = ("--runtime", "onnx", "--checkpoint", str(onnx))
    print_ratio(
        "start to first answer, onnx / torch",
        lambda: start_and_stop(picture, python["onnx"], *flags),
        lambda: start_and_stop(picture, python["torch"]),
        rounds,
    )
    a, b = memory(picture, python["onnx"], *flags), memory(picture, python["torch"])
    print(f"peak memory, onnx / torch: {a / b:.3f}   ({a:.0f} / {b:.0f} MiB)")


def compare_forward(name: str, path: Path, rounds: int) -> None:
    """Print the ratio of one forward pass with maps."""
    checkpoint = read_checkpoint(bundled("checkpoints/resnet18.safetensors"))
    ours, theirs = OnnxRuntime(path, read_onnx_file(path).card), TorchRuntime.from_checkpoint(checkpoint)
    square = checkpoint.card.preprocess(draw_phantom())[0][None]
    print_ratio(f"forward pass, {name} / torch", lambda: ours.run(square), lambda: theirs.run(square), rounds)


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, default=bundled("checkpoints") / "resnet18.onnx")
    parser.add_argument("--int8", type=Path, default=bundled("checkpoints") / "resnet18.int8.onnx")
    parser.add_argument("--venvs", type=Path, help="folder that holds or gets the environments `torch` and `onnx`")
    parser.add_argument("--rounds", type=int, default=60, help="of the forward passes; a tenth of the starts")
    flags = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)
    compare_forward("onnx fp32", flags.onnx, flags.rounds)
    compare_forward("onnx int8", flags.int8, flags.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        compare_environments(flags.venvs or Path(temporary), flags.onnx.resolve(), max(1, flags.rounds // 10))


if __name__ == "__main__":
    main()
