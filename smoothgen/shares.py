"""Work on many rows, split over processes: fixed chunks, each with a generator of its own, gathered in order.

What a chunk gives depends on its number alone, so the result has the same bits for any number of processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from smoothgen.device import DevicePolicy
from smoothgen.errors import DistributedError, SmoothgenError
from smoothgen.progress import piece

ROWS = 250
"""Rows of a chunk of samples, or of examples to denoise or complete."""

Tensors = dict[str, Tensor]
Work = Callable[[int, slice], Tensors]
"""(number of the chunk, its rows) -> tensors by name, with one row for each row of the chunk."""


def shared(work: Work, count: int, policy: DevicePolicy, size: int = ROWS) -> Tensors | None:
    """`work` over the rows 0 .. count - 1, `size` at a time: joined in order in the main process, None in the others.

    Process r works on the chunks r, r + processes, ... Where a chunk raises a SmoothgenError, every process stops:
    that one with the error, the others with a DistributedError that names it.
    """
    chunks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    own = range(policy.rank, len(chunks), policy.world)
    done: dict[int, Tensors] = {}
    with _all_or_none(policy):
        for index, number in enumerate(own):
            with piece(index, len(own)):
                done[number] = work(number, chunks[number])
    if policy.world > 1:
        parts = _to_main(_packed(done), policy)
        if not policy.is_main:
            return None
        for part in parts[1:]:  # its own it has already, chunk 0 among them, which gives the order of the names
            done |= _unpacked(part, policy)
    in_order = [done[number] for number in range(len(chunks))]
    return {name: torch.cat([tensors[name] for tensors in in_order]) for name in in_order[0]}


@contextlib.contextmanager
def _all_or_none(policy: DevicePolicy) -> Iterator[None]:
    """Leaves with an error in every process where one raises a SmoothgenError."""
    failure: SmoothgenError | None = None
    try:
        yield
    except SmoothgenError as error:
        failure = error
    failed = policy.in_order([float(failure is not None)])
    if failure is not None:
        raise failure
    if any(failed):
        raise DistributedError(f"process {failed.index(1.0)} of {policy.world} could not do its share; see its error")


def _packed(done: dict[int, Tensors]) -> bytes:
    named = {f"{number}/{name}": value for number, part in done.items() for name, value in part.items()}
    return save({name: value.detach().cpu().contiguous().clone() for name, value in named.items()})


def _unpacked(data: bytes, policy: DevicePolicy) -> dict[int, Tensors]:
    found: dict[int, Tensors] = {}
    for path, value in load(data).items():
        number, _, name = path.partition("/")
        found.setdefault(int(number), {})[name] = policy.place(value)
    return found


def _to_main(data: bytes, policy: DevicePolicy) -> list[bytes]:
    """The bytes of every process, in the main one; nothing in the others."""
    own = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    lengths = [int(length) for length in policy.in_order([float(len(own))])]
    padded = policy.place(torch.nn.functional.pad(own, (0, max(lengths) - len(own))))
    rows = [torch.empty_like(padded) for _ in lengths] if policy.is_main else None
    dist.gather(padded, rows, group=policy.group, group_dst=0)
    return [] if rows is None else [bytes(row[:n].cpu().numpy()) for row, n in zip(rows, lengths, strict=True)]
