"""Which checkpoint a resumed run goes on from."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from smoothgen.checkpoint import read_tensors
from smoothgen.device import DevicePolicy
from smoothgen.errors import DamagedError, RecoveryWarning
from smoothgen.run_directory import RunDirectory


def newest_checkpoint(run: RunDirectory, kind: str, policy: DevicePolicy) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of the newest checkpoint that is whole; every process asks. A damaged one is set aside.

    Raises CheckpointError where none is whole. Warns of a damaged one by RecoveryWarning.
    """
    problem: DamagedError | None = None
    try:
        found = read_tensors(run.checkpoint, kind) if run.checkpoint.exists() else None
    except DamagedError as error:
        found, problem = None, error
        if not run.former_checkpoint.exists():
            raise
    policy.barrier()
    if found is not None:
        return found
    found = read_tensors(run.former_checkpoint, kind)
    policy.barrier()
    if problem is not None and policy.is_main:
        text = f"{problem}. It is now {run.set_aside()}; going on from the checkpoint before it"
        warnings.warn(text, RecoveryWarning, stacklevel=2)
    policy.barrier()
    return found
