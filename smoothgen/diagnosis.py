"""Where the first number that is not finite came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from smoothgen.sharding import whole


def bad_gradient(module: nn.Module) -> str | None:
    """The first parameter whose gradient is not finite."""
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(whole(parameter.grad).isfinite().all()):
            return f"gradient of {name}"
    return None


@torch.no_grad()
def first_bad_output(module: nn.Module, forward: Callable[[], None]) -> str | None:
    """The first submodule whose output is not finite while `forward` runs."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(submodule: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not found and not bool(output.isfinite().all()):
                found.append(f"output of {name} ({type(submodule).__name__})")

        return hook

    handles = [submodule.register_forward_hook(watch(name)) for name, submodule in module.named_modules() if name]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
