"""The web demo: `python app.py`, then open the address that it prints."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from ctscan.errors import CtscanError
from ctscan.inference.classifier import RUNTIMES, Classifier
from ctscan.io.sandbox import Decoder
from ctscan.page.examples import read_examples
from ctscan.page.page import Page
from ctscan.page.server import check_address, prepare, serve
from ctscan.results.ledger import read_ledger
from ctscan.results.summary import facts_of

HERE = Path(__file__).parent


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit status 2, as for everything that a user can mend."""
        self.exit(2, f"app.py: {message}\n")


def parse_flags() -> argparse.Namespace:
    """Command line; host and port follow Gradio's variables, by which a Space is told its own."""
    parser = _Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    home = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    parser.add_argument("--checkpoint", type=Path, help="default: the runtime's file in checkpoints/")
    parser.add_argument("--runtime", default="torch", choices=RUNTIMES, help="what computes; onnx needs no torch")
    parser.add_argument("--examples", type=Path, default=HERE / "examples", help="folder of slices to show")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", home))
    parser.add_argument("--port", type=int, default=os.environ.get("GRADIO_SERVER_PORT", "7860"))
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    return parser.parse_args()


def main() -> int:
    """Exit status: 0, or 2 with one sentence for what a user can mend."""
    flags = parse_flags()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until it serves, a stopped Space ends as with Ctrl-C
    try:
        check_address(flags.host, flags.port)
        folder = prepare()
        examples = read_examples(flags.examples)
        checkpoint = flags.checkpoint or HERE / "checkpoints" / RUNTIMES[flags.runtime]
        with closing(Decoder()) as decoder:  # its processes come up while the model is loaded
            classifier = Classifier.load(checkpoint, flags.device, flags.runtime)
            facts = facts_of(read_ledger(checkpoint.parent / "metrics.json"), classifier.card)
            page = Page(classifier, examples, facts, decoder.read)
            decoder.wait_until_ready()
            serve(page.build(), flags.host, flags.port, folder, classifier.card.model_id)
    except CtscanError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
