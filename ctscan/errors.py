"""What ctscan raises for what a user can mend. Everything else is a bug and says so with a traceback."""

from __future__ import annotations


class CtscanError(Exception):
    """The text is one sentence, for the person at the keyboard: what is wrong and, where it helps, what to do."""


class UnreadableSlice(CtscanError):  # noqa: N818 - it names what the file is
    """A file that gives no slice."""


class ModelError(CtscanError):
    """A checkpoint, an exported file or a device that cannot be used."""


class DataError(CtscanError):
    """A folder, a manifest, a run or a file of results that cannot be used."""
