"""Several processes that train one model, started by torchrun (data parallel).

Every process makes the same batches and holds the same weights, and reads its own rows of each batch: every Nth. What
they find is added up once an update, which is then the one that a single process makes, but for the order of the sums;
random numbers, too, are those of the whole batch (on accelerators, every process draws its own). The first process
writes, measures and decides for all. When one ends, all do, and one of them says why.

Knows nothing about losses, run folders or configs. Only the first process of a run needs to know what is in its files.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.data.batches import Batch
from pellucid.errors import ConfigError, PellucidError, TrainingError
from pellucid.model.randomness import rows_of_batch

__all__ = ["EndedElsewhere", "ProcessLostError", "Processes", "own_rows", "together"]

LONGEST_WAIT = timedelta(days=7)
"""The others wait for the first process while it prepares text or validates; one that ends is noticed at once."""

MEETING = timedelta(minutes=10)
"""Time for all processes to start."""

USER_ERROR, INTERRUPTED = 2, 130

Value = TypeVar("Value")


class ProcessLostError(TrainingError):
    """Another process of this run has ended, and has not said why."""


class EndedElsewhere(Exception):  # noqa: N818 - no error of this process, which has nothing to say
    """The run has ended, and another process says why.

    Attributes:
        status: what this process should end with.
    """

    def __init__(self, status: int) -> None:
        super().__init__("the run has ended; another process says why")
        self.status = status


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them; made without arguments, it is alone, and all of this does nothing.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank, local_size: the same among those of its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes, measures and speaks for all."""
        return self.rank == 0

    def share(self, value: Value) -> Value:
        """What the first process has; the others give anything (None) and wait for it.

        Raises:
            ProcessLostError: another process has ended; so do all methods here.
        """
        if self.size == 1:
            return value
        values = [value]
        with self._connected():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def shares(self, batches: Iterable[Batch], update: int, device: torch.device) -> Iterator[Batch]:
        """The own part of each batch of an update, to be computed before the next is asked for.

        Random numbers begin where the first process's are.

        Args:
            batches: whole ones, the same in all processes.
            update: its number.
            device: what is computed on.
        """
        if self.size == 1:
            yield from batches
            return
        self._align_random(update, device)
        for batch in batches:
            total = len(batch.indices)
            own = own_rows(total, self.rank, self.size)
            with rows_of_batch(total, own):
                yield _part(batch, own, counts=self.rank < total)

    def add_up(self, parameters: Iterable[Tensor], loss: float, stop: bool) -> tuple[float, bool]:
        """Add up gradients, in place, and losses; whether any process is to stop.

        Args:
            parameters: the model's; those without a gradient have none in all processes.
            loss: of the own rows.
            stop: whether this process has been told to stop.
        """
        if self.size == 1:
            return loss, stop
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
        numbers = torch.tensor([loss, float(stop)], dtype=torch.float64)
        with self._connected():
            dist.all_reduce(flat)
            dist.all_reduce(numbers)
        parts = flat.split([parameter.numel() for parameter in trained])
        for parameter, part in zip(trained, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return numbers[0].item(), bool(numbers[1])

    @torch.no_grad()
    def align(self, tensors: Sequence[Tensor]) -> bool:
        """Let all processes hold what the first one holds; whether a bit of it was different anywhere.

        Args:
            tensors: of 32 bits; as many and as large in all processes.
        """
        if self.size == 1 or not tensors:
            return False
        sums = torch.stack([tensor.detach().contiguous().view(torch.int32).sum().cpu() for tensor in tensors])
        extremes = torch.cat((sums, -sums))
        with self._connected():
            dist.all_reduce(extremes, dist.ReduceOp.MAX)
            if bool((extremes[: len(sums)] == -extremes[len(sums) :]).all()):
                return False
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)
        return True

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """While this lasts, the others of this machine wait and leave their CPU threads to this process."""
        if self.local_size == 1:
            yield
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(threads * self.local_size)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def device_name(self, name: str) -> str:
        """The device that ``training.device`` means for this process.

        Raises:
            ConfigError: it names one device for all, or there are fewer than processes.
        """
        if self.size == 1:
            return name
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            return name
        if name != "cuda":
            raise ConfigError(
                f"training.device = {name}: {self.size} processes cannot share one device: use cuda (one for each "
                "process) or cpu, or start a single process"
            )
        if torch.cuda.device_count() < self.local_size:
            raise ConfigError(
                f"training.device = cuda: {self.local_size} processes on this machine, which has "
                f"{torch.cuda.device_count()} CUDA devices: start as many processes as devices, or use cpu"
            )
        torch.cuda.set_device(self.local_rank)  # where nccl is to work
        return f"cuda:{self.local_rank}"

    def _align_random(self, update: int, device: torch.device) -> None:
        state = torch.get_rng_state()
        with self._connected():
            dist.broadcast(state, src=0)
        torch.set_rng_state(state)
        if device.type == "cuda":
            place = np.random.SeedSequence(entropy=torch.initial_seed(), spawn_key=(3, update, self.rank))
            torch.cuda.manual_seed(int(place.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # all that gloo and nccl raise
            raise ProcessLostError(
                f"another of the {self.size} processes of this run has ended without a word "
                "(killed, perhaps, or out of memory)"
            ) from error


def own_rows(total: int, rank: int, size: int) -> slice:
    """The rows of a batch that a process reads; where there are fewer than processes, some read the first as well.

    Rows are sorted by length: with every Nth all processes have about as much to do.
    """
    return slice(rank, None, size) if rank < total else slice(0, 1)


def _part(batch: Batch, rows: slice, counts: bool) -> Batch:
    target_out = batch.target_out[rows].contiguous()
    return replace(
        batch,
        source=batch.source[rows].contiguous(),
        target_in=batch.target_in[rows].contiguous(),
        # With no token to say, a row adds nothing to loss and gradients, and random numbers are drawn all the same.
        target_out=target_out if counts else torch.full_like(target_out, batch.target_pad),
        indices=batch.indices[rows],
    )


@contextmanager
def together() -> Iterator[Processes]:
    """Join the other processes that torchrun has started; where there are none, be alone.

    An error inside ends all processes. It is raised as it is in one of them, which is to say it; the others have
    :class:`EndedElsewhere`.

    Raises:
        ConfigError: the environment is not that of torchrun.
        TrainingError: the processes do not find each other.
        ProcessLostError: another process has ended, and has not said why.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        yield Processes()
        return
    store = _meet()
    local = [int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))]
    processes = Processes(dist.get_rank(), dist.get_world_size(), *local)
    store = _apart(store, processes.share(os.urandom(8).hex()))  # from processes before these
    with _said_once(processes, store), _terminable():
        yield processes
    dist.destroy_process_group()


def _meet() -> Any:
    if not dist.is_available():
        raise ConfigError("this PyTorch is built without torch.distributed: start a single process, without torchrun")
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(rendezvous("env://", timeout=MEETING))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps its store when it starts the processes of a machine again, and with it their old addresses.
            store = _apart(store, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        # Control messages travel by gloo; with CUDA, gradients by nccl.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST_WAIT)
    except ValueError as error:
        raise ConfigError(f"WORLD_SIZE is set, as torchrun does, but {error}: start the run by torchrun") from None
    except RuntimeError as error:
        raise TrainingError(f"the processes of this run do not find each other ({error})") from None
    return store


def _apart(store: Any, name: str) -> Any:
    return dist.PrefixStore(f"pellucid/{name}", store)  # type: ignore[attr-defined]


@contextmanager
def _said_once(processes: Processes, store: Any) -> Iterator[None]:
    """Let what ends the run be raised in the process that comes first with it, before its connections are cut."""
    try:
        yield
    except KeyboardInterrupt:
        if not processes.is_first:
            raise EndedElsewhere(INTERRUPTED) from None
        _claim(store)
        raise
    except (PellucidError, OSError, MemoryError):
        if not _claim(store):
            raise EndedElsewhere(USER_ERROR) from None
        raise
    except BaseException:
        _claim(store)  # the traceback says it
        raise


def _claim(store: Any) -> bool:
    """Whether this process is the first to end with something to say."""
    try:
        return bool(store.add("pellucid/ended", 1) == 1)
    except RuntimeError:  # the store has gone with its process: better said twice than not at all
        return True


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, by which torchrun ends the others when one has failed, be as SIGINT.

    Behind an error it is not listened to: it must not come between the error and its sentence.
    """

    def interrupt(number: int, frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, previous)
