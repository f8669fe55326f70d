"""A table of many files beside the bare network: `python -m benchmarks.batch [--data DIR] [--onnx FILE]...`.

- the table with the gate / bare forward passes over the same slices, in the same batches
- the table without a gate / the same
- the table with an overlay of each file / the same
- the table from an exported file / the same

The bare network is the checkpoint's in torch, fp32, as it is stored, on all cores, over squares that lie ready. Beside
each ratio of the clock stands that of the processor's time, which holds on a busy machine too; there the bare network
has one core, as one that has several also counts the time in which they wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.timing import measure, parser
from ctscan.batch import here, predict_files
from ctscan.bundle import MODEL, bundled
from ctscan.cores import count_cores
from ctscan.inference.classifier import Classifier, load
from ctscan.io.images import read_slice
from ctscan.io.sandbox import Decoder
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.runtime import build_net

BATCH = 32
BARE, ALONE = "bare forward", "bare forward on one core"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios."""
    flags = parser(__doc__, 3)
    flags.add_argument("--data", type=Path, help="folder of slices, also in folders below; else copies of bundled ones")
    flags.add_argument("--files", type=int, default=32, help="how many, again from the first on (default: %(default)s)")
    flags.add_argument("--onnx", type=Path, action="append", default=[], help="an exported file; may be given again")
    given = flags.parse_args(arguments)
    folder, cores = given.data or bundled("examples"), count_cores()
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg"))
    pictures = pictures[:: max(1, len(pictures) // given.files)]  # of all classes
    files = (pictures * (1 + given.files // len(pictures)))[: given.files]
    gated = load(cores=1)
    ungated = Classifier(replace(gated.card, gate=None), gated.runtime)
    net = build_net(read_checkpoint(bundled(MODEL))).eval().requires_grad_(False)
    read = (gated.card.preprocess.square(read_slice(file.read_bytes()).pixels) for file in files)
    squares = torch.from_numpy(np.stack(list(read))).split(BATCH)
    with TemporaryDirectory() as made, closing(Decoder(children=cores)) as decoder:
        decoder.wait_until_ready()

        def table(classifier: Classifier, maps: Path | None = None) -> None:
            engine = here(classifier, decoder.read, batch=BATCH, threads=cores, overlays=maps is not None)
            out = Path(made) / "rows.jsonl"
            predict_files(engine, files, out, run={"model_id": classifier.card.model_id}, maps=maps, force=True)

        def forward(cores: int) -> None:
            torch.set_num_threads(cores)
            with torch.inference_mode():
                for batch in squares:
                    net(batch)
            torch.set_num_threads(1)

        works: dict[str, Callable[[], None]] = {
            BARE: lambda: forward(cores),
            ALONE: lambda: forward(1),
            "table with the gate": lambda: table(gated),
            "table without a gate": lambda: table(ungated),
            "table with maps": lambda: table(gated, Path(made)),
        }
        for path in given.onnx:
            works[f"table from {path.name}"] = partial(table, load(path, cores=1))
        took = [{name: measure(work) for name, work in works.items()} for _ in range(given.rounds + 1)][1:]
    print(f"{len(files)} slices, {cores} cores, {given.rounds} rounds")
    for name in list(works)[2:]:
        clock = median(round_[name][0] / round_[BARE][0] for round_ in took)
        core = median(round_[name][1] / round_[ALONE][1] for round_ in took)
        ours, bare = (1000 * median(round_[which][1] for round_ in took) / len(files) for which in (name, ALONE))
        print(f"{name} / {BARE}: {clock:.3f}   (processor's time {core:.3f}: {ours:.1f} ms / {bare:.1f} ms a slice)")


if __name__ == "__main__":
    main()
