"""Flags that several commands take, or that take many words, and what is said of one that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ctscan.errors import CtscanError
from ctscan.files import prepare

RUNS = Path("runs")  # the default
MENDABLE = 2  # exit status


def file_option(help_: str) -> Any:
    """A flag that takes a file."""
    return typer.Option(metavar="FILE", help=help_)


def folder_option(help_: str) -> Any:
    """A flag that takes a folder."""
    return typer.Option(metavar="DIR", help=help_)


Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="where torch computes")]
Named = Literal["ctscan", "plain", "seed"]
RecipeName = Annotated[Named, typer.Option(help="how a network is trained")]
ControlName = Literal["shuffled_labels", "border_only", "lungs_black", "tone_only"]
Data = Annotated[Path, folder_option("with train/, valid/ and test/, a folder a class in each")]
Pictures = Annotated[Path, folder_option("with ct_chest/, ct_other/ and notct/")]
Root = Annotated[Path, folder_option("a checkout of ctscan")]
Runs = Annotated[Path, folder_option("logs and folds, from which runs resume")]
Checkpoint = Annotated[Path | None, file_option("a checkpoint  [default: the one ctscan brings]")]
Ledger = Annotated[Path | None, file_option("keeps the results  [default: metrics.json beside the checkpoint]")]
Init = Annotated[Path | None, file_option("starting weights as safetensors, instead of torchvision's download")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="change a field of the recipe")]
Devices = Annotated[int, typer.Option(min=1, help="processes that train together here, each on a device of its own")]
Node = Annotated[
    str | None, typer.Option(metavar="K/N@HOST:PORT", help="this is node K of N, which meet at node 0, counted from 0")
]
TorchThreads = Annotated[int | None, typer.Option(min=1, help="of the processor  [default: one a core it may use]")]
Manifest = Annotated[Path | None, file_option("write hashes, groups and folds: no picture, no file name")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="correlation that joins slices to a visual group")]
Draws = Annotated[int, typer.Option(min=100, help="of visual groups, for the intervals")]
SliceIndex = Annotated[
    int | None, typer.Option("--slice", min=0, help="of a file with several, from 0  [default: the middle one]")
]
Window = Annotated[
    str | None, typer.Option(metavar="NAME", help="lung, mediastinal, bone, training, file, or CENTRE/WIDTH in HU")
]
Series = Annotated[bool, typer.Option("--series", help="all slices of a folder, zip or volume, from the feet up")]
Report = Annotated[Path | None, file_option("with --series: also the curve along the body, as a page (.html)")]
Table = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="a table instead: .csv, .jsonl or .parquet; goes on where it was cut"),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="with --out: batches at once, a core each  [default: the cores there are]")
]
EngineName = Annotated[
    Literal["here", "ray"], typer.Option(help="with --out: compute on this machine, or on a cluster of Ray")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="with --engine ray: a cluster that runs  [default: starts one here]"),
]
Outside = Annotated[
    Path | None, folder_option("instead: class folders from elsewhere, our classes or tumour and normal")
]
CrossValidate = Annotated[
    bool, typer.Option("--cross-validate", help="the recipe, on folds that share no visual group")
]
Against = Annotated[
    Named | None, typer.Option(help="the same, and the difference to another recipe, whose folds are there")
]
Control = Annotated[ControlName | None, typer.Option(help="a training that must fail, on the same folds")]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="temperature and sets from folds that are there, for the checkpoint")
]
Volumes = Annotated[
    Path | None,
    folder_option("the same, and scans: NAME_image.nrrd with NAME_label.nrrd, chest*.nii.gz without a mass"),
]
Patients = Annotated[Path | None, folder_option("instead: patients with known histology, listed in manifest.csv")]
Maps = Annotated[Path | None, folder_option("with --out: gets the overlay of each file's likeliest class")]
Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        help="pictures of axial slices, DICOM, NIfTI, NRRD or zip, here or at s3://BUCKET/; with --out, folders too",
    ),
]


def place(path: Path, flag: str) -> Path:
    """The path as it is. Raises CtscanError, which names the flag, where no file can be written there."""
    try:
        prepare(path)
    except CtscanError as error:
        raise CtscanError(f"{str(error).rstrip('.')}; try another {flag}.") from None
    return path


def say(line: object) -> int:
    """Print a line for the person at the keyboard, on standard error; the exit status of what they can mend."""
    print("ctscan:", " ".join(str(line).split()), file=sys.stderr)
    return MENDABLE
