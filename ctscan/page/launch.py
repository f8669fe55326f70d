"""The command line of the page: flags and environment -> a served page, and the exit status."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from ctscan.bundle import MODEL, bundled
from ctscan.cores import limit_threads
from ctscan.errors import CtscanError
from ctscan.inference.classifier import load
from ctscan.io.sandbox import Decoder
from ctscan.page.examples import read_examples
from ctscan.results.ledger import read_ledger
from ctscan.results.scan import read_scan
from ctscan.results.summary import facts_of

# What Gradio is told, besides a folder; every other variable of its name is removed, or Gradio would obey it behind our
# back.
GRADIO = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",  # or the last 10,000 requests are listed, and counted at each
}
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}  # the app asks nobody, but httpx may stumble over them


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit status 2, as for everything that a user can mend."""
        self.exit(2, f"app.py: {message}\n")


def parse_flags(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
) -> argparse.Namespace:
    """Flags, and for host, port and root path the variables by which a Space and a proxy tell a Gradio app its own.

    Args:
        arguments: As typed, without the program; None takes the process's own.
        environment: An empty variable is one that is not set.
    """
    parser = _Parser(prog="app.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    everybody = "0.0.0.0" if environment.get("SPACE_ID") else "127.0.0.1"
    add = parser.add_argument
    add("--checkpoint", type=Path, default=bundled(MODEL), help="the model's file")
    add("--examples", type=Path, default=bundled("examples"), help="folder of slices to show")
    add("--host", default=environment.get("GRADIO_SERVER_NAME") or everybody, help="address to listen at")
    add("--port", type=int, default=environment.get("GRADIO_SERVER_PORT") or "7860", help="port to listen at")
    add("--root-path", default=environment.get("GRADIO_ROOT_PATH") or "", help="path of the page behind a proxy")
    add("--device", default="cpu", choices=("auto", "cpu", "cuda"), help="what computes")
    return parser.parse_args(arguments)


def public_address(root_path: str, environment: Mapping[str, str] = os.environ) -> str:
    """The page's address as others have it, with a slash at its end; empty where nobody has said so.

    A request does not say it soundly: behind a proxy its host may be any.

    >>> public_address("https://example.org/ctscan"), public_address("", {"SPACE_HOST": "a-b.hf.space"})
    ('https://example.org/ctscan/', 'https://a-b.hf.space/')
    """
    if re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./~%-]*)?", root_path):
        return f"{root_path.rstrip('/')}/"
    host = environment.get("SPACE_HOST", "")
    return f"https://{host}/" if re.fullmatch(r"[\w.-]+", host) else ""


def clean(environment: MutableMapping[str, str], folder: str) -> None:
    """Leave Gradio what it is to know, and torch its folder; they read variables when they are imported, and later.

    Args:
        environment: Of the process.
        folder: Where both may make their empty folders; nothing that is sent is written to it or anywhere else.
    """
    for name in list(environment):
        if name.startswith("GRADIO_") or name.lower() in PROXIES:
            del environment[name]
    environment.update(GRADIO, GRADIO_TEMP_DIR=folder, TORCHINDUCTOR_CACHE_DIR=folder)  # torch makes its one at import


@contextmanager
def private_folder() -> Iterator[str]:
    """A folder of this process alone, gone with it. Raises CtscanError where there can be none."""
    try:
        folder = TemporaryDirectory(prefix="ctscan-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CtscanError(f"No temporary folder can be made ({error.strerror}); set TMPDIR.") from None
    with folder as path:
        yield path


def main() -> int:
    """Serve the page until it is stopped.

    Returns:
        The exit status: 0, or 2 with one sentence for what a user can mend.
    """
    settings = parse_flags(environment=os.environ)
    logging.basicConfig(format="%(message)s")  # before a library brings a handler that frames every line
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until it serves, a stopped Space ends as with Ctrl-C
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under `nohup`
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        Path.cwd()
    except FileNotFoundError:  # it is gone, and Gradio asks for it as it is imported
        os.chdir("/")
    limit_threads()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for others would spin on the cores of these
    try:
        if os.environ.get("GRADIO_WATCH_DEMO_PATH") == sys.argv[0]:  # by Gradio's command, whose end we would outlive
            raise CtscanError("`gradio app.py` reloads nothing here; start it by `python app.py`.")
        with private_folder() as folder, closing(Decoder()) as decoder:  # whose processes come up meanwhile
            clean(os.environ, folder)
            sys.modules["matplotlib"] = None  # type: ignore[assignment]  # or Gradio's first answer fills its font cache
            from ctscan.page.server import listen, serve  # imports Gradio, so after the environment is clean
            from ctscan.page.views import Views

            with listen(settings.host, settings.port) as listener:
                examples = read_examples(settings.examples)
                classifier = load(settings.checkpoint, settings.device)
                facts = facts_of(read_ledger(settings.checkpoint.parent / "metrics.json"), classifier.card)
                scan, address = read_scan(settings.examples / "scan"), public_address(settings.root_path)
                space = os.environ.get("SPACE_ID", "")
                views = Views(classifier, examples, facts, decoder.read, scan, address, space)
                decoder.wait_until_ready()
                serve(views, listener, settings.host, settings.root_path)
    except CtscanError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0
