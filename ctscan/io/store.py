"""Files in an object store: s3://BUCKET/NAME -> what lies below it, and its bytes, by s3fs of the fsspec family.

Who asks and where is told as to every program that speaks with such a store: by AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and
the like, or by its files. Nothing is asked before a path begins with s3://.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ctscan.files import SYSTEM_NAMES

SCHEME = "s3://"


def is_stored(path: str | os.PathLike[str]) -> bool:
    """Whether a path, as it was given, lies in an object store."""
    return isinstance(path, str) and path.startswith(SCHEME)


def list_stored(path: str, recursive: bool) -> list[str]:
    """What lies below a path, sorted; the path itself where nothing does. Raises OSError, also for a missing bucket."""
    with _refusing() as store:
        bucket, _, name = path.removeprefix(SCHEME).partition("/")
        store.ls(bucket)  # says so where there is none
        if name and not store.isdir(path):
            return [path]
        found = store.find(path, maxdepth=None if recursive else 1)
        return sorted(SCHEME + key for key in found if not SYSTEM_NAMES & set(key.lower().split("/")))


def read_stored(path: str, most: int) -> bytes:
    """The first bytes of a file. Raises OSError."""
    with _refusing() as store, store.open(path, "rb", cache_type="none") as file:
        data: bytes = file.read(most)
        return data


@contextmanager
def _refusing() -> Iterator[Any]:
    """The store, whose errors become those of a file system, with few words."""
    from botocore.exceptions import BotoCoreError, ClientError
    from s3fs import S3FileSystem

    try:
        yield S3FileSystem(use_listings_cache=False)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "No such file or bucket") from None
    except PermissionError:
        raise PermissionError(errno.EACCES, "Access is refused") from None
    except (OSError, BotoCoreError, ClientError):
        raise OSError(errno.EIO, "The object store does not answer") from None
