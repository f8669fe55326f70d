"""Train a classifier: `python train.py --data DIR`. All flags: `python train.py --help`.

DIR holds train/, valid/ and test/, each with one folder a class. The best epoch is chosen on valid alone, test is
read once at the end, and the reading is kept in metrics.json beside the checkpoint.

`--trials N` searches for a recipe instead: Optuna, two grouped folds of all slices, kept in runs/ and gone on with.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from datetime import date

import torch

from ctscan.errors import CtscanError, DataError
from ctscan.evaluation.search import Search
from ctscan.metrics import Score
from ctscan.model.checkpoint import write_checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import choose_device, store_tensors
from ctscan.results.entries import append, read_ledger
from ctscan.training.audit import known_or_new
from ctscan.training.data import SPLITS, Split, load_split
from ctscan.training.manifest import load_pool
from ctscan.training.recipe import TrainConfig, parse_flags
from ctscan.training.run_folder import RunFolder
from ctscan.training.trainer import build_card, describe, evaluate, fit, imagenet_weights, measure_map_scale, round_trip

MIN_FREE_BYTES = 64 << 20  # a checkpoint is 22 MB and is written beside the old one


def load(config: TrainConfig) -> dict[str, Split]:
    """The three splits; every file that had to be skipped is said."""
    splits = {name: load_split(config.data / name, config.preprocess.square) for name in SPLITS}
    for name, split in splits.items():
        print(f"{name}: {len(split)} slices" + (f", {len(split.skipped)} skipped" if split.skipped else ""))
        for line in split.skipped:
            print(f"  skipped {line}")
    return splits


def check_target(config: TrainConfig) -> None:
    """Refuse before the work, not after it."""
    read_ledger(config.ledger_path)
    if config.out.is_dir():
        raise DataError(f"{config.out} is a folder; --out names the file of the checkpoint.")
    if config.out.exists() and not config.force:
        raise DataError(f"{config.out} exists; give --force to replace it, or another --out.")
    for folder in (config.out.parent, config.ledger_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise DataError(f"{folder} cannot be written to.")
    if shutil.disk_usage(config.out.parent).free < MIN_FREE_BYTES:
        raise DataError(f"The disk of {config.out.parent} is full, less than {MIN_FREE_BYTES >> 20} MiB free.")


def train(config: TrainConfig) -> None:
    """Fit, score, write checkpoint, run folder and ledger.

    Raises KeyboardInterrupt with what there is of a run that was interrupted before its checkpoint.
    """
    check_target(config)
    choose_device(config.device)
    splits = load(config)
    folder = RunFolder(config)
    try:
        fitted = fit(config, splits["train"], splits["valid"], folder.log)
        net = round_trip(config, fitted.net)
        scores = score_all(config, net, splits)
        metrics = {name: value.to_dict() for name, value in scores.items()}
        scale = measure_map_scale(net, splits["train"], torch.device("cpu"))
        card = build_card(config, net, describe(splits), metrics, scale)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"no checkpoint was written, the run folder is {folder.path}") from None
    # Another training may have been quicker; neither replaces the other unasked.
    out = config.out if config.force or not config.out.exists() else folder.path / config.out.name
    card = write_checkpoint(out, card, store_tensors(net))
    entry = {"date": f"{date.today()}", "model_id": card.model_id, "best_epoch": fitted.best.epoch}
    entry |= {"settings": card.training, "data": card.data, "scores": card.metrics}
    folder.write_json("metrics.json", entry)
    if config.read_test:
        append(config.ledger_path, "readings", entry)
    print_scores(scores)
    print(f"{out}: {card.model_id}, best epoch {fitted.best.epoch}; run folder {folder.path}")


def score_all(config: TrainConfig, net: SliceNet, splits: dict[str, Split]) -> dict[str, Score]:
    """The scores by split; of test, where it is read, also those of the part that is in neither train nor valid."""
    scored = splits if config.read_test else {name: splits[name] for name in ("train", "valid")}
    if config.read_test:
        scored = scored | {"test_unseen": splits["test"].unseen_by(splits["train"], splits["valid"])}
    return {name: evaluate(net, split, torch.device("cpu")) for name, split in scored.items()}


def search(config: TrainConfig) -> None:
    """Try recipes on two grouped folds; what is done is reported, also after Ctrl-C."""
    read_ledger(config.ledger_path)
    device = choose_device(config.device)
    manifest = known_or_new(config.out.parent / "manifest.json", config.data, load(config))
    pool = load_pool(config.data, manifest, config.threshold, config.preprocess.square)
    found = Search(config, pool, imagenet_weights(config.init), device)
    try:
        found.run(config.trials)
    except KeyboardInterrupt:
        print("Interrupted: the trials that are done are kept; the same command goes on.", file=sys.stderr)
    said = {"date": f"{date.today()}", "threshold": config.threshold, "manifest": manifest.digest[:16]}
    said |= found.report()
    if said["trials"]:  # none where the first was interrupted: nothing to keep yet
        append(config.ledger_path, "searches", said)
    print((found.folder / "trials.md").read_text(encoding="utf-8"), f"Table and plots: {found.folder}", sep="\n")


def print_scores(scores: dict[str, Score]) -> None:
    """A table, one split a line."""
    for name, value in scores.items():
        low, high = value.interval95
        print(
            f"{name:>11}: {value.correct}/{value.n} = {value.accuracy:.2%} "
            f"(95 % interval {low:.1%} to {high:.1%}), cross-entropy {value.cross_entropy:.4f}"
        )


def main() -> int:
    """Exit status: 0, or 2 with one sentence for what a user can mend."""
    config = parse_flags(TrainConfig)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the best epoch so far is kept
    try:
        search(config) if config.trials else train(config)
    except CtscanError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"train.py: {error.filename or config.out}: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"train.py: {': '.join(['interrupted', *stop.args])}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
