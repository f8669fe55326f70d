"""Many files -> a table of answers, a row a file, in order; what is done is kept, and a run that was cut goes on.

    paths --> files --read ahead in threads--> answers --> rows in FILE.part, on the disk batch by batch --> FILE

A row has the keys of the API's JSON, and the path as it was given. FILE.part holds rows as lines of JSON behind a line
that says what run they are of; it becomes the table when the last row is there. Files are sorted, so the same command
makes the same list, and goes on behind the last whole line.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ctscan.errors import CtscanError, DataError
from ctscan.files import SYSTEM_NAMES, prepare, write
from ctscan.inference.answer import Answer
from ctscan.inference.classifier import Classifier, Reader

KINDS = (".csv", ".jsonl", ".parquet")
LISTED = " "  # between the values of a list in a cell; codes and class keys hold none


def list_files(paths: Sequence[Path], recursive: bool) -> list[Path]:
    """The files among some paths: each that is given, and those of a folder, sorted; what systems leave is left out.

    Raises:
        DataError: A path is not there, a folder cannot be read, or no file is left.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)  # that it is not there is said in its row
            continue
        try:
            found = path.rglob("*") if recursive else path.iterdir()
            files += sorted(
                entry
                for entry in found
                if entry.is_file() and not SYSTEM_NAMES & {part.lower() for part in entry.relative_to(path).parts}
            )
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    if not files:
        raise DataError("There is no file to answer for" + ("." if recursive else "; --recursive looks further down."))
    return files


def predict_files(
    classifier: Classifier,
    files: Sequence[Path],
    out: Path,
    *,
    reader: Reader,
    batch: int = 32,
    threads: int = 2,
    maps: Path | None = None,
    paths: bool = True,
    force: bool = False,
) -> dict[str, int]:
    """Answer for many files and write the table; with a progress bar.

    Args:
        classifier: What answers.
        files: In the order of the rows.
        out: The table: its ending says whether CSV, lines of JSON or Parquet.
        reader: How bytes are read; from any thread.
        batch: How many are answered at once.
        threads: How many read ahead.
        maps: Gets the overlay of the likeliest class of each scored file, named by the number of its row.
        paths: Whether rows name the files: names may tell of a patient.
        force: Replace `out` where it exists.

    Returns:
        How many rows have each verdict.

    Raises:
        DataError: `out` cannot be written, exists, or what is kept is of another run; a package is missing.
        KeyboardInterrupt: Says how to go on.
    """
    if out.suffix.lower() not in KINDS:
        raise DataError(f"--out {out}: the name must end in {', '.join(KINDS)}.")
    target = prepare(out)
    if target.exists() and not force:
        raise DataError(f"{out} is there; --force replaces it.")
    if out.suffix.lower() == ".parquet":
        import_pyarrow()
    if maps:
        maps.mkdir(parents=True, exist_ok=True)
    digest = sha256("\0".join(map(str, files)).encode(errors="surrogateescape")).hexdigest()
    run = {"model_id": classifier.card.model_id, "files": len(files), "digest": digest, "paths": paths}
    journal = target.with_name(f"{target.name}.part")
    done = resume(journal, run)
    with tqdm(total=len(files), initial=done, unit="file", smoothing=0.05) as bar, journal.open("ab") as file:
        answers = classifier.many(files[done:], batch, reader, threads)
        try:
            while chunk := list(islice(answers, batch)):
                for number, answer in enumerate(chunk, done):
                    row = make_row(answer, files[number] if paths else None)
                    if maps and answer.prediction and answer.top_class:
                        answer.overlay(answer.top_class).save(maps / f"{number:06d}.png")
                    file.write(json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                done += len(chunk)
                bar.update(len(chunk))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{done} of {len(files)} rows are kept; the same command goes on") from None
    counts = write_table(journal, target)
    journal.unlink()
    return counts


def make_row(answer: Answer, path: Path | None) -> dict[str, Any]:
    """The keys of the API, behind the path where it is to be named."""
    return ({"path": os.fsdecode(path)} if path else {}) | answer.to_dict()


def resume(journal: Path, run: dict[str, Any]) -> int:
    """How many rows of this run are kept; begins the file where there is none, and cuts off a line that is not whole.

    Raises:
        DataError: It is of another run.
    """
    head = json.dumps(run).encode() + b"\n"
    kept = journal.read_bytes() if journal.exists() else b""
    kept = kept[: kept.rfind(b"\n") + 1]
    if kept and not kept.startswith(head):
        raise DataError(f"{journal} is of another model or of other files: delete it to begin anew.")
    kept = kept or head
    with journal.open("wb" if len(kept) == len(head) else "r+b") as file:
        file.truncate(len(kept))
        if len(kept) == len(head):
            file.write(head)
    return kept.count(b"\n") - 1


def read_rows(journal: Path) -> Iterator[dict[str, Any]]:
    """The kept rows, in order."""
    with journal.open(encoding="utf-8") as file:
        yield from map(json.loads, islice(file, 1, None))


def write_table(journal: Path, target: Path) -> Counter[str]:
    """The kept rows as a table, whole or not at all; how many have each verdict."""
    counts = Counter(row["verdict"] for row in read_rows(journal))
    match target.suffix.lower():
        case ".jsonl":
            write(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read_rows(journal)))
        case ".csv":
            text = io.StringIO()
            rows = map(flatten, read_rows(journal))
            # a file without scores has fewer columns than the others
            columns = max((list(flatten(row)) for row in read_rows(journal)), key=len)
            table = csv.DictWriter(text, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
            write(target, text.getvalue())
        case _:
            arrow, parquet = import_pyarrow()
            buffer = io.BytesIO()
            parquet.write_table(arrow.Table.from_pylist(list(read_rows(journal))), buffer)
            write(target, buffer.getvalue())
    return counts


def flatten(row: dict[str, Any]) -> dict[str, Any]:
    """One cell a value: a class's probability in a column of its own, lists as words, sentences in one cell."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if name == "probabilities":
            cells |= {f"{name}.{key}": share for key, share in (value or {}).items()}
        elif isinstance(value, list):
            cells[name] = LISTED.join(value)
        else:
            cells[name] = value
    return cells


def import_pyarrow() -> tuple[Any, Any]:
    """Raises CtscanError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise CtscanError("pyarrow is not installed: `pip install -r requirements-train.txt` brings it.") from None
    return pyarrow, pyarrow.parquet
