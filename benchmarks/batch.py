"""A table of many files beside the bare network: `python -m benchmarks.batch [--data DIR]`.

- the table with the gate / bare forward passes over the same slices, fp32, in the same batches
- the table without a gate / the same
- the table with an overlay of each file / the same
- one after the other, as a plain script would / the same: read, predict, next file

Files are read in processes of their own while the network computes, so with two cores they share what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.timing import parser, print_ratio
from ctscan.batch import predict_files
from ctscan.bundle import bundled
from ctscan.inference.classifier import Classifier, load
from ctscan.io.images import read_slice
from ctscan.io.sandbox import Decoder

BATCH = 32


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios."""
    flags = parser(__doc__, 3)
    flags.add_argument("--data", type=Path, help="folder of slices, also in folders below; else copies of bundled ones")
    flags.add_argument("--files", type=int, default=32, help="how many, again from the first on (default: %(default)s)")
    given = flags.parse_args(arguments)
    folder = given.data or bundled("examples")
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg"))[: given.files]
    files = (pictures * (1 + given.files // len(pictures)))[: given.files]
    gated = load()
    ungated = Classifier(replace(gated.card, gate=None), gated.runtime)
    squares = np.stack([gated.card.preprocess.square(read_slice(file.read_bytes()).pixels) for file in files])
    with TemporaryDirectory() as made, closing(Decoder()) as decoder:
        decoder.wait_until_ready()

        def table(classifier: Classifier, maps: Path | None = None) -> None:
            out = Path(made) / "rows.jsonl"
            predict_files(classifier, files, out, reader=decoder.read, batch=BATCH, maps=maps, force=True)

        def forward() -> None:
            for start in range(0, len(squares), BATCH):
                gated.runtime.run(squares[start : start + BATCH])

        def one_by_one() -> None:
            for file in files:
                gated(file)

        print_ratio("table with the gate / bare forward", lambda: table(gated), forward, given.rounds)
        print_ratio("table without a gate / bare forward", lambda: table(ungated), forward, given.rounds)
        print_ratio("table with maps / bare forward", lambda: table(gated, Path(made)), forward, given.rounds)
        print_ratio("one by one / bare forward", one_by_one, forward, given.rounds)


if __name__ == "__main__":
    main()
