"""The only file that names a device, a precision, compilation or a distributed strategy."""

from __future__ import annotations

import contextlib
import copy
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
from smoothgen.errors import ConfigError, DeviceError, DistributedError
from smoothgen.launch import Launch, in_contact, leave_together, meet
from smoothgen.reduction import OrderedReduction, Reduction, ShardedReduction, gathered

CPU = torch.device("cpu")
"""Where indices and files' contents are, whatever device tensors are made on by default."""
NOWHERE = "meta"
"""The device of tensors that have a shape and no memory."""


class DeviceConfig(StrictModel):
    """Where and how training computes.

    device: "auto" takes the accelerator if there is one. precision: "bf16-mixed" computes networks in bfloat16 and
    likelihoods in float32. tf32: let float32 products round to tf32 on GPUs that can. compile: torch.compile, in
    place (a compile takes half a minute on two cores). strategy: how processes started by torchrun share the work.
    threads: CPU threads; by default what torch chooses. reproducible: the same bits for any number of processes that
    take as many micro-batches a step together; slower. stages: "apart" trains each stage on processes of its own.
    timeout: seconds after which a process that waits for another gives up.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    tf32: bool = False
    compile: bool = False
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    threads: PositiveInt | None = None
    reproducible: bool = False
    stages: Literal["together", "apart"] = "together"
    timeout: PositiveInt = 600


class DevicePolicy:
    """Resolves the device, refuses an absent one, seeds, places, casts, compiles and distributes."""

    def __init__(self, config: DeviceConfig | None = None) -> None:
        self.config = config or DeviceConfig()
        self.launch = Launch.from_environment()
        self.world, self.rank = self.launch.world, self.launch.rank
        self.group: dist.ProcessGroup | None = None
        self.store: Any = None
        self.type = _resolve(self.config.device)
        self.device = _own_device(self.type, self.launch)
        if self.config.precision == "bf16-mixed" and self.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise DeviceError("device.precision: this GPU has no bfloat16; use 32-true")
        if self.config.strategy != "auto" and self.world == 1:
            raise ConfigError(
                f"device.strategy: {self.config.strategy} needs several processes; start with "
                "torchrun --nproc-per-node N -m smoothgen train ..., or use strategy auto"
            )
        self.strategy = self._strategy()
        if self.type == "cuda":
            torch.cuda.set_device(self.device)
            _set_deterministic(self.config.reproducible)
        torch.set_float32_matmul_precision("high" if self.config.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.config.tf32
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)

    def _strategy(self) -> str:
        return "single" if self.world == 1 else self.config.strategy.replace("auto", "ddp")

    def of_group(self, ranks: list[int], group: dist.ProcessGroup) -> DevicePolicy:
        """The policy of this process as one of the group's: they share a stage, as if there were no others."""
        policy = copy.copy(self)
        policy.world, policy.rank, policy.group = len(ranks), ranks.index(self.launch.rank), group
        policy.strategy = policy._strategy()
        return policy

    def alone(self) -> DevicePolicy:
        """The policy of this process for what no other takes part in; the main one stays that."""
        policy = copy.copy(self)
        policy.world, policy.group, policy.strategy = 1, None, "single"
        return policy

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @property
    def optimizer_options(self) -> dict[str, bool]:
        """How torch's optimizers are to compute. The last digits of fused ones depend on where a shard ends."""
        return {"foreach": True} if self.config.reproducible else {"fused": self._fuses}

    @property
    def _fuses(self) -> bool:
        return self.type in ("cpu", "cuda") and not self.config.reproducible

    @property
    def synchronous(self) -> bool:
        """Whether reading a result costs no waiting, or the fused optimizer cannot skip a step by itself."""
        return self.type != "cuda" or not self._fuses

    @contextlib.contextmanager
    def processes(self) -> Iterator[None]:
        """Joins the processes that torchrun started, for the duration; in the process group that there is, if any."""
        if self.world == 1:
            yield
            return
        timeout = timedelta(seconds=self.config.timeout)
        with in_contact(self.launch, self.config.timeout):
            joined = dist.is_initialized()
            self.store = meet(self.launch, timeout)
            if not joined:
                dist.init_process_group(
                    store=self.store,
                    rank=self.rank,
                    world_size=self.world,
                    timeout=timeout,
                    device_id=self.device if self.type == "cuda" else None,
                )
            try:
                yield
                leave_together(self.store, self.launch)
            finally:
                if not joined:
                    dist.destroy_process_group()

    def barrier(self) -> None:
        """Waits for the other processes."""
        if self.world > 1:
            dist.barrier(self.group)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.sum(float(flag)) > 0)

    def agreed(self, flag: Tensor) -> Tensor:
        """A flag, bool (), set where it is in any process; on the device, without waiting for it there."""
        if self.world == 1:
            return flag
        count = flag.to(torch.int32)
        dist.all_reduce(count, dist.ReduceOp.MAX, group=self.group)
        return count > 0

    def sum(self, value: float) -> float:
        """The sum of a number over the processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64 if self.type != "mps" else torch.float32, device=self.device)
        dist.all_reduce(total, group=self.group)
        return float(total.item())

    def mean(self, value: float) -> float:
        """The mean of a number over the processes, which has the same bits in all where `reproducible`."""
        return value if self.config.reproducible else self.sum(value) / self.world

    def in_order(self, values: list[float]) -> list[float]:
        """Numbers of all processes, as many from each, in the order 0 of all, 1 of all, ...: the same in every one."""
        if self.world == 1:
            return values
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        in_turn: list[float] = gathered(own, self.group).T.flatten().tolist()
        return in_turn

    def agree(self, what: str, digest: str) -> None:
        """Raises DistributedError, in every process, where they do not all come with the same digest."""
        if self.world == 1:
            return
        number = derived_seed(digest) >> 11  # whole numbers up to 2^52 survive as float64
        numbers = self.in_order([float(number)])
        others = [rank for rank, theirs in enumerate(numbers) if theirs != numbers[0]]
        if others:
            raise DistributedError(
                f"process {others[0]} was started with another {what} than process 0 ({len(others)} of {self.world} "
                "differ); start all with the same command, files and versions"
            )

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module placed, distributed and compiled: what the training loop calls.

        FSDP shards the module's own parameters in place; every strategy synchronises gradients in `forward` alone.
        """
        module = module.to(self.device)
        wrapped: nn.Module = module
        if self.strategy == "fsdp":
            self._shard(module)
        elif self.strategy == "ddp" and not self.config.reproducible:
            wrapped = nn.parallel.DistributedDataParallel(
                module,
                device_ids=[self.device.index] if self.type == "cuda" else None,
                process_group=self.group,
            )
        if self.config.compile:
            wrapped.compile()
        return wrapped

    def _shard(self, module: nn.Module) -> None:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        group = self.group or dist.group.WORLD
        assert group is not None
        mesh = DeviceMesh.from_group(group, self.type)
        mixed = self.config.precision == "bf16-mixed"
        policy = MixedPrecisionPolicy(
            param_dtype=None, reduce_dtype=torch.float32 if mixed else None, cast_forward_inputs=False
        )
        # resharding after forward, the root too: validation changes the shards, and the next step must see that
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)

    @contextlib.contextmanager
    def accumulating(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Delays the synchronisation of gradients until the last micro-batch of a step."""
        if last or self.strategy == "single" or self.config.reproducible:
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

    def reduction(self, wrapped: nn.Module, parameters: list[nn.Parameter]) -> Reduction:
        """How the gradients of a step's micro-batches become one."""
        if self.world == 1 or not self.config.reproducible:
            return Reduction(parameters)
        if self.strategy == "fsdp":
            return ShardedReduction(wrapped, parameters, self.group)
        return OrderedReduction(parameters, self.group)

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


def _own_device(kind: str, launch: Launch) -> torch.device:
    """The device of this process: on GPUs one each. Raises DeviceError where there are fewer than processes."""
    if kind != "cuda":
        return torch.device(kind)
    present = torch.cuda.device_count()
    if launch.local_rank >= present:
        raise DeviceError(
            f"process {launch.rank} is number {launch.local_rank + 1} on this machine, which has {present} GPUs; every "
            f"process needs its own: --nproc-per-node {present}, or device.device=cpu"
        )
    return torch.device(kind, launch.local_rank)


def _set_deterministic(flag: bool) -> None:
    """GPU kernels that give the same bits at every call, or torch's default choice."""
    if flag:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it; read when cuBLAS starts
    torch.use_deterministic_algorithms(flag)
    torch.backends.cudnn.deterministic = flag


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


def devices() -> dict[str, str]:
    """What this machine computes on: a name and a description each, the CPU first. Each has added two numbers."""
    found = {"cpu": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bfloat16}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    for name in found:
        assert (torch.ones(2, device=name) + 1.0).sum().item() == 4.0
    return found


def unused_accelerator() -> str | None:
    """What torch was built for and finds no device of: "CUDA 12.8", or None."""
    built = torch.version.cuda
    return f"CUDA {built}" if built is not None and not torch.cuda.is_available() else None


def distributed_backends() -> list[str]:
    """Those that torch was built with."""
    if not dist.is_available():
        return []
    available = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available, "mpi": dist.is_mpi_available}
    return [name for name, there in available.items() if there()]
