"""The folder of one training run: configuration, log as CSV, curves as PNG, scores. Never committed."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from ctscan.training.recipe import TrainConfig
from ctscan.training.trainer import Epoch


class RunFolder:
    """`runs/<recipe>-<date>-<time>/`, written to as the run goes, so that an interrupted one is not lost."""

    def __init__(self, config: TrainConfig) -> None:
        base = config.runs / f"{config.recipe}-{datetime.now():%Y%m%d-%H%M%S}"
        self.path = next(p for n in range(1000) if not (p := base.with_name(base.name + f"-{n}" * (n > 0))).exists())
        self.path.mkdir(parents=True)
        self._history: list[Epoch] = []
        self.write_json("config.json", {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()})

    def write_json(self, name: str, content: Any) -> None:
        """One JSON file in the folder."""
        (self.path / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def log(self, epoch: Epoch) -> None:
        """Add a line to log.csv and draw the curves again."""
        self._history.append(epoch)
        new = len(self._history) == 1
        with (self.path / "log.csv").open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(f.name for f in fields(Epoch))
            writer.writerow(asdict(epoch).values())
        self._draw_curves()

    def _draw_curves(self) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        x = [e.epoch for e in self._history]
        left.plot(x, [e.train_loss for e in self._history], label="train, augmented")
        left.plot(x, [e.valid_loss for e in self._history], label="valid")
        left.set(xlabel="epoch", ylabel="cross-entropy")
        left.legend()
        right.plot(x, [e.valid_accuracy for e in self._history], color="C1", label="valid")
        right.set(xlabel="epoch", ylabel="accuracy")
        right.legend()
        figure.savefig(self.path / "curves.png", dpi=110)
