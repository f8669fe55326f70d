"""What a training step costs, all told, against the bare step: `python -m benchmarks.training`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from benchmarks.timing import example, parser, print_ratio
from ctscan.classes import CLASS_KEYS
from ctscan.io.images import read_slice
from ctscan.training.recipe import CTSCAN, override
from ctscan.training.team import Team
from ctscan.training.trainer import Trainer

STEPS = 4  # a round, on one batch each


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratio on copies of one slice; the pixels do not matter to the clock."""
    given = parser(__doc__, 5)
    given.add_argument("--size", type=int, default=CTSCAN.size, help="side of a square, px (default: %(default)s)")
    flags = given.parse_args(arguments)
    recipe = override(CTSCAN, ["epochs=1000", f"size={flags.size}"])  # more epochs than the benchmark takes
    n = recipe.batch * STEPS
    squares = np.repeat(recipe.preprocess(read_slice(example()).pixels)[0][None], n, axis=0)
    weights = resnet18(weights=None).state_dict()
    trainer = Trainer(recipe, squares, np.arange(n) % len(CLASS_KEYS), weights, Team(torch.device("cpu")))
    batches = [(squares.to(memory_format=torch.channels_last), labels) for squares, labels, _ in trainer.batches()]

    def bare() -> None:
        for squares, labels in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=trainer.bf16):
                loss = cross_entropy(
                    trainer.net(squares).logits.float(), labels, label_smoothing=CTSCAN.label_smoothing
                )
            trainer.optimiser.zero_grad()
            loss.backward()
            trainer.optimiser.step()

    epochs = trainer.epochs("benchmark")
    print_ratio("training step, all told / bare step", lambda: next(epochs), bare, flags.rounds)


if __name__ == "__main__":
    main()
