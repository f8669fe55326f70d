"""What ctscan raises for what a user can mend. Everything else is a bug and says so with a traceback."""

from __future__ import annotations

from ctscan.notices import Notice


class CtscanError(Exception):
    """The text is one sentence, for the person at the keyboard: what is wrong and, where it helps, what to do."""


class UnreadableSlice(CtscanError):  # noqa: N818 - it names what the file is
    """A file that gives no slice.

    Attributes:
        notice: Why, as a code for programs; the text of the error is its English sentence.
    """

    def __init__(self, notice: Notice) -> None:
        super().__init__(notice)
        self.notice = notice


class ModelError(CtscanError):
    """A checkpoint, an exported file or a device that cannot be used."""


class DataError(CtscanError):
    """A folder, a manifest, a run or a file of results that cannot be used, and any file that cannot be written."""
