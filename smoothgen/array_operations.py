"""The same few array operations from numpy and from torch, for code that runs on either.

On a few dozen numbers numpy needs a third of torch's time for an operation, and a sampler that draws pixel after pixel
spends its time on such; on an accelerator the same code runs in torch.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Operations = Any
"""Either of `NUMPY` and `TORCH`; arrays are then numpy's or torch's."""


def _vecdot(a: Any, b: Any) -> Any:
    return (a * b).sum(-1)


@lru_cache(maxsize=32)
def _array(values: tuple[float, ...], dtype: Any) -> Any:
    """Made once and shared, hence read-only: samplers ask for the same constants at every pixel."""
    array = np.asarray(values, dtype=dtype)
    array.setflags(write=False)
    return array


NUMPY: Operations = SimpleNamespace(
    exp=np.exp,
    log=np.log,
    log1p=np.log1p,
    tanh=np.tanh,
    where=np.where,
    minimum=np.minimum,
    maximum=np.maximum,
    amin=lambda a: np.minimum.reduce(a, -1),
    amax=lambda a: np.maximum.reduce(a, -1),
    vecdot=getattr(np, "vecdot", _vecdot),
    stack=lambda parts: np.stack(parts, -1),
    constant=lambda values, like: _array(values, like.dtype),
    eps=lambda a: float(np.finfo(a.dtype).eps),
)
TORCH: Operations = SimpleNamespace(
    exp=torch.exp,
    log=torch.log,
    log1p=torch.log1p,
    tanh=torch.tanh,
    where=torch.where,
    minimum=torch.minimum,
    maximum=torch.maximum,
    amin=lambda a: torch.amin(a, -1),
    amax=lambda a: torch.amax(a, -1),
    vecdot=torch.linalg.vecdot,
    stack=lambda parts: torch.stack(parts, -1),
    constant=lambda values, like: torch.tensor(values, dtype=like.dtype, device=like.device),
    eps=lambda a: torch.finfo(a.dtype).eps,
)


def arrays(*tensors: Tensor) -> tuple[Operations, tuple[Any, ...]]:
    """The operations that suit the tensors' device, and the tensors as their arrays, without gradients."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return NUMPY, tuple(tensor.detach().numpy() for tensor in tensors)
    return TORCH, tuple(tensor.detach() for tensor in tensors)


def tensor(array: Any) -> Tensor:
    """An array of either kind as a tensor."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.asarray(array))
