"""The folder for uploads: of this process alone, and gone with it, even where it is killed."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
import uuid
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from ctscan.errors import CtscanError

STARTING = "starting"  # lock file that a process holds while it sets up its folder


class TemporaryFolder:
    """A folder of this process alone, mode 0700; what earlier processes left behind is deleted.

    A process holds a lock on its folder while it lives, so a folder whose lock can be had is a dead one's. Where the
    system has no such locks (Windows), folders are left to the system's own cleaning.
    """

    def __init__(self) -> None:
        try:
            base = open_base(Path(tempfile.gettempdir()))
            with base.joinpath(STARTING).open("ab") as starting:
                wait_for_lock(starting)  # between making a folder and locking it, it must not look like a dead one's
                delete_left_behind(base)
                self.path = base / uuid.uuid4().hex
                self.path.mkdir(mode=0o700)
                self._lock = open_locked(self.path.with_suffix(".lock"))
        except OSError as error:
            raise CtscanError(f"No temporary folder can be made ({error.strerror}); set TMPDIR.") from None

    def delete_abandoned(self, age: float) -> None:
        """Delete uploads that broke off and have not grown for `age` seconds, and folders empty for as long.

        Gradio deletes what arrived whole, but neither the beginnings of what did not nor the folders around files.
        """
        before = time.time() - age
        for path in self.path.iterdir():
            with suppress(OSError):  # it is not empty, or somebody else has just deleted it
                if path.stat().st_mtime > before:
                    continue
                if path.is_dir():
                    path.rmdir()
                elif path.name.startswith(tempfile.gettempprefix()):
                    path.unlink()

    def delete(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.with_suffix(".lock").unlink(missing_ok=True)


def open_base(parent: Path) -> Path:
    """The folder that holds one folder for each process of this user. Raises CtscanError where it is not theirs."""
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    base = parent / f"ctscan-{owner}"
    with suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != owner):
        raise CtscanError(f"{base} belongs to somebody else; remove it or set TMPDIR.")
    base.chmod(0o700)
    return base


def delete_left_behind(base: Path) -> None:
    """Delete the folders whose process is gone."""
    for lock in base.glob("*.lock"):
        held = open_locked(lock)
        if held is not None:
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            held.close()
            lock.unlink(missing_ok=True)


def wait_for_lock(file: IO[bytes]) -> None:
    """Lock an open file until it is closed; nothing where the system has no such locks."""
    if find_spec("fcntl") is not None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def open_locked(path: Path) -> IO[bytes] | None:
    """Open a lock file and take its lock; None where another process has it or there are no locks."""
    if find_spec("fcntl") is None:
        return None
    import fcntl

    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
