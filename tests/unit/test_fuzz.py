"""A few hundred damaged inputs for every reader; 100,000 for each by python -m tests.fuzz."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from fuzz import readers, runner

from smoothgen.errors import DataError

INPUTS = 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damaged_inputs_are_refused_or_read():
    outcomes = runner.run(list(readers.READERS), INPUTS, seed=1)
    assert {outcome.reader: outcome.failures for outcome in outcomes if outcome.failures} == {}
    for outcome in outcomes:
        assert outcome.inputs == INPUTS == outcome.accepted + outcome.refused.total()
        assert outcome.refused
        assert outcome.peak_megabytes < runner.MEMORY >> 20


@pytest.mark.parametrize(
    "reader", [each for each in readers.READERS if each.name != "torchscript"], ids=lambda r: r.name
)
def test_sound_inputs_are_read(reader, tmp_path, monkeypatch):
    """Without damage nothing but the reader's own options is left to refuse: most inputs are accepted."""
    monkeypatch.setattr(readers, "PLAIN", 1.0)
    reader.prepare(tmp_path)
    if reader.name == "image folder":
        pytest.skip("its damage is the folder's structure")
    outcome = runner.Outcome(reader.name)
    for number in range(30):
        runner.attempt(reader, tmp_path, 0, number, outcome)
    assert not outcome.failures
    assert outcome.accepted >= 3


class Faulty(readers.Reader):
    """Crashes, hangs, takes memory and raises, by the number of the input."""

    def prepare(self, directory: Path) -> None:
        pass

    def write(self, directory: Path, rng: random.Random) -> None:
        (directory / "number").write_text(str(rng.random()))

    def read(self, directory: Path, rng: random.Random) -> None:
        import os
        import signal

        kind = rng.randrange(6) if rng.random() < 0.5 else 5
        if kind == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == 1:
            bytearray(2 * runner.MEMORY)
        elif kind == 2:
            raise KeyError("x")
        elif kind == 3:
            raise DataError("refused")
        elif kind == 4:
            while True:
                time.process_time()


def test_the_fuzzer_sees_crashes_hangs_and_memory(monkeypatch):
    monkeypatch.setattr(runner, "CPU_SECONDS", 0.3)
    (outcome,) = runner.run([Faulty("faulty")], 60, jobs=1)
    assert outcome.inputs == 60 == outcome.accepted + outcome.refused.total() + len(outcome.failures)
    kinds = " ".join(what for _, what in outcome.failures)
    for expected in ("killed by SIGKILL", "MemoryError", "KeyError: 'x'", "more than 0.3 s"):
        assert expected in kinds
    assert outcome.refused["DataError"] and outcome.accepted
