"""Processes that torchrun starts for one training: the first one leads, the others do their share of it.

Without torchrun there is one process, which is the first, and nothing here does anything.
"""

import gc
import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from snnrl.checkpoint import Archive, read_archive, write_archive
from snnrl.errors import UserError

PATIENCE = timedelta(days=1)
"""How long the others wait while the first process tests and writes; torchrun ends them if it dies."""
HEAD_START = 1.0
"""Seconds in which the first process may tell of a mistake that all have met."""
SPEAKER = "speaker"


def count() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is; the first is 0."""
    return distributed.get_rank() if count() > 1 else 0


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun started, until the block is left.

    Where one fails all end, and one of them says why: the first if it knows, else the one that failed.
    """
    launched = distributed.is_available() and distributed.is_torchelastic_launched()
    if not launched or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    store, this, number = next(rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=this, world_size=number, timeout=PATIENCE)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if this and not stopped:
            time.sleep(HEAD_START)
        if (this and stopped) or store.compare_set(SPEAKER, "", str(this)) != str(this).encode():
            os._exit(130 if stopped else 2)  # at once: threads of the group may not outlive the interpreter
        if isinstance(error, RuntimeError) and "peer" in str(error):
            raise UserError("another process was ended; the same command goes on from the last checkpoint") from error
        raise
    gc.collect()  # replicas hold the group, whose threads may not outlive the interpreter
    distributed.destroy_process_group()


def take_device(name: str) -> None:
    """Let every process have a GPU of its own, if the recipe's device is one.

    Raises:
        UserError: there are too few, or the recipe names one for all.
    """
    if count() == 1 or name == "cpu" or not torch.cuda.is_available():
        return
    here, there = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise UserError(f"{here} processes cannot share {name}: give --device cuda, and each takes a GPU of its own")
    if here > there:
        raise UserError(f"{here} processes need a GPU each, here are {there}: give torchrun --nproc-per-node {there}")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def replicated(network: nn.Module) -> nn.Module:
    """Return ``network``, or among several processes a wrapper: backward then averages gradients over all of them.

    All begin with the first one's parameters, and every forward with its buffers. Which parameters a forward uses must
    not change from one to the next.
    """
    if count() == 1:
        return network
    return DistributedDataParallel(network, static_graph=True)


def mean(*values: float) -> list[float]:
    """Return the means of ``values`` over the processes."""
    if count() == 1:
        return [*values]
    total = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(total)
    return [float(value) for value in total / count()]


def is_set_anywhere(event: threading.Event) -> bool:
    """Return whether ``event`` is set in any process; it is then set in all."""
    if count() > 1:
        found = torch.tensor(int(event.is_set()))
        distributed.all_reduce(found)
        if found:
            event.set()
    return event.is_set()


def tell(archive: Archive | None) -> None:
    """Send an archive to the other processes, each of which must :func:`hear` it; None: there is nothing left to do."""
    if count() > 1:
        buffer = io.BytesIO()
        if archive is not None:
            write_archive(buffer, *archive)
        data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8) if buffer.tell() else torch.empty(0)
        distributed.broadcast(torch.tensor(len(data)), 0)
        if len(data):
            distributed.broadcast(data, 0)


def hear() -> Archive | None:
    """Return what the first process tells."""
    length = torch.tensor(0)
    distributed.broadcast(length, 0)
    if not length:
        return None
    data = torch.empty(int(length), dtype=torch.uint8)
    distributed.broadcast(data, 0)
    return read_archive(io.BytesIO(data.numpy().tobytes()))
