"""How small noise may be before floating point rounds it away."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothgen.errors import ConfigError
from smoothgen.noise_kernel import NoiseKernel

FINEST = 16.0
"""The smallest sigma, in units of the spacing of floating-point numbers at the largest value of the data."""


def least_sigma(data: Tensor) -> Tensor:
    """The smallest sigma for which x + noise is still continuous, for every coordinate: FINEST * eps * max |x|.

    Below, noise that is rounded to the spacing of numbers around x has atoms, and the bound may lie above log p(x).
    log q(x_tilde | x) of the built-in kernels is right to 0.002 nats per coordinate from 4 spacings on, to 0.0001
    from 16.
    data: (n, *event_shape) -> (*event_shape).
    """
    return FINEST * torch.finfo(data.dtype).eps * data.abs().amax(0)


def check_resolved(kernel: NoiseKernel, data: Tensor, name: str = "kernel") -> None:
    """Raises ConfigError where noise of that kernel on that data would be smaller than what rounding does.

    name: of the kernel in the configuration.
    """
    sigma, least = torch.broadcast_tensors(kernel.sigma.detach().to(data), least_sigma(data))
    if not sigma.is_meta and bool((sigma < least * (1.0 - 1e-4)).any()):
        worst = (sigma / least).flatten().argmin()
        precision = str(data.dtype).removeprefix("torch.")
        raise ConfigError(
            f"{name}.sigma: {sigma.flatten()[worst]:.3g} is below what {precision} can add to values as large as the "
            f"data's, so that no bound would hold; give {1.05 * least.max():.2g} or more"
        )
