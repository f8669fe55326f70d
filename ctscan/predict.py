"""`ctscan predict`: files -> a line of JSON each, the slices of a scan, or a table of many files."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctscan import flags
from ctscan.cores import count_cores
from ctscan.errors import CtscanError
from ctscan.flags import place, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctscan.batch import Place
    from ctscan.inference.classifier import Reader


def predict(
    files: flags.Files,
    slice_: flags.SliceIndex = None,
    window: flags.Window = None,
    series: flags.Series = False,
    report: flags.Report = None,
    out: flags.Table = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="with --out: folders, and those in them")] = False,
    maps: flags.Maps = None,
    no_paths: Annotated[bool, typer.Option("--no-paths", help="with --out: rows do not name the files")] = False,
    batch: Annotated[int, typer.Option(min=1, help="with --out: files that are answered at once")] = 32,
    threads: flags.Threads = None,
    engine: flags.EngineName = "here",
    address: flags.Address = None,
    force: Annotated[bool, typer.Option("--force", help="replace the file of --out")] = False,
    checkpoint: flags.Checkpoint = None,
    device: flags.Device = "cpu",
) -> int:
    """Answer for each file: one line of JSON a file, in order, as the page's API gives it; with --series, a slice.

    With --out the files, and those of folders, become the rows of a table.
    """
    from ctscan.batch import here, list_files, predict_files
    from ctscan.cluster import Job, on_cluster
    from ctscan.inference.classifier import load
    from ctscan.io.medical import parse
    from ctscan.io.sandbox import Decoder
    from ctscan.io.series import sources
    from ctscan.io.store import is_stored

    if series and slice_ is not None:
        raise CtscanError("Give either --slice or --series.")
    if out and series:
        raise CtscanError("Give either --out or --series.")
    if report and not (series and len(files) == 1):
        raise CtscanError("--report goes with --series and one FILE.")
    if not out and (recursive or maps or no_paths or engine != "here"):
        raise CtscanError("--recursive, --maps, --no-paths and --engine go with --out.")
    if engine == "here" and address:
        raise CtscanError("--address goes with --engine ray.")
    if engine == "ray" and device != "cpu":
        raise CtscanError("--engine ray computes on processors, and takes no --device.")
    places = [file if is_stored(file) else Path(file) for file in files]  # of an address no sign may be lost
    if series and not all(isinstance(given, Path) for given in places):
        raise CtscanError("--series reads files of this machine.")
    try:
        asked = parse(window)
    except ValueError as error:
        raise CtscanError(f"--window: {error}.") from None
    scan = None
    if report:
        from ctscan.scan import ScanReport  # only here: templates are slow to import

        place(report, "--report")
        scan = ScanReport()
    listed = list_files(places, recursive, written=[out, *([maps] if maps else [])]) if out else []
    cores, status = threads or count_cores(), 0
    with closing(Decoder(children=cores if out and engine == "here" else 1)) as decoder:  # up while the model is loaded
        classifier = load(checkpoint, device, cores=1 if out else None)
        read, model_id = partial(decoder.read, slice=slice_, window=asked), classifier.card.model_id
        if out:
            job = Job(model_id, checkpoint and checkpoint.absolute(), slice_, asked, maps is not None)
            if engine == "ray":
                work = on_cluster(job, batch=batch, workers=threads, address=address)
            else:
                work = here(classifier, read, batch=batch, threads=cores, overlays=job.overlays)
            run = {"model_id": model_id, "slice": slice_, "window": asked}
            counts = predict_files(work, listed, out, run=run, batch=batch, maps=maps, paths=not no_paths, force=force)
            print(f"{out}: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
            return 0
        for file in places:
            rows: Iterable[tuple[Place, Reader, float | None]] = [(file, read, None)]
            if series and isinstance(file, Path):
                rows = sources(file, decoder.read, decoder.survey, asked)
            for number, (path, reader, position) in enumerate(rows):
                answer = classifier(path, reader)
                for notice in answer.notices:
                    if notice.code == "cannot_open":  # a file's name may tell of a patient: on stderr, in no answer
                        status = say(f"{path}: {notice.values['reason']}.")
                if scan:
                    scan.add(number, position, answer)
                where = {"slice": number, "position": position} if series else {}
                print(json.dumps(where | answer.to_dict()), flush=True)
    if scan and report:
        scan.write(report)
    return status
