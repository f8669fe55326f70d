"""What the studies of one data folder share, read once: slices, groups, folds, and where their runs are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ctscan.errors import DataError
from ctscan.evaluation.cross_validation import name_run
from ctscan.results.ledger import read_ledger
from ctscan.results.summary import HEADLINE_THRESHOLD
from ctscan.training.audit import known_or_new
from ctscan.training.data import Dataset, Manifest, read_dataset
from ctscan.training.recipe import Control, Recipe
from ctscan.training.trainer import Device


@dataclass(frozen=True, eq=False)
class Setting:
    """What the studies of one data folder share.

    Attributes:
        data: Every file of the three splits.
        manifest: Groups and folds of its slices.
        threshold: Correlation from which two slices belong to one visual group.
        runs: Folder of plots, and of one folder a cross-validation, from which it resumes.
        draws: Of groups, for the intervals.
        device: Where to train.
        init: Starting weights as safetensors, instead of torchvision's download.
    """

    data: Dataset
    manifest: Manifest
    threshold: float = HEADLINE_THRESHOLD
    runs: Path = Path("runs")
    draws: int = 1000
    device: Device = "auto"
    init: Path | None = None

    @property
    def pool(self) -> Dataset:
        """Each distinct slice once, with its group and fold."""
        return self.manifest.pool(self.data, self.threshold)

    def folder(self, recipe: Recipe, control: Control | None = None, pool: Dataset | None = None) -> Path:
        """Where a cross-validation is kept."""
        return self.runs / name_run(recipe, pool or self.pool, control)


def open_setting(
    folder: Path,
    manifest: Path,
    *,
    threshold: float = HEADLINE_THRESHOLD,
    runs: Path = Path("runs"),
    draws: int = 1000,
    device: Device = "auto",
    init: Path | None = None,
) -> Setting:
    """Read a data folder, once, and its manifest; where that does not know all of the data, audit it.

    Args:
        folder: With train/, valid/ and test/, each with one folder a class.
        manifest: The file of `ctscan audit --manifest`.
        threshold, runs, draws, device, init: As in `Setting`; 100 draws are the least.

    Raises:
        DataError: The folder or the manifest cannot be used, or there are too few draws.
    """
    if draws < 100:
        raise DataError(f"{draws} draws are too few for an interval; 100 are the least.")
    data = read_dataset(folder)
    return Setting(data, known_or_new(manifest, data), threshold, runs, draws, device, init)


def check_ledger(path: Path) -> None:
    """Refuse before the work, not after it.

    Raises:
        DataError: The ledger is broken or cannot be written.
    """
    read_ledger(path)
    if path.parent.exists() and not os.access(path.parent, os.W_OK):
        raise DataError(f"{path.parent} cannot be written to.")
