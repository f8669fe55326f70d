"""Files that are written whole or not at all, and never in the place of what is no file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ctscan.errors import DataError

# What systems leave in folders, in lower case.
SYSTEM_NAMES = {"thumbs.db", "desktop.ini", ".ds_store", "@eadir", "__macosx", "lost+found"}


def prepare(path: Path) -> Path:
    """Refuse before the work what `write` would refuse after it, and make the folder of the file.

    Args:
        path: As given; a link is followed, also one to a file that is still to be.

    Returns:
        Where the file will lie.

    Raises:
        DataError: A folder, a device or the like lies there, or nothing can be written there.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(path, error.strerror) from None
    if target.is_dir():
        raise refusal(path, "it is a folder")
    if os.path.lexists(target) and not target.is_file():
        raise refusal(path, "what lies there is no file")  # but a device, a pipe or a ring of links
    if not os.access(target.parent, os.W_OK):
        raise refusal(path, "its folder may not be written to")
    return target


def make_folder(path: Path, flag: str) -> None:
    """Make the folder that `flag` asks for. Raises DataError, which names it, where nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be made ({error.strerror}); try another {flag}.") from None
    if not os.access(path, os.W_OK):
        raise DataError(f"{path} may not be written to; try another {flag}.")


def write(path: Path, content: bytes | str | Iterable[bytes]) -> None:
    """Write a file; what lies there stays until all of the new one is on the disk, and stays where that fails.

    Args:
        path: As for `prepare`.
        content: All of it, or part by part; text becomes UTF-8.

    Raises:
        DataError: As for `prepare`, or the disk is full; there is no half of a file then.
    """
    target = prepare(path)
    partial = target.with_name(f".{secrets.token_hex(4)}.partial")  # a name of its own: a given one may be too long
    try:
        with partial.open("xb") as file:
            content = content.encode() if isinstance(content, str) else content
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise refusal(path, error.strerror) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def refusal(path: Path, reason: str | None) -> DataError:
    """Why a file is not written, for the person at the keyboard."""
    return DataError(f"{path} cannot be written ({reason}).")
