"""What a training step costs, all told, against the bare step: `python -m benchmarks.training`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.models import resnet18
from tqdm.auto import tqdm

from benchmarks.timing import print_ratio
from ctscan.classes import CLASS_KEYS
from ctscan.imaging.phantom import draw_phantom
from ctscan.training.data import Split
from ctscan.training.mixup import mean_loss
from ctscan.training.recipe import TrainConfig
from ctscan.training.trainer import Trainer

STEPS = 4  # a round, on one batch each


def main() -> None:
    """Print the ratio on phantoms; the pixels do not matter to the clock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    config = TrainConfig(data=Path(), ema=0.98)
    n = config.batch * STEPS
    squares = np.repeat(config.preprocess(draw_phantom())[0][None], n, axis=0)
    split = Split(squares, np.arange(n) % len(CLASS_KEYS), ("",) * n, np.ones(n, bool))
    trainer = Trainer(config, split, resnet18(weights=None).state_dict(), torch.device("cpu"))
    trainer.schedule.step = lambda *_: None  # type: ignore[method-assign]  # the schedule ends, the benchmark goes on
    batches = [replace(b, squares=b.squares.to(memory_format=torch.channels_last)) for b in trainer.batches()]

    def bare() -> None:
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=trainer.bf16):
                loss = mean_loss(trainer.net(batch.squares), batch.targets, batch.weights, config.label_smoothing)
            trainer.optimiser.zero_grad()
            loss.backward()
            trainer.optimiser.step()

    with tqdm(disable=True) as progress:
        print_ratio("training step, all told / bare step", lambda: trainer.epoch(progress), bare, rounds)


if __name__ == "__main__":
    main()
