"""Several processes that train one network, each on a device of its own and with its own share of every batch.

    the first  --recipe, slices, the order of each epoch-->  the others
    all        --mean gradient over the whole batch------->  the same step in each

The first is the command that was typed. It alone reads, scores, writes and shows how far it is. The others are its
children, and on another node that node's command and its children: they hold nothing that could be lost, hear no Ctrl-C
and end with whoever started them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from ctscan.errors import DataError

T = TypeVar("T")
Child = subprocess.Popen[bytes]
Work = Callable[["Team"], object]
PROGRAM = "import sys; sys.path[:] = {path}; from ctscan.training.team import follow; follow{place}"
GONE = "another process of this training cannot be reached"


@dataclass(frozen=True)
class Nodes:
    """Where a training runs: a command starts the processes of its own node, one for each device."""

    devices: int = 1  # of each node
    this: int = 0
    count: int = 1
    meet: str = ""  # HOST:PORT at node 0, where there are several
    threads: int | None = None  # of the processor, of each node; None as many as torch takes by itself

    @classmethod
    def read(cls, devices: int, node: str | None, threads: int | None) -> Nodes:
        """Of flags: `node` is THIS/COUNT@HOST:PORT, or None for one node. Raises DataError."""
        if node is None:
            return cls(devices, threads=threads)
        parts = re.fullmatch(r"(\d+)/(\d+)@(.+:\d+)", node)
        if parts is None or int(parts[1]) >= int(parts[2]):
            raise DataError(f"--node {node}: give K/N@HOST:PORT, as in 0/2@10.0.0.1:29500 and 1/2@10.0.0.1:29500.")
        return cls(devices, int(parts[1]), int(parts[2]), parts[3], threads)


ONE = Nodes()


@dataclass(frozen=True)
class Team:
    """One process among those that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def agree(self, value: T | None = None) -> T:
        """The first's value, in all."""
        box = [value]
        if self.size > 1:
            distributed.broadcast_object_list(box)
        return cast(T, box[0])

    def mean(self, value: Tensor) -> Tensor:
        """Over all, in all."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value / self.size

    def join(self, net: nn.Module) -> nn.Module:
        """The network, but its gradients become the mean over all, and batch norms remember what the first's saw."""
        return DistributedDataParallel(net) if self.size > 1 else net


@contextmanager
def gather(nodes: Nodes, device: torch.device, work: Work) -> Iterator[Team]:
    """Start the other processes of this node, which do `work` until the block ends; gives the place of this one.

    Raises:
        DataError: There are fewer devices, or the nodes do not meet.
        KeyboardInterrupt: Another process is gone.
    """
    if device.type == "cuda" and nodes.devices > torch.cuda.device_count():
        raise DataError(f"--devices {nodes.devices}: torch finds {torch.cuda.device_count()} on this machine.")
    size, first, before = nodes.devices * nodes.count, nodes.devices * nodes.this, torch.get_num_threads()
    threads = max(1, (nodes.threads or before) // nodes.devices)
    children: list[Child] = []
    try:
        if size == 1:
            torch.set_num_threads(threads)
            yield Team(device)
            return
        with TemporaryDirectory() as folder:
            at = nodes.meet or f"{folder}/meet"
            # a child may come up when this process is gone: then another is its parent than the one it is told
            parents = [os.getppid(), *[os.getpid()] * (nodes.devices - 1)]
            places = [(at, first + n, size, device.type, n, threads, parent) for n, parent in enumerate(parents)]
            for place in places[1:]:  # in sessions of their own, which the terminal's Ctrl-C does not reach
                program = PROGRAM.format(path=sys.path, place=place)
                children.append(subprocess.Popen([sys.executable, "-c", program], start_new_session=True))
            team = take(*places[0], children)
            team.agree(work)
            yield team
    except RuntimeError as error:  # gloo has no class for it
        if "gloo" in str(error) or isinstance(error, distributed.DistError):
            raise KeyboardInterrupt(GONE) from None
        raise
    finally:
        for child in children:
            child.kill()
            child.wait()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        torch.set_num_threads(before)


def take(
    at: str, rank: int, size: int, device: str, local: int, threads: int, parent: int, children: Sequence[Child] = ()
) -> Team:
    """Meet the others, at HOST:PORT or, on one node, at a file, unless the parent is gone. Raises as `gather`."""
    torch.set_num_threads(threads)
    host, _, port = at.rpartition(":")
    store: Store
    if port.isdigit():
        store = TCPStore(host, int(port), size, is_master=rank == 0, wait_for_workers=False)
    else:
        store = FileStore(at, size)
    store.set(f"{rank}", "is here")
    while not store.check([f"{other}" for other in range(size)]):  # what waits in C hears no Ctrl-C
        if os.getppid() != parent or any(child.poll() is not None for child in children):
            raise KeyboardInterrupt(GONE)
        time.sleep(0.05)
    distributed.init_process_group(store=store, rank=rank, world_size=size)
    return Team(torch.device(device, local) if device == "cuda" else torch.device(device), rank, size)


def follow(*place: Any) -> None:
    """What a child does: what the first says."""
    team = take(*place)
    team.agree()(team)
