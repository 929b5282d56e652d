"""What torchrun tells a process of its place among the others, checked, and what losing them looks like."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from smoothgen.errors import ConfigError, DistributedError

STARTED_BY = "torchrun sets it; start with: torchrun --nproc-per-node N -m smoothgen ..."

LEAVING = 30.0
"""Seconds that the main process, when it is done, waits for the others to notice."""

_meetings = itertools.count()


@dataclass(frozen=True)
class Launch:
    """world: how many processes there are. rank: which of them this is. local_rank: which on its machine."""

    world: int = 1
    rank: int = 0
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Launch:
        """The place that the environment gives this process; alone where it says nothing. Raises ConfigError."""
        world = _number("WORLD_SIZE", 1)
        rank, local_rank = _number("RANK", None if world > 1 else 0), _number("LOCAL_RANK", 0)
        if world < 1 or not 0 <= rank < world:
            raise ConfigError(f"RANK is {rank} and WORLD_SIZE {world}; ranks run from 0 up. {STARTED_BY}")
        if world > 1:
            for name in ("MASTER_ADDR", "MASTER_PORT"):
                if not os.environ.get(name):
                    raise ConfigError(
                        f"WORLD_SIZE is {world}, but {name}, where the processes meet, is not set; {STARTED_BY}, "
                        "or unset WORLD_SIZE to run alone"
                    )
        return cls(world, rank, local_rank)


def _number(name: str, otherwise: int | None) -> int:
    text = os.environ.get(name, "")
    if not text and otherwise is not None:
        return otherwise
    try:
        return int(text)
    except ValueError:
        found = f'"{text}"' if text else "not set"
        raise ConfigError(f"environment variable {name} is {found}, expected a whole number; {STARTED_BY}") from None


@contextlib.contextmanager
def in_contact(launch: Launch, timeout: int) -> Iterator[None]:
    """Raises DistributedError, one line, in place of what a backend says of a process that is gone or silent."""
    try:
        yield
    except RuntimeError as error:
        if not _lost(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DistributedError(
            f"process {launch.rank} of {launch.world} lost contact with another, which died or did not answer within "
            f"device.timeout = {timeout} s; the first error above is the cause. Continue with --resume ({reason})"
        ) from error


def meet(launch: Launch, timeout: timedelta) -> Any:
    """A key-value store of this meeting of the processes, the n-th of their lives, with none of the keys of earlier
    ones; in the store of the process group that there is, or where torchrun says.

    Every process must meet as often as the others. Raises ConfigError where the group is not of these processes.
    """
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    prefix = f"smoothgen/{next(_meetings)}"
    if dist.is_initialized():
        theirs = dist.get_world_size(), dist.get_rank()
        if theirs != (launch.world, launch.rank):
            raise ConfigError(
                f"the process group that was there has {theirs[0]} processes and this is its number {theirs[1]}, but "
                f"WORLD_SIZE is {launch.world} and RANK {launch.rank}; initialise it so, or leave it to smoothgen"
            )
        return PrefixStore(prefix, _get_default_store())
    place = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    return PrefixStore(prefix, _store(launch, *place, timeout))


@functools.lru_cache(maxsize=1)
def _store(launch: Launch, address: str, port: str, timeout: timedelta) -> Any:
    """The store at the address, kept: it ends with the process that holds it, and not while another comes in."""
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", launch.rank, launch.world, timeout=timeout))[0]


def leave_together(store: Any, launch: Launch) -> None:
    """Waits, however long, until the main process is done, then the main one for the others.

    Not a barrier: a process may wait hours here, while the main one measures and draws, and no timeout must strike.
    """
    if launch.rank:
        wait_for(store, "smoothgen/finished")
        store.add("smoothgen/left", 1)
        return
    store.set("smoothgen/finished", "")
    deadline = time.monotonic() + LEAVING
    while store.add("smoothgen/left", 0) < launch.world - 1 and time.monotonic() < deadline:
        time.sleep(0.01)


def wait_for(store: Any, key: str) -> None:
    """Returns once the key is set. Raises DistNetworkError where the store is gone."""
    while not store.check([key]):
        time.sleep(0.05)


def _lost(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
