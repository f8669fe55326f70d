"""`python -m ctscan predict FILE...`: the page's answer for each file, one JSON line a file, in order.

`python -m ctscan report`: bring the numbers in README.md and checkpoints/README.md up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ctscan.answer import answer
from ctscan.checkpoint import CheckpointError
from ctscan.classifier import Classifier
from ctscan.report import write
from ctscan.runtime import DeviceError

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "checkpoints" / "resnet18.safetensors"


def predict(files: list[Path], checkpoint: Path, device: str) -> int:
    """Print an answer for each file. Exit status 2 where the checkpoint is refused or a file cannot be opened."""
    try:
        classifier = Classifier.load(checkpoint, device)
    except (CheckpointError, DeviceError) as error:
        print(f"ctscan: {error}", file=sys.stderr)
        return 2
    status = 0
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            print(f"ctscan: {file}: {error.strerror}.", file=sys.stderr)
            status = 2
            continue
        print(json.dumps(answer(classifier, data).to_json()), flush=True)
    return status


def main(arguments: list[str] | None = None) -> int:
    """Dispatch the subcommand."""
    parser = argparse.ArgumentParser(prog="python -m ctscan", description="An explained classifier of chest CT slices.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("predict", help="classify slices; for education and research only")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    command.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    commands.add_parser("report", help="write the numbers of README.md and checkpoints/README.md anew")
    options = parser.parse_args(arguments)
    if options.command == "report":
        write(ROOT)
        return 0
    return predict(options.files, options.checkpoint, options.device)


if __name__ == "__main__":
    sys.exit(main())
