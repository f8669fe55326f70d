"""Many files -> a table of answers, a row a file, in order; what is done is kept, and a run that was cut goes on.

    paths --> files --engine--> answers --> rows in FILE.part, on the disk batch by batch --> FILE

An engine makes rows of files: `here`, on the cores of this machine, or `cluster.engine`, on those of others. A row has
the keys of the API's JSON, and the path as it was given. FILE.part holds rows as lines of JSON behind a line that says
what run they are of; it becomes the table when the last row is there. Files are sorted, so the same command makes the
same list, and goes on behind the last whole line.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.files import SYSTEM_NAMES, make_folder, prepare, refusal, write
from ctscan.imaging.render import encode_png
from ctscan.inference.classifier import Classifier, Reader, batches, work_ahead
from ctscan.io.store import list_stored

Row: TypeAlias = dict[str, Any]
Made: TypeAlias = tuple[Row, bytes]  # a row, and the overlay as PNG: nothing where none is wanted, or is to be had
Place: TypeAlias = Path | str  # on this machine, or in an object store
Engine: TypeAlias = Callable[[Sequence[Place]], Iterator[Made]]  # of each file, in order

KINDS = (".csv", ".jsonl", ".parquet")
LISTED = " "  # between the values of a list in a cell; codes and class keys hold none


def list_files(paths: Sequence[Place], recursive: bool, written: Sequence[Path] = ()) -> list[Place]:
    """The files among some paths: each that is given, and those of a folder, sorted; what systems leave is left out.

    So are the files and folders that are `written` in this run, or were in an earlier one.

    Raises:
        DataError: A path is not there, a folder cannot be read, or no file is left.
    """
    files: list[Place] = []
    own = [name.resolve() for path in written for name in (path, journal_of(path))]
    for path in paths:
        try:
            if isinstance(path, str):
                files += list_stored(path, recursive)
            elif not path.is_dir():
                files.append(path)  # that it is not there is said in its row
            else:
                found = path.rglob("*") if recursive else path.iterdir()
                files += sorted(
                    entry
                    for entry in found
                    if (entry.is_file() or not entry.exists())  # a link to nothing has a row
                    and not SYSTEM_NAMES & {part.lower() for part in entry.relative_to(path).parts}
                    and not any(Path(os.path.realpath(entry)).is_relative_to(name) for name in own)
                )
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    if not files:
        raise DataError("There is no file to answer for" + ("." if recursive else "; --recursive looks further down."))
    return files


def here(
    classifier: Classifier, reader: Reader, *, batch: int = 32, threads: int = 2, overlays: bool = False
) -> Engine:
    """The engine on this machine: every thread reads a batch and answers for it, while the others do the same.

    Args:
        classifier: What answers; where it uses one core at a time, threads do not wait for each other.
        reader: How bytes are read; from any thread.
        batch: How many files a thread answers for at once.
        threads: As many as there are cores, or 0 for this one.
        overlays: Whether they are drawn.
    """
    work = partial(make_rows, classifier, reader, overlays)
    return lambda files: chain.from_iterable(work_ahead(work, batches(files, batch), threads))


def make_rows(classifier: Classifier, reader: Reader, overlays: bool, files: Sequence[Place]) -> list[Made]:
    """The rows of a batch; overlays are of the likeliest class of each scored file."""
    made = []
    for answer in classifier.many(files, max(1, len(files)), reader):
        drawn = overlays and answer.top_class
        picture = encode_png(np.asarray(answer.overlay(drawn))) if drawn else b""
        made.append((answer.to_dict(), picture))
    return made


def predict_files(
    engine: Engine,
    files: Sequence[Place],
    out: Path,
    *,
    run: Mapping[str, Any],
    batch: int = 32,
    maps: Path | None = None,
    paths: bool = True,
    force: bool = False,
) -> dict[str, int]:
    """Answer for many files and write the table; with a progress bar.

    Args:
        engine: What makes rows of files.
        files: In the order of the rows.
        out: The table: its ending says whether CSV, lines of JSON or Parquet.
        run: What answers, and all else that decides about a row: a cut run goes on with the same alone.
        batch: How many rows are put on the disk at once.
        maps: Gets the overlays that the engine draws, named by the number of their row.
        paths: Whether rows name the files: names may tell of a patient.
        force: Replace `out` where it exists.

    Returns:
        How many rows have each verdict.

    Raises:
        DataError: `out` cannot be written, exists, or what is kept is of another run.
        ModuleNotFoundError: `out` is Parquet, and pyarrow is not installed.
        KeyboardInterrupt: Says how to go on.
    """
    if out.suffix.lower() not in KINDS:
        raise DataError(f"--out {out}: the name must end in {', '.join(KINDS)}.")
    target = prepare(out)
    if target.exists() and not force:
        raise DataError(f"{out} is there; --force replaces it.")
    if out.suffix.lower() == ".parquet":
        import pyarrow  # noqa: F401  # or it would be missed after the work
    if maps:
        make_folder(maps, "--maps")
    digest = sha256("\0".join(map(str, files)).encode(errors="surrogateescape")).hexdigest()
    journal = journal_of(target)
    about = {"files": len(files), "digest": digest, "paths": paths, "maps": maps is not None}
    done = resume(journal, {**run, **about})
    try:
        with tqdm(total=len(files), initial=done, unit="file", smoothing=0.05) as bar, journal.open("ab") as file:
            for rows in batches(engine(files[done:]), batch):
                for number, (row, picture) in enumerate(rows, done):
                    if maps and picture:
                        write(maps / f"{number:06d}.png", picture)
                    # a name need not be text, as one from an old disk: what is none of it becomes signs that are
                    name = os.fsencode(files[number]).decode(errors="backslashreplace")
                    named = {"path": name} if paths else {}
                    file.write(json.dumps(named | row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                done += len(rows)
                bar.update(len(rows))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{done} of {len(files)} rows are kept; the same command goes on") from None
    except BrokenPipeError:  # of the bar: nobody looks
        raise
    except OSError as error:
        raise refusal(journal, error.strerror) from None
    counts = write_table(journal, target)
    journal.unlink()
    return counts


def journal_of(out: Path) -> Path:
    """Where the rows of a table are kept until it is whole."""
    return out.with_name(f"{out.name}.part")


def resume(journal: Path, run: dict[str, Any]) -> int:
    """How many rows of this run are kept; begins the file where there is none, and cuts off a line that is not whole.

    Raises:
        DataError: It is of another run.
    """
    head, whole, lines = json.dumps(run).encode() + b"\n", 0, 0
    journal.touch()
    with journal.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            if not lines and line != head:
                raise DataError(f"{journal} is of another model, other files or other flags: delete it to begin anew.")
            whole, lines = whole + len(line), lines + 1
        file.truncate(whole)
        if not lines:
            file.seek(0)
            file.write(head)
    return max(0, lines - 1)


def read_rows(journal: Path) -> Iterator[dict[str, Any]]:
    """The kept rows, in order."""
    with journal.open(encoding="utf-8") as file:
        yield from map(json.loads, islice(file, 1, None))


def write_table(journal: Path, target: Path) -> Counter[str]:
    """The kept rows as a table, whole or not at all; how many have each verdict."""
    counts = Counter(row["verdict"] for row in read_rows(journal))
    match target.suffix.lower():
        case ".jsonl":
            with journal.open("rb") as lines:
                write(target, islice(lines, 1, None))
        case ".csv":
            write(target, csv_lines(journal))
        case _:
            from pyarrow import Table, parquet

            buffer = io.BytesIO()
            parquet.write_table(Table.from_pylist(list(read_rows(journal))), buffer)
            write(target, buffer.getvalue())
    return counts


def csv_lines(journal: Path) -> Iterator[bytes]:
    """The kept rows under the names of their columns, which all have."""
    columns = list(flatten(next(read_rows(journal))))
    for cells in chain([dict(zip(columns, columns, strict=True))], map(flatten, read_rows(journal))):
        text = io.StringIO()
        csv.DictWriter(text, columns, lineterminator="\n").writerow(cells)
        yield text.getvalue().encode()


def flatten(row: dict[str, Any]) -> dict[str, Any]:
    """One cell a value: a class's probability in a column of its own, lists as words, sentences in one cell."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if name == "probabilities":
            cells |= {f"{name}.{key}": share for key, share in (value or dict.fromkeys(CLASS_KEYS)).items()}
        elif isinstance(value, list):
            cells[name] = LISTED.join(value)
        else:
            cells[name] = value
    return cells
