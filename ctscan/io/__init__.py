"""Files -> slices: a file's bytes here, a stranger's in a process of their own, scans as volumes."""

from ctscan.io.images import Slice, read_slice
from ctscan.io.sandbox import Decoder

__all__ = ["Decoder", "Slice", "read_slice"]
