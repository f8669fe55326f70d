"""Flags that several commands take, as the command line names and explains them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def file_option(help_: str) -> Any:
    """A flag that takes a file."""
    return typer.Option(metavar="FILE", help=help_)


def folder_option(help_: str) -> Any:
    """A flag that takes a folder."""
    return typer.Option(metavar="DIR", help=help_)


Device = Literal["auto", "cpu", "cuda"]
RecipeName = Literal["ctscan", "plain", "seed"]
ControlName = Literal["shuffled_labels", "border_only", "lungs_black", "tone_only"]
Data = Annotated[Path, folder_option("with train/, valid/ and test/, a folder a class in each")]
Pictures = Annotated[Path, folder_option("with ct_chest/, ct_other/ and notct/")]
Root = Annotated[Path, folder_option("a checkout of ctscan")]
Runs = Annotated[Path, folder_option("logs and folds, from which runs resume")]
Checkpoint = Annotated[Path | None, file_option("a checkpoint  [default: the one ctscan brings]")]
Ledger = Annotated[Path | None, file_option("keeps the results  [default: metrics.json beside the checkpoint]")]
Init = Annotated[Path | None, file_option("starting weights as safetensors, instead of torchvision's download")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="change a field of the recipe")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="correlation that joins slices to a visual group")]
Draws = Annotated[int, typer.Option(min=100, help="of visual groups, for the intervals")]
