"""Rows of the cached sampler in C, on the buffers of `ActivationCache`: for few images a pixel's many small operations
cost more to start than to do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, Structure, byref, c_double, c_int, c_long, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothgen.native_operations import Operations, address, called
from smoothgen_pixelcnnpp.cache import ActivationCache
from smoothgen_pixelcnnpp.convolutions import NormedConv
from smoothgen_pixelcnnpp.head import Pinned, PixelDistribution
from smoothgen_pixelcnnpp.resolution import Resolution
from smoothgen_pixelcnnpp.streams import skips_of, sum_of_biases

DIRECTORY = Path(__file__).parent / "native"


def _structure(name: str, **fields: Any) -> type[Structure]:
    return type(name, (Structure,), {"_fields_": list(fields.items())})


def _pointers(names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), c_void_p)


def _numbers(names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), c_long)


# The structures of native/plan.h, field by field.
VerticalBlock = _structure(
    "VerticalBlock",
    **_pointers("into_above into_here skip out_above out_here bias out_bias shift"),
    **_numbers("source target skip_slot"),
    **_pointers("hidden"),
)
HorizontalBlock = _structure(
    "HorizontalBlock",
    **_pointers("into_above into_here skip_of_u own_skip out_above out_here bias out_bias shift"),
    **_numbers("source target skip_slot"),
    **_pointers("hidden into out"),
)
Level = _structure(
    "Level",
    **_numbers("width even ups blocks deepest first_down"),
    u=POINTER(VerticalBlock),
    h=POINTER(HorizontalBlock),
    **_pointers("u_inputs h_inputs u_raw u_raw_above h_raw h_raw_above u_held entry doubled doubled_active"),
    **_pointers("u_context h_context u_halve_above u_halve_here u_halve_bias u_double u_double_bias"),
    **_pointers("h_halve_above h_halve_here h_halve_bias h_double h_double_bias"),
)
Plan = _structure(
    "Plan",
    **_numbers("batch height filters channels size levels"),
    level=POINTER(Level),
    **_pointers("seen u_first u_first_bias h_above h_above_bias h_left h_left_bias out out_bias"),
    **_numbers("components discrete_levels"),
    low=c_double,
    bin_width=c_double,
    **_pointers("shift unit level_values"),
)
Request = _structure("Request", **_pointers("logit_u values known image raws"))
ROWS = Operations(
    DIRECTORY,
    "rows.c",
    {
        "structure_sizes": (c_long, c_long),
        "packed_size": (c_long, c_long, c_long),
        "pack": (None, c_void_p, c_long, c_long, c_void_p),
        "sample_row": (c_int, POINTER(Plan), POINTER(Request), *[c_long] * 4, POINTER(c_long)),
    },
    (VerticalBlock, HorizontalBlock, Level, Plan, Request),
)


def compiled_library(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled loop for float32 or float64. Raises NativeError where there can be none."""
    return ROWS.of(dtype)


class CompiledRows:
    """Draws the rows of a cache, one after the other, in C.

    The buffers are the cache's own, so that priming and choosing among images work as without; the cache must keep
    values once (`twice=False`), and its context must be set before. Threads each take some of the images.
    """

    def __init__(
        self, cache: ActivationCache, pixel: PixelDistribution, shift: Tensor, unit: Tensor, logit_u: Tensor
    ) -> None:
        self.cache, self.native = cache, compiled_library(logit_u.dtype)
        self.logit_u = logit_u.contiguous()
        self.image = torch.zeros_like(self.logit_u)
        self.kept: list[Any] = []
        network = cache.network
        levels = (Level * len(cache.resolutions))(*map(self._level, range(len(cache.resolutions))))
        discretized = pixel.discretized
        event = pixel.event
        self.size = network.out.gain.numel()
        first = {
            name: self._packed(getattr(network, name).weight.flatten(1).T) for name in ("u_first", "h_above", "h_left")
        }
        self.plan = Plan(
            batch=cache.batch,
            height=logit_u.shape[1],
            filters=network.filters,
            channels=network.channels,
            size=self.size,
            levels=len(levels),
            level=levels,
            seen=self._pointer(cache.seen),
            **first,
            **{f"{name}_bias": self._pointer(getattr(network, name).bias) for name in (*first, "out")},
            out=self._packed(network.out.weight[:, :, 0, 0].T),
            components=pixel.components,
            discrete_levels=event.levels if discretized else 0,
            low=event.low if discretized else 0.0,
            bin_width=event.bin_width if discretized else 1.0,
            shift=self._pointer(shift.double()),
            unit=self._pointer(unit.double()),
            level_values=self._pointer(logit_u.new_tensor(pixel.values)),
        )

    def _pointer(self, tensor: Tensor | None) -> int | None:
        """Where a tensor lies; it is kept alive with this object."""
        assert tensor is None or tensor.is_contiguous()
        self.kept.append(tensor)
        return address(tensor)

    def _packed(self, weight: Tensor) -> int:
        """A matrix (inputs, outputs) in the order the products want."""
        weight = weight.detach().contiguous()
        packed = weight.new_empty(self.native.packed_size(*weight.shape))
        self.native.pack(weight.data_ptr(), *weight.shape, packed.data_ptr())
        pointer = self._pointer(packed)
        assert pointer is not None
        return pointer

    def _rows_of(self, weight: Tensor) -> Iterator[int]:
        """A convolution (out, in, rows, columns) as one matrix (columns in, out) for every row."""
        for row in weight.unbind(2):
            yield self._packed(row.permute(2, 1, 0).flatten(0, 1))

    def _blocks(self, resolution: Resolution, level: int) -> tuple[Any, Any]:
        u_blocks, h_blocks = (
            self.cache.network.streams(stream)[level].blocks for stream in (self.cache.network.u, self.cache.network.h)
        )
        vertical: list[Any] = []
        horizontal: list[Any] = []
        for index, (u_block, h_block) in enumerate(zip(u_blocks, h_blocks, strict=True)):
            source, target = resolution.slots(index)
            skip_slot = resolution.up_skip(index)
            for made, structure, stream, block in (
                (vertical, VerticalBlock, resolution.u, u_block),
                (horizontal, HorizontalBlock, resolution.h, h_block),
            ):
                into_above, into_here = self._rows_of(block.conv_in.weight)
                out_above, out_here = self._rows_of(block.conv_out.weight)
                skips = [self._packed(skip.weight[:, :, 0, 0].T) for skip in skips_of(block)]
                fields: dict[str, Any] = {
                    "into_above": into_above,
                    "into_here": into_here,
                    "out_above": out_above,
                    "out_here": out_here,
                    "bias": self._pointer(sum_of_biases(block)),
                    "out_bias": self._pointer(block.conv_out.bias),
                    "shift": self._pointer(stream.shifts[index]),
                    "source": source,
                    "target": target,
                    "skip_slot": skip_slot or 0,
                    "hidden": self._pointer(stream.hidden[index]),
                }
                if structure is VerticalBlock:
                    fields["skip"] = skips[0] if skips else None
                else:
                    fields["skip_of_u"], fields["own_skip"] = skips[0], skips[1] if len(skips) > 1 else None
                    fields["into"] = self._pointer(resolution.h.into[index])
                    fields["out"] = self._pointer(resolution.h.out[index])
                made.append(structure(**fields))
        return (VerticalBlock * len(vertical))(*vertical), (HorizontalBlock * len(horizontal))(*horizontal)

    def _level(self, level: int) -> Any:
        r = self.cache.resolutions[level]
        u, h = self._blocks(r, level)
        u_context, h_context = r.context if r.context is not None else (None, None)
        buffers = {
            name: self._pointer(getattr(r, name))
            for name in ("u_raw", "u_raw_above", "h_raw", "h_raw_above", "u_held", "entry", "doubled", "doubled_active")
        }
        return Level(
            width=r.width,
            even=r.doubled.shape[2],
            ups=r.ups,
            blocks=r.ups + r.downs,
            deepest=r.deepest,
            first_down=r.first_down,
            u=u,
            h=h,
            u_inputs=self._pointer(r.u.inputs),
            h_inputs=self._pointer(r.h.inputs),
            u_context=self._pointer(u_context),
            h_context=self._pointer(h_context),
            **buffers,
            **(self._between(level) if level else {}),
        )

    def _between(self, level: int) -> dict[str, int | None]:
        """What leads from the finer resolution to this one, and back."""
        network = self.cache.network

        def of(convolutions: Any) -> NormedConv:
            return network.convolutions(convolutions)[level - 1]

        u_above, u_here = self._rows_of(of(network.u_halve).weight)
        h_above, h_here = self._rows_of(of(network.h_halve).weight)
        return {
            "u_halve_above": u_above,
            "u_halve_here": u_here,
            "u_halve_bias": self._pointer(of(network.u_halve).bias),
            "u_double": self._packed(of(network.u_double).weight.permute(0, 2, 3, 1).flatten(1)),
            "u_double_bias": self._pointer(of(network.u_double).bias),
            "h_halve_above": h_above,
            "h_halve_here": h_here,
            "h_halve_bias": self._pointer(of(network.h_halve).bias),
            "h_double": self._packed(of(network.h_double).weight.permute(0, 2, 3, 1).flatten(1)),
            "h_double_bias": self._pointer(of(network.h_double).bias.repeat(4)),
        }

    def draw(self, pinned: Pinned | None, wants_raws: bool, after_row: Callable[[int, Tensor | None], None]) -> Tensor:
        """Every row, top to bottom: images (n, H, W, C). after_row: told the row, and its raw parameters if wanted."""
        cache, batch, width = self.cache, self.cache.batch, self.logit_u.shape[2]
        values, known = (None, None) if pinned is None else (t.contiguous() for t in pinned)
        raws = self.logit_u.new_empty(batch, width, self.size) if wants_raws else None
        request = Request(*map(self._pointer, (self.logit_u, values, known, self.image, raws)))
        threads = min(torch.get_num_threads(), batch)
        parts = [(batch * part // threads, batch * (part + 1) // threads) for part in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            for row in range(self.logit_u.shape[1]):
                cache.enter_row()
                places = (c_long * len(cache.resolutions))(*(r.u.place for r in cache.resolutions))

                def work(part: tuple[int, int], row: int = row, places: Any = places) -> int:
                    first, last = part
                    return self.native.sample_row(
                        byref(self.plan), byref(request), first, last - first, cache.row_index, row, places
                    )

                failed = work(parts[0]) if threads == 1 else any(pool.map(work, parts))
                called(failed, "a row of the compiled sampler; draw fewer images at once")
                cache.leave_row()
                after_row(row, raws)
        return self.image
