"""The command line: `ctscan COMMAND`, or `python -m ctscan COMMAND`.

A command checks its flags, calls one function of a wing and prints. What a user can mend ends in one line on standard
error and exit status 2, and that is done here alone. Torch and what needs it are imported by the commands that compute.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated

import typer

from ctscan import files, flags
from ctscan.bundle import MODEL, bundled, remedy
from ctscan.cores import limit_threads
from ctscan.errors import CtscanError
from ctscan.flags import place, say
from ctscan.predict import predict

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ctscan.results.records import Entry
    from ctscan.training.recipe import Recipe

INTERRUPTED, READER_GONE = 130, 141  # exit statuses, a shell's for SIGINT and SIGPIPE
PACKAGES = {"sklearn": "scikit-learn", "skimage": "scikit-image"}  # module -> what pip calls it, where that differs

app = typer.Typer(
    help="An explained classifier of chest CT slices. For education and research, not for diagnosis.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command()(predict)


@app.command()
def train(
    data: flags.Data,
    out: Annotated[Path, flags.file_option("the checkpoint to write")] = Path(MODEL),
    recipe: flags.RecipeName = "ctscan",
    changes: flags.Changes = None,
    ledger: Annotated[Path | None, flags.file_option("keeps the scores  [default: metrics.json beside --out]")] = None,
    read_test: Annotated[bool, typer.Option(help="score the test split once, at the end")] = True,
    force: Annotated[bool, typer.Option("--force", help="replace the file of --out")] = False,
    init: flags.Init = None,
    runs: flags.Runs = flags.RUNS,
    device: flags.Device = "auto",
    devices: flags.Devices = 1,
    node: flags.Node = None,
    threads: flags.TorchThreads = None,
) -> None:
    """Train a classifier. The best epoch is chosen on valid; Ctrl-C keeps the best so far."""
    from ctscan.evaluation import cross_validation, studies
    from ctscan.training import team, trainer

    nodes = team.Nodes.read(devices, node, threads)
    if nodes.this:
        trainer.assist(nodes, device)
        return
    book = place(ledger or place(out, "--out").parent / "metrics.json", "--ledger")
    cross_validation.check_ledger(book)
    made = trainer.train(
        data, chosen(recipe, changes), out,
        init=init, runs=runs, device=device, nodes=nodes, force=force, read_test=read_test
    )  # fmt: skip
    if read_test:
        keep(book, studies.reading(made.card))
    print(f"{made.checkpoint}: {made.card.model_id}, best epoch {made.best.epoch}; log in {made.folder}")


@app.command()
def evaluate(
    data: Annotated[Path | None, flags.folder_option("as for train")] = None,
    folder: flags.Outside = None,
    cross_validate: flags.CrossValidate = False,
    against: flags.Against = None,
    control: flags.Control = None,
    calibrate: flags.Calibrate = False,
    explain: Annotated[bool, typer.Option("--explain", help="put the checkpoint's maps to the test")] = False,
    volumes: flags.Volumes = None,
    patients: flags.Patients = None,
    recipe: flags.RecipeName = "ctscan",
    changes: flags.Changes = None,
    threshold: flags.Threshold = 0.90,
    folds: Annotated[int, typer.Option(min=1, max=5, help="train so many of the five folds")] = 5,
    draws: flags.Draws = 1000,
    checkpoint: flags.Checkpoint = None,
    ledger: flags.Ledger = None,
    init: flags.Init = None,
    runs: flags.Runs = flags.RUNS,
    device: flags.Device = "auto",
) -> None:
    """Say what a checkpoint is worth on test; with a flag, what its recipe, its scores or its maps are worth."""
    from ctscan.evaluation import studies
    from ctscan.evaluation.cross_validation import check_ledger, open_setting
    from ctscan.evaluation.elsewhere import judge_patients
    from ctscan.inference.classifier import load
    from ctscan.training.recipe import RECIPES

    path = checkpoint or bundled(MODEL)
    book = ledger or path.parent / "metrics.json"
    if sum(given is not None for given in (data, folder, patients)) != 1:
        raise CtscanError("Give one of --data, --folder and --patients.")
    classifier = load(path)
    if folder:
        result, unread, refused = studies.score_outside(folder, classifier, draws)
        show(result)
        print(f"{unread} files could not be read, {refused} slices were refused")
    if patients:
        check_ledger(book)
        keep(book, judge_patients(classifier, patients, draws))
    if data:
        check_ledger(place(book, "--ledger"))
        if cross_validate or against or control:
            files.make_folder(runs, "--runs")
        setting = open_setting(
            data, path.parent / "manifest.json", threshold=threshold, runs=runs, draws=draws, device=device, init=init
        )
        given, about = chosen(recipe, changes), RECIPES[recipe]
        if cross_validate or against:
            other = RECIPES[against] if against else None
            keep(book, studies.grouped(setting, given, folds=folds, classifier=classifier, against=other))
        if control:
            keep(book, studies.control(setting, control, given, about=about, folds=folds))
        if calibrate:
            keep(book, studies.calibrate(setting, given, folds=folds, checkpoint=path))
        if explain or volumes:
            keep(book, *studies.explain(setting, path, volumes))
        if not (cross_validate or against or control or calibrate or explain or volumes):
            keep(book, *studies.published(setting, classifier))


@app.command()
def audit(
    data: flags.Data,
    manifest: flags.Manifest = None,
    report: Annotated[Path | None, flags.file_option("write an HTML file with pictures, for the data's owner")] = None,
    ledger: Annotated[Path | None, flags.file_option("add the counts to this metrics.json")] = None,
) -> None:
    """Find copies, conflicting labels and visual groups in a data folder."""
    from ctscan.evaluation.studies import count_copies
    from ctscan.results.ledger import update
    from ctscan.training import audit as auditing
    from ctscan.training.data import read_dataset

    for flag, path in {"--manifest": manifest, "--report": report, "--ledger": ledger}.items():
        if path:
            place(path, flag)
    found = auditing.audit(read_dataset(data, most_unreadable=1))
    for _, line in found.data.skipped:
        say(line)
    print(json.dumps(found.manifest.facts(), indent=1))
    if manifest:
        files.write(manifest, found.manifest.to_json())
    if ledger:
        update(ledger, count_copies(found.manifest))
    if report:
        auditing.write_report(report, found)
        print(f"{report} holds pictures of the data: for its owner, not for publication.", file=sys.stderr)


@app.command()
def gate(
    data: flags.Data, pictures: flags.Pictures, checkpoint: flags.Checkpoint = None, runs: flags.Runs = flags.RUNS
) -> None:
    """Fit the input gate of a checkpoint, and measure it on pictures that it has not seen."""
    from ctscan.evaluation.cross_validation import open_setting
    from ctscan.evaluation.gate import fit_gate

    path = place(checkpoint or bundled(MODEL), "--checkpoint")
    setting = open_setting(data, path.parent / "manifest.json", runs=runs)
    keep(path.parent / "metrics.json", fit_gate(setting, path, pictures))


@app.command()
def search(
    data: flags.Data,
    trials: Annotated[int, typer.Option(min=1, help="how many there are to be, with those of earlier calls")] = 20,
    recipe: flags.RecipeName = "ctscan",
    changes: flags.Changes = None,
    ledger: Annotated[Path | None, flags.file_option("keeps the summary")] = None,
    init: flags.Init = None,
    runs: flags.Runs = flags.RUNS,
    device: flags.Device = "auto",
) -> None:
    """Search for a recipe on two grouped folds; the same call goes on where Ctrl-C ended it."""
    from ctscan.evaluation import search as searching
    from ctscan.evaluation.cross_validation import open_setting
    from ctscan.training.weights import imagenet_weights

    book = ledger and place(ledger, "--ledger")
    files.make_folder(runs, "--runs")
    pool = open_setting(data, bundled("checkpoints/manifest.json"), runs=runs).pool
    entry = searching.search(chosen(recipe, changes), pool, imagenet_weights(init), runs, trials, device)
    keep(book, entry) if book else show(entry)


@app.command()
def export(
    onnx: Annotated[Path | None, flags.file_option("the ONNX file to write")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="quantise it; needs --data")] = False,
    data: Annotated[Path | None, flags.folder_option("folder with train/ (calibrates) and valid/ (scores)")] = None,
    force: Annotated[bool, typer.Option("--force", help="write the int8 file however much accuracy it loses")] = False,
    checkpoint: flags.Checkpoint = None,
) -> None:
    """Write a checkpoint as an ONNX file, held against PyTorch before it is written."""
    from ctscan.export import MAX_LOSS, build_onnx, export_int8, export_onnx
    from ctscan.model.checkpoint import read_checkpoint
    from ctscan.training.data import read_dataset

    if int8 and not data:
        raise CtscanError("--int8 needs --data.")
    path = place(onnx or bundled("checkpoints") / ("resnet18.int8.onnx" if int8 else "resnet18.onnx"), "--onnx")
    examples, write = bundled("examples"), partial(print, flush=True)
    model = read_checkpoint(checkpoint or bundled(MODEL))
    if data and int8:
        slices, graph = read_dataset(data, ("train", "valid")), build_onnx(model, examples, write)
        export_int8(model, graph, path, slices, write, max_loss=100 if force else MAX_LOSS)
    else:
        export_onnx(model, path, examples, write)


@app.command()
def report(root: flags.Root = Path()) -> None:
    """Write the numbers in README.md and the cards anew."""
    from ctscan.results.report import write

    write(root)


@app.command()
def reproduce(
    data: flags.Data,
    pictures: Annotated[Path | None, flags.folder_option("as for gate, whose step is left out without it")] = None,
    volumes: Annotated[Path | None, flags.folder_option("scans, as for evaluate")] = None,
    patients: Annotated[Path | None, flags.folder_option("as for evaluate")] = None,
    root: flags.Root = Path(),
    recipe: flags.RecipeName = "ctscan",
    changes: flags.Changes = None,
    draws: flags.Draws = 1000,
    init: flags.Init = None,
    runs: flags.Runs = flags.RUNS,
    device: flags.Device = "auto",
) -> None:
    """Run the whole chain, from training to README and cards; what is there already is not done again."""
    from ctscan.reproduce import reproduce as run

    place(root / "checkpoints" / "metrics.json", "--root")
    files.make_folder(runs, "--runs")
    for line in run(
        root, data, chosen(recipe, changes),
        pictures=pictures, volumes=volumes, patients=patients, init=init, runs=runs, draws=draws, device=device,
    ):  # fmt: skip
        print(line, flush=True)


def chosen(name: flags.RecipeName, changes: list[str] | None) -> Recipe:
    """A known recipe with the changes of `--set`. Raises DataError."""
    from ctscan.training.recipe import RECIPES, override

    return override(RECIPES[name], changes or [])


def keep(ledger: Path, *entries: Entry) -> None:
    """Put results into the ledger and print them."""
    from ctscan.results.ledger import update

    update(ledger, *entries)
    for entry in entries:
        show(entry)


def show(record: BaseModel) -> None:
    """Print a record, a figure a line."""
    from ctscan.results.records import figures

    print(*figures("", record.model_dump()), sep="\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows `ctscan`; by default what was typed.

    Returns:
        The exit status: 0; 2 with one line for what a user can mend; 130 after Ctrl-C or SIGTERM; 141 where whoever
        reads the output has gone.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limit_threads()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # or it tells of its caches to who has no home
    if isinstance(sys.stdout, TextIOWrapper):  # a path may have letters that the terminal has not
        sys.stdout.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    try:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", gettempdir())  # or torchvision's import leaves a folder there
        with command.make_context("ctscan", arguments or sys.argv[1:] or ["--help"]) as context:
            status = command.invoke(context)
        if sys.stdout:  # a service may have none
            sys.stdout.flush()
    except typer.Exit as done:  # after --help
        return done.exit_code
    except typer.TyperException as error:
        return say(error.format_message().replace("Value error, ", ""))  # pydantic's
    except CtscanError as error:
        return say(error)
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.startswith("ctscan"):
            raise
        extra = {"torch": "", "ray": "ray", "s3fs": "ray"}.get(name, "train")
        return say(f"{PACKAGES.get(name, name)} is not installed: {remedy(extra)}.")
    except BrokenPipeError:  # as in `ctscan predict ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes as it ends
        return READER_GONE
    except OSError as error:
        return say(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}.")
    except KeyboardInterrupt as stop:
        say(": ".join(["interrupted", *map(str, stop.args)]) + ".")
        return INTERRUPTED
    return int(status or 0)
