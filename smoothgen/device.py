"""The only file that names a device, a precision, compilation or a distributed strategy."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import PositiveInt
from torch import Generator, Tensor, nn

from smoothgen.component import StrictModel
from smoothgen.errors import ConfigError, DeviceError

CPU = torch.device("cpu")
"""Where indices and files' contents are, whatever device tensors are made on by default."""
NOWHERE = "meta"
"""The device of tensors that have a shape and no memory."""


class DeviceConfig(StrictModel):
    """Where and how training computes.

    device: "auto" takes the accelerator if there is one. precision: "bf16-mixed" computes networks in bfloat16 and
    likelihoods in float32. tf32: let float32 products round to tf32 on GPUs that can. compile: torch.compile, in
    place (a compile takes half a minute on two cores). strategy: how processes started by torchrun share the work.
    threads: CPU threads; by default what torch chooses.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    tf32: bool = False
    compile: bool = False
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    threads: PositiveInt | None = None


class DevicePolicy:
    """Resolves the device, refuses an absent one, seeds, places, casts, compiles and distributes."""

    def __init__(self, config: DeviceConfig | None = None) -> None:
        self.config = config or DeviceConfig()
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.type = _resolve(self.config.device)
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device(self.type, local_rank) if self.type == "cuda" else torch.device(self.type)
        if self.config.precision == "bf16-mixed" and self.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise DeviceError("device.precision: this GPU has no bfloat16; use 32-true")
        if self.config.strategy != "auto" and self.world == 1:
            raise ConfigError(
                f"device.strategy: {self.config.strategy} needs several processes; start with "
                "torchrun --nproc-per-node N -m smoothgen train ..., or use strategy auto"
            )
        self.strategy = "single" if self.world == 1 else self.config.strategy.replace("auto", "ddp")
        if self.type == "cuda":
            torch.cuda.set_device(self.device)
        torch.set_float32_matmul_precision("high" if self.config.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.config.tf32
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @property
    def fuses_optimizers(self) -> bool:
        """Whether torch has fused optimizers for the device."""
        return self.type in ("cpu", "cuda")

    @property
    def synchronous(self) -> bool:
        """Whether reading a result costs no waiting, or the fused optimizer cannot skip a step by itself."""
        return self.type != "cuda"

    @contextlib.contextmanager
    def processes(self) -> Iterator[None]:
        """Joins the processes that torchrun started, for the duration."""
        if self.world == 1 or dist.is_initialized():
            yield
            return
        dist.init_process_group(timeout=timedelta(minutes=30), device_id=self.device if self.type == "cuda" else None)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def barrier(self) -> None:
        """Waits for the other processes."""
        if self.world > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.sum(float(flag)) > 0)

    def agreed(self, flag: Tensor) -> Tensor:
        """A flag, bool (), set where it is in any process; on the device, without waiting for it there."""
        if self.world == 1:
            return flag
        count = flag.to(torch.int32)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        return count > 0

    def sum(self, value: float) -> float:
        """The sum of a number over the processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64 if self.type != "mps" else torch.float32, device=self.device)
        dist.all_reduce(total)
        return float(total.item())

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module placed, distributed and compiled: what the training loop calls.

        FSDP shards the module's own parameters in place; every strategy synchronises gradients in `forward` alone.
        """
        module = module.to(self.device)
        wrapped: nn.Module = module
        if self.strategy == "fsdp":
            self._shard(module)
        elif self.strategy == "ddp":
            wrapped = nn.parallel.DistributedDataParallel(
                module, device_ids=[self.device.index] if self.type == "cuda" else None
            )
        if self.config.compile:
            wrapped.compile()
        return wrapped

    def _shard(self, module: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(self.type, (self.world,))
        mixed = self.config.precision == "bf16-mixed"
        policy = MixedPrecisionPolicy(
            param_dtype=None, reduce_dtype=torch.float32 if mixed else None, cast_forward_inputs=False
        )
        # resharding after forward, the root too: validation changes the shards, and the next step must see that
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)

    @contextlib.contextmanager
    def accumulating(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Delays the synchronisation of gradients until the last micro-batch of a step."""
        if last or self.strategy == "single":
            yield
        elif self.strategy == "ddp":
            assert isinstance(wrapped, nn.parallel.DistributedDataParallel)
            with wrapped.no_sync():
                yield
        else:
            sharded: Any = wrapped
            sharded.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                sharded.set_requires_gradient_sync(True)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The mixed-precision context of forward passes."""
        if self.config.precision == "32-true":
            return contextlib.nullcontext()
        return torch.autocast(self.type, dtype=torch.bfloat16)

    def place(self, value: Tensor) -> Tensor:
        """A tensor on the policy's device."""
        return value.to(self.device)

    def generator(self, *key: int | str) -> Generator:
        """A generator on the device whose state is a pure function of the key."""
        return torch.Generator(self.device).manual_seed(derived_seed(*key))


def derived_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of the key, in order, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(*key: int | str) -> None:
    """Seeds torch on every device from the key. Cheap enough to call at every step."""
    seed = derived_seed(*key)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _resolve(device: str) -> str:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        return accelerator.type if accelerator is not None and accelerator.type in ("cuda", "mps") else "cpu"
    available = device == "cpu" or (
        torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    )
    if not available:
        found = accelerator.type if accelerator is not None else "none"
        raise DeviceError(
            f'device.device: "{device}" was asked for, but torch {torch.__version__} finds no such device '
            f"(accelerator found: {found}); use auto or cpu, or install a torch built for it"
        )
    return device
