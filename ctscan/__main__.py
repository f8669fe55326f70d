"""`python -m ctscan predict FILE...`: the page's answer for each file, one JSON line a file, in order.

`python -m ctscan export`: the checkpoint as an ONNX or a TorchScript file.
`python -m ctscan audit DIR`: what a data folder holds twice, and what crosses its splits.
`python -m ctscan gate DIR --pictures DIR`: fit the input gate, and say what it is worth.
`python -m ctscan report`: bring the numbers in README.md and in the cards up to date.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from ctscan.errors import CtscanError, DataError, ModelError
from ctscan.inference.answer import Answer, answer
from ctscan.inference.classifier import RUNTIMES, Classifier
from ctscan.model.checkpoint import read_checkpoint
from ctscan.results.entries import append, using
from ctscan.results.report import write

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "checkpoints"
EXAMPLES = ROOT / "examples"
CHECKPOINT = CHECKPOINTS / RUNTIMES["torch"]
INTERRUPTED, READER_GONE = 130, 141  # exit statuses: what a shell says of SIGINT and SIGPIPE


def predict(files: list[Path], checkpoint: Path, device: str, runtime: str) -> int:
    """Print an answer for each file. Exit status 2 where the checkpoint is refused or a file cannot be opened.

    File names may tell of a patient: they are said on stderr, never in an answer.
    """
    try:
        classifier = Classifier.load(checkpoint, device, runtime)
    except ModelError as error:
        return refuse(error)
    status = 0
    for file in files:
        try:
            given = answer(classifier, file.read_bytes())
        except OSError as error:
            status = refuse(f"{file}: {error.strerror}.")
            given = Answer("unreadable", (f"The file cannot be opened ({error.strerror}).",), classifier.card.model_id)
        print(json.dumps(given.to_json()), flush=True)
    return status


def audit(data: Path, manifest: Path | None, report: Path | None, ledger: Path | None) -> int:
    """Print what was found, and write what was asked for. Exit status 2 where the folder is not as it should be."""
    if find_spec("sklearn") is None:
        return refuse("scikit-learn is not installed: `pip install -r requirements-dev.txt` brings it.")
    from ctscan.training import audit as auditing
    from ctscan.training.audit_report import write_report

    try:
        found = auditing.audit(data)
        for line in found.unreadable:
            print(f"ctscan: {line}", file=sys.stderr)
        print(json.dumps(found.manifest.facts(), indent=1))
        if manifest:
            manifest.write_text(found.manifest.to_json(), encoding="utf-8")
        if ledger:
            entry = {"date": f"{date.today()}", "manifest": found.manifest.digest[:16], **found.manifest.facts()}
            append(ledger, "audits", entry)
        if report:
            write_report(report, found)
            print(f"{report} holds pictures of the data: for its owner, not for publication.", file=sys.stderr)
    except DataError as error:
        return refuse(error)
    return 0


def gate(data: Path, pictures: Path, checkpoint: Path, runs: Path) -> int:
    """Fit and measure the gate of a checkpoint. Exit status 2 where something that it needs is not there."""
    if find_spec("sklearn") is None:
        return refuse("scikit-learn is not installed: `pip install -r requirements-dev.txt` brings it.")

    from ctscan.evaluation.gate_study import study
    from ctscan.results.gate_words import alarm, summary

    try:
        found = study(data, pictures, checkpoint, runs)
        append(checkpoint.parent / "metrics.json", "gates", found)
    except CtscanError as error:
        return refuse(error)
    print(f"{summary(found)} {alarm(found)}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the files that the flags name. Exit status 2 where one cannot or must not be written."""
    if find_spec("torch") is None:
        return refuse("torch is not installed: `pip install -r requirements-dev.txt` brings it.")
    from ctscan.export import build_onnx, export_onnx, export_torchscript
    from ctscan.quantisation import export_int8
    from ctscan.training.data import load_split

    onnx = options.onnx
    if onnx is None and (options.int8 or not options.torchscript):
        onnx = CHECKPOINTS / ("resnet18.int8.onnx" if options.int8 else RUNTIMES["onnx"])
    say = partial(print, flush=True)
    try:
        checkpoint = read_checkpoint(options.checkpoint)
        if options.int8:
            train, valid = (
                load_split(options.data / name, checkpoint.card.preprocess.square) for name in ("train", "valid")
            )
            model = build_onnx(checkpoint, EXAMPLES, say)
            export_int8(checkpoint.card, model, train, valid, onnx, options.force, say)
        elif onnx:
            export_onnx(checkpoint, onnx, EXAMPLES, say)
        if options.torchscript:
            export_torchscript(checkpoint, options.torchscript, EXAMPLES, say)
    except CtscanError as error:
        return refuse(error)
    return 0


def report(root: Path) -> int:
    """Write the texts of a checkout anew. Exit status 2 where the ledger does not know the checkpoint's model."""
    try:
        with using(root / "checkpoints" / "metrics.json"):
            write(root)
    except CtscanError as error:
        return refuse(error)
    return 0


def refuse(reason: object) -> int:
    """Say in one line what a user can mend; the exit status for it."""
    print(f"ctscan: {reason}", file=sys.stderr)
    return 2


def add_export_flags(command: argparse.ArgumentParser) -> None:
    """What `export` takes."""
    command.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    command.add_argument("--onnx", type=Path, metavar="FILE", help="default: beside the committed checkpoint")
    command.add_argument("--torchscript", type=Path, metavar="FILE")
    command.add_argument("--int8", action="store_true", help="quantise the ONNX file; needs --data")
    command.add_argument("--data", type=Path, metavar="DIR", help="folder with train/ (calibrates) and valid/ (scores)")
    command.add_argument("--force", action="store_true", help="write the int8 file however much accuracy it loses")


def build_parser() -> argparse.ArgumentParser:
    """The subcommands and their flags."""
    parser = argparse.ArgumentParser(prog="python -m ctscan", description="An explained classifier of chest CT slices.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("predict", help="classify slices; for education and research only")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--checkpoint", type=Path, help="a checkpoint, or for --runtime onnx an exported file")
    command.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    command.add_argument("--runtime", default="torch", choices=RUNTIMES, help="what computes")
    add_export_flags(commands.add_parser("export", help="write the checkpoint as an ONNX or a TorchScript file"))
    command = commands.add_parser("audit", help="find copies, conflicting labels and visual groups in a data folder")
    command.add_argument("data", type=Path, metavar="DIR", help="with train/, valid/ and test/")
    command.add_argument("--manifest", type=Path, help="write hashes, groups and folds: no picture, no file name")
    command.add_argument("--report", type=Path, help="write an HTML file with pictures, for the data's owner")
    command.add_argument("--ledger", type=Path, help="add the counts to this metrics.json")
    command = commands.add_parser("gate", help="fit the input gate of a checkpoint, and measure it")
    command.add_argument("data", type=Path, metavar="DIR", help="with train/, valid/ and test/")
    command.add_argument("--pictures", type=Path, required=True, help="with ct_chest/, ct_other/ and notct/")
    command.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    command.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the folds were trained")
    commands.add_parser("report", help="write the numbers of README.md and the cards anew")
    return parser


def dispatch(options: argparse.Namespace) -> int:
    """Run the subcommand. Raises OSError for a file that cannot be written."""
    if options.command == "report":
        return report(ROOT)
    if options.command == "audit":
        return audit(options.data, options.manifest, options.report, options.ledger)
    if options.command == "gate":
        return gate(options.data, options.pictures, options.checkpoint, options.runs)
    if options.command == "export":
        return export(options) if options.data or not options.int8 else refuse("--int8 needs --data DIR.")
    checkpoint = options.checkpoint or CHECKPOINTS / RUNTIMES[options.runtime]
    return predict(options.files, checkpoint, options.device, options.runtime)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 2 with one sentence for what a user can mend, or that of an end from outside."""
    options = build_parser().parse_args(arguments)
    try:
        status = dispatch(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("ctscan: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has seen enough, as in `predict ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes as it ends
        return READER_GONE
    except OSError as error:
        return refuse(f"{error.filename or options.command}: {error.strerror or error}.")
    return status


if __name__ == "__main__":
    sys.exit(main())
