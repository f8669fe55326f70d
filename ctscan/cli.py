"""The command line: `ctscan COMMAND`, or `python -m ctscan COMMAND`.

A command checks its flags, calls one function of a wing and prints. What a user can mend ends in one line on standard
error and exit status 2, and that is done here alone. Torch and what needs it are imported by the commands that compute.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from ctscan.bundle import bundled
from ctscan.errors import CtscanError

MENDABLE, INTERRUPTED, READER_GONE = 2, 130, 141  # exit statuses; the last two are a shell's for SIGINT and SIGPIPE
MODEL = "checkpoints/resnet18.safetensors"

Device = Literal["auto", "cpu", "cuda"]
Data = Annotated[Path, typer.Option(metavar="DIR", help="folder with train/, valid/ and test/, a folder a class each")]
Checkpoint = Annotated[Path | None, typer.Option(metavar="FILE", help="a checkpoint  [default: the one ctscan brings]")]
Runs = Annotated[Path, typer.Option(metavar="DIR", help="folder of logs, plots and folds, from which runs resume")]

app = typer.Typer(
    help="An explained classifier of chest CT slices. For education and research, not for diagnosis.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="pictures of axial slices")],
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a checkpoint or an exported file  [default: the one it brings]")
    ] = None,
    device: Device = "cpu",
) -> int:
    """Answer for each file: one line of JSON a file, in order, as the page's API gives it."""
    from contextlib import closing

    from ctscan.inference.answer import Answer, answer
    from ctscan.inference.classifier import Classifier
    from ctscan.io.sandbox import Decoder

    status = 0
    path = checkpoint or bundled(MODEL)
    with closing(Decoder(children=1)) as decoder:  # it comes up while the model is loaded
        classifier = Classifier.load(path, device, "onnx" if path.suffix == ".onnx" else "torch")
        for file in files:
            try:
                answered = answer(classifier, file.read_bytes(), decoder.read)
            except OSError as error:  # a file's name may tell of a patient: it is said on stderr, never in an answer
                status = say(f"{file}: {error.strerror}.")
                reason = f"The file cannot be opened ({error.strerror})."
                answered = Answer("unreadable", (reason,), classifier.card.model_id)
            print(json.dumps(answered.to_json()), flush=True)
    return status


@app.command()
def audit(
    data: Data,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write hashes, groups and folds: no picture, no file name")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write an HTML file with pictures, for the data's owner")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(metavar="FILE", help="add the counts to this metrics.json")] = None,
) -> None:
    """Find copies, conflicting labels and visual groups in a data folder."""
    require("sklearn", "scikit-learn")
    from ctscan.evaluation.studies import count_copies
    from ctscan.results.ledger import update
    from ctscan.training import audit as auditing
    from ctscan.training.data import read_dataset

    found = auditing.audit(read_dataset(data, most_unreadable=1))
    for _, line in found.data.skipped:
        say(line)
    print(json.dumps(found.manifest.facts(), indent=1))
    if manifest:
        manifest.write_text(found.manifest.to_json(), encoding="utf-8")
    if ledger:
        update(ledger, count_copies(found.manifest))
    if report:
        auditing.write_report(report, found)
        print(f"{report} holds pictures of the data: for its owner, not for publication.", file=sys.stderr)


@app.command()
def gate(
    data: Data,
    pictures: Annotated[Path, typer.Option(metavar="DIR", help="folder with ct_chest/, ct_other/ and notct/")],
    checkpoint: Checkpoint = None,
    runs: Runs = Path("runs"),
) -> None:
    """Fit the input gate of a checkpoint, and measure it on pictures that it has not seen."""
    require("sklearn", "scikit-learn")
    from ctscan.evaluation.gate import fit_gate
    from ctscan.evaluation.studies import open_setting
    from ctscan.results.ledger import update

    path = checkpoint or bundled(MODEL)
    setting = open_setting(data, path.parent / "manifest.json", runs=runs)
    entry = fit_gate(path, setting.pool, pictures, runs)
    update(path.parent / "metrics.json", entry)
    print(entry.model_dump_json(indent=1))


@app.command()
def export(
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="the ONNX file to write")] = None,
    torchscript: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="quantise it; needs --data")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder with train/ (calibrates) and valid/ (scores)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="write the int8 file however much accuracy it loses")] = False,
    checkpoint: Checkpoint = None,
) -> None:
    """Write a checkpoint as an ONNX file, held against PyTorch before it is written."""
    require("torch")
    from ctscan.export import build_onnx, export_onnx, export_torchscript
    from ctscan.model.checkpoint import read_checkpoint
    from ctscan.quantisation import export_int8
    from ctscan.training.data import read_dataset

    if int8 and not data:
        raise CtscanError("--int8 needs --data.")
    if onnx is None and (int8 or not torchscript):
        onnx = bundled("checkpoints") / ("resnet18.int8.onnx" if int8 else "resnet18.onnx")
    examples, write = bundled("examples"), partial(print, flush=True)
    model = read_checkpoint(checkpoint or bundled(MODEL))
    if onnx and data and int8:
        slices = read_dataset(data, ("train", "valid"))
        export_int8(model.card, build_onnx(model, examples, write), slices, onnx, force, write)
    elif onnx:
        export_onnx(model, onnx, examples, write)
    if torchscript:
        export_torchscript(model, torchscript, examples, write)


@app.command()
def report(
    root: Annotated[Path, typer.Option(metavar="DIR", help="a checkout of ctscan")] = Path(),
) -> None:
    """Write the numbers in README.md and the cards anew."""
    from ctscan.results.report import write

    write(root)


def require(module: str, name: str = "") -> None:
    """Raises CtscanError where a package that a command needs is not installed."""
    if find_spec(module) is None:
        raise CtscanError(f"{name or module} is not installed: `pip install -r requirements-train.txt` brings it.")


def say(line: object) -> int:
    """Print a line for the person at the keyboard, on standard error; the exit status of what they can mend."""
    print("ctscan:", " ".join(str(line).split()), file=sys.stderr)
    return MENDABLE


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows `ctscan`; by default what was typed.

    Returns:
        The exit status: 0; 2 with one line for what a user can mend; 130 after Ctrl-C or SIGTERM; 141 where whoever
        reads the output has gone.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = typer.main.get_command(app)
    try:
        with command.make_context("ctscan", arguments or sys.argv[1:] or ["--help"]) as context:
            status = command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:  # after --help
        return done.exit_code
    except typer.TyperException as error:
        return say(error.format_message())
    except CtscanError as error:
        return say(error)
    except BrokenPipeError:  # as in `ctscan predict ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes as it ends
        return READER_GONE
    except OSError as error:
        return say(f"{error.filename or 'ctscan'}: {error.strerror or error}.")
    except KeyboardInterrupt as stop:
        say(": ".join(["interrupted", *map(str, stop.args)]) + ".")
        return INTERRUPTED
    return int(status or 0)
