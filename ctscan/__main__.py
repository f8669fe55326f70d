"""`python -m ctscan predict FILE...`: the page's answer for each file, one JSON line a file, in order.

`python -m ctscan audit DIR`: what a data folder holds twice, and what crosses its splits.
`python -m ctscan report`: bring the numbers in README.md and in the cards up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

from ctscan.answer import answer
from ctscan.checkpoint import CheckpointError
from ctscan.classifier import Classifier
from ctscan.data import DataError
from ctscan.ledger import LedgerError, append
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


def audit(data: Path, manifest: Path | None, report: Path | None, ledger: Path | None) -> int:
    """Print what was found, and write what was asked for. Exit status 2 where the folder is not as it should be."""
    from ctscan import audit as auditing
    from ctscan.audit_report import write_report

    try:
        found = auditing.audit(data)
        print(json.dumps(found.manifest.facts(), indent=1))
        if manifest:
            manifest.write_text(found.manifest.to_json(), encoding="utf-8")
        if ledger:
            entry = {"date": f"{date.today()}", "manifest": found.manifest.digest[:16], **found.manifest.facts()}
            append(ledger, "audits", entry)
        if report:
            write_report(report, found)
            print(f"{report} holds pictures of the data: for its owner, not for publication.", file=sys.stderr)
    except (DataError, LedgerError) as error:
        print(f"ctscan: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ctscan: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Dispatch the subcommand."""
    parser = argparse.ArgumentParser(prog="python -m ctscan", description="An explained classifier of chest CT slices.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("predict", help="classify slices; for education and research only")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    command.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    command = commands.add_parser("audit", help="find copies, conflicting labels and visual groups in a data folder")
    command.add_argument("data", type=Path, metavar="DIR", help="with train/, valid/ and test/")
    command.add_argument("--manifest", type=Path, help="write hashes, groups and folds: no picture, no file name")
    command.add_argument("--report", type=Path, help="write an HTML file with pictures, for the data's owner")
    command.add_argument("--ledger", type=Path, help="add the counts to this metrics.json")
    commands.add_parser("report", help="write the numbers of README.md and the cards anew")
    options = parser.parse_args(arguments)
    if options.command == "report":
        write(ROOT)
        return 0
    if options.command == "audit":
        return audit(options.data, options.manifest, options.report, options.ledger)
    return predict(options.files, options.checkpoint, options.device)


if __name__ == "__main__":
    sys.exit(main())
