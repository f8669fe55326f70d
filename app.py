"""The web demo: `python app.py`, then open the address that it prints."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from ctscan.checkpoint import CheckpointError
from ctscan.classifier import Classifier
from ctscan.ledger import LedgerError, read_ledger
from ctscan.page.examples import ExamplesError, read_examples
from ctscan.page.page import Page
from ctscan.page.server import ServerError, prepare, serve
from ctscan.results import results_of
from ctscan.runtime import DeviceError

HERE = Path(__file__).parent


def parse_flags() -> argparse.Namespace:
    """Command line; host and port follow Gradio's variables, by which a Space is told its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoints" / "resnet18.safetensors")
    parser.add_argument("--examples", type=Path, default=HERE / "examples", help="folder of slices to show")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    return parser.parse_args()


def main() -> int:
    """Exit status: 0, or 2 with one sentence for what a user can mend."""
    flags = parse_flags()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped Space cleans up as Ctrl-C does
    folder = None
    try:
        folder = prepare()
        examples = read_examples(flags.examples)
        classifier = Classifier.load(flags.checkpoint, flags.device)
        results = results_of(read_ledger(flags.checkpoint.parent / "metrics.json"), classifier.card)
        serve(Page(classifier, examples, results).build(), flags.host, flags.port)
    except (CheckpointError, DeviceError, ExamplesError, LedgerError, ServerError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    finally:
        if folder:
            folder.delete()
    return 0


if __name__ == "__main__":
    sys.exit(main())
