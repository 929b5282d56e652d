"""A program for several processes: fits one after another, in the process group `own` or with smoothgen's."""

from __future__ import annotations

import sys

import torch.distributed as dist
from command_line import TINY

import smoothgen
from smoothgen.trainer import Trainer

APART = ["device.stages=apart"]
FITS = {"first": APART, "fails": APART, "second": APART, "third": [], "fourth": [], "fifth": [], "sixth": ["seed=1"]}
SHORT = ["trainer.max_steps=4", "trainer.validate_every=4", "evaluate.metrics=[]", "device.timeout=30"]

trained = Trainer.train


def failing(self: Trainer, resume: bool = False) -> None:
    """One of the processes, that of the second stage, has a trouble of its own."""
    if self.stages[0].name == "inverter":
        raise smoothgen.SmoothgenError("made-up trouble")
    trained(self, resume)


if sys.argv[1] == "own":
    dist.init_process_group("gloo")
for name, options in FITS.items():
    Trainer.train = failing if name == "fails" else trained  # type: ignore[method-assign]
    try:
        smoothgen.fit(TINY, None if name == "sixth" else name, overrides=[*SHORT, *options])
        print(f"{name} is done\n", end="", flush=True)
    except smoothgen.SmoothgenError as error:
        print(f"{name} ended: {error}\n", end="", flush=True)
