"""What this machine can do at most, measured in the same run: products of matrices and convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timing import Row, Rows, Settings, seconds
from torch import Tensor

CONVOLUTIONS = {"40 filters": (80, 40), "40 filters, gates": (80, 80), "160 filters, gates": (320, 320)}


def best_rate(operations: float, work, settings: Settings) -> float:
    """Gigaflops of the fastest of several calls: a ceiling is no median."""
    work()
    return operations / min(seconds(work, settings.device) for _ in range(settings.rounds)) / 1e9


def product_rate(settings: Settings, dtype: torch.dtype = torch.float32) -> float:
    """Of a square matrix product."""
    size = 512 if settings.quick else 2048 if settings.device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=settings.device, dtype=dtype) for _ in range(2))
    return best_rate(2.0 * size**3, lambda: a @ b, settings)


def convolution_rate(channels: tuple[int, int], settings: Settings, dtype: torch.dtype = torch.float32) -> float:
    """Of a 2 x 3 convolution on 16 images of 28 x 28, channels last."""
    inputs, outputs = channels

    def laid_out(*shape: int) -> Tensor:
        return torch.randn(shape, device=settings.device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    x, weight = laid_out(16, inputs, 28, 28), laid_out(outputs, inputs, 2, 3)
    operations = 2.0 * 16 * 29 * 28 * inputs * outputs * 6
    return best_rate(operations, lambda: F.conv2d(x, weight, None, 1, (1, 1)), settings)


def convolution_train_rate(channels: tuple[int, int], settings: Settings) -> float:
    """Of the same convolution, forward and backward."""
    inputs, outputs = channels

    def laid_out(*shape: int) -> Tensor:
        return torch.randn(shape, device=settings.device).contiguous(memory_format=torch.channels_last).requires_grad_()

    x, weight, up = (
        laid_out(16, inputs, 28, 28),
        laid_out(outputs, inputs, 2, 3),
        laid_out(16, outputs, 29, 28).detach(),
    )
    operations = 6.0 * 16 * 29 * 28 * inputs * outputs * 6
    return best_rate(operations, lambda: F.conv2d(x, weight, None, 1, (1, 1)).backward(up), settings)


def rows(settings: Settings) -> Rows:
    """Rates, in gigaflops; `ours` is the rate and there is no baseline."""
    yield Row("machine", "matrix product, fp32", product_rate(settings), notes={"unit": "GFLOP/s"})
    yield Row("machine", "matrix product, bf16", product_rate(settings, torch.bfloat16), notes={"unit": "GFLOP/s"})
    for name, channels in CONVOLUTIONS.items():
        yield Row(
            "machine", f"convolution, {name}, fp32", convolution_rate(channels, settings), notes={"unit": "GFLOP/s"}
        )
        yield Row(
            "machine",
            f"convolution forward and backward, {name}, fp32",
            convolution_train_rate(channels, settings),
            notes={"unit": "GFLOP/s"},
        )
    rate = convolution_rate(CONVOLUTIONS["160 filters, gates"], settings, torch.bfloat16)
    yield Row("machine", "convolution, 160 filters, gates, bf16", rate, notes={"unit": "GFLOP/s"})
