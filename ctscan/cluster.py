"""The engine on other machines: Ray Data hands batches of files to workers, each with a core, a model and a decoder.

    files --batches--> worker: read, answer --> rows, in the order of the files
                       worker: ...

A worker that is lost is replaced, and what it had not yet given is asked of another: no row is missing and none comes
twice. A worker opens the files itself, so a path must mean the same everywhere, as on a shared disk or in an object
store, and every machine needs this version of ctscan. Nothing is reported to Ray's makers, and there is no dashboard.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ctscan.batch import Engine, Made, Place, make_rows
from ctscan.cores import count_cores
from ctscan.errors import CtscanError, ModelError
from ctscan.inference.classifier import load
from ctscan.io.medical import Window
from ctscan.io.sandbox import Decoder

# Ray looks at these before it is imported, and hands them to all that it starts.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
ANSWER_TIME = 5.0  # s
STORE = 256 << 20  # bytes of memory for rows under way on this machine, where no cluster is given


@dataclass(frozen=True)
class Job:
    """What every worker is told: which model, how a file is read, and whether overlays are drawn."""

    model_id: str
    checkpoint: Path | None = None
    slice: int | None = None
    window: Window | None = None
    overlays: bool = False


class Worker:
    """One process of a cluster. Raises ModelError where it has another model than the one that was asked for."""

    def __init__(self, job: Job) -> None:
        self._read = partial(Decoder(children=1).read, slice=job.slice, window=job.window)
        self._classifier, self._overlays = load(job.checkpoint, cores=1), job.overlays
        if self._classifier.card.model_id != job.model_id:
            raise ModelError(f"A worker has the model {self._classifier.card.model_id}, and not {job.model_id}.")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Names of files, as the system has them -> rows as JSON, with pictures."""
        made = make_rows(self._classifier, self._read, self._overlays, [os.fsdecode(name) for name in batch["file"]])
        return {"row": [json.dumps(row) for row, _ in made], "overlay": [picture for _, picture in made]}


def on_cluster(job: Job, *, batch: int = 32, workers: int | None = None, address: str | None = None) -> Engine:
    """The engine on a cluster; each run of it connects and leaves.

    Args:
        job: What workers are told.
        batch: How many files a worker answers for at once.
        workers: How many there are at most; by default as many as the cluster has cores.
        address: Of a cluster that runs, as `ray start` says it; without one a cluster is started on this machine.
    """

    def rows(files: Sequence[Place]) -> Iterator[Made]:
        if not files:
            return
        ray = connect(address, workers)
        most = min(workers or int(ray.cluster_resources()["CPU"]), -(-len(files) // batch))
        names = [{"file": os.fsencode(file if isinstance(file, str) else file.absolute())} for file in files]
        try:
            batches = ray.data.from_items(names, override_num_blocks=-(-len(names) // batch))
            made = batches.map_batches(
                Worker,
                fn_constructor_args=(job,),
                batch_size=None,  # a block is a batch
                num_cpus=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
            )
            for given in made.iter_rows():
                yield json.loads(given["row"]), given["overlay"]
        except ray.exceptions.RayError as error:
            raise CtscanError(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from None
        finally:
            ray.shutdown()

    return rows


def connect(address: str | None, workers: int | None) -> Any:
    """Ray, connected. Raises CtscanError where no cluster answers, and ModuleNotFoundError where Ray is missing."""
    if address:  # Ray itself would try for many minutes
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), ANSWER_TIME).close()
        except (OSError, ValueError, OverflowError):
            raise CtscanError(f"No Ray cluster answers at {address}.") from None
    os.environ.update(QUIET)
    import ray

    here: dict[str, Any] = {} if address else {"num_cpus": workers or count_cores(), "object_store_memory": STORE}
    try:
        ray.init(
            address, include_dashboard=False if here else None, log_to_driver=False, logging_level=logging.ERROR, **here
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CtscanError(f"Ray cannot be used: {str(error).splitlines()[0]}") from None
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray
