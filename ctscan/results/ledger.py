"""metrics.json on disk: read and validated in one place, written atomically, by one process at a time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from ctscan.errors import DataError
from ctscan.files import prepare, write
from ctscan.results.records import Entry, Ledger


def read_ledger(path: Path) -> Ledger:
    """The ledger at `path`; an empty one where there is no file.

    Raises:
        DataError: The file cannot be read or does not hold what ctscan writes; names the first place of trouble.
    """
    try:
        return Ledger.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Ledger()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path} is no ledger of results, at {place}: {first['msg']}; move it away.") from None


def update(path: Path, *entries: Entry) -> None:
    """Put entries into their sections, each in the place of the one with the same key.

    Raises:
        DataError: The file that is there is no ledger, or it cannot be written.
    """
    from filelock import FileLock  # comes with torch and with Gradio; whoever only reads needs neither

    place = prepare(path)
    lock = place.with_name(f".{place.name}.lock")  # one, however the file is called
    with FileLock(lock):
        try:
            ledger = read_ledger(path)
            for entry in entries:
                ledger = ledger.put(entry)
            write(path, to_json(ledger))
        finally:
            with suppress(OSError):  # FileLock notes that the file which it waited for is gone, and makes another
                lock.unlink()


def to_json(ledger: Ledger) -> str:
    """The text of metrics.json: a figure or an entry of a list a line, sections without entries left out."""
    return ledger.model_dump_json(indent=1, by_alias=True, exclude_none=True) + "\n"
