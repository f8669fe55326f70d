"""Train a classifier: `python train.py --data DIR`, which is `ctscan train`. All flags: `--help`."""

from __future__ import annotations

import sys

from ctscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
