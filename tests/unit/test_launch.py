"""The place of a process among others, and gradients added up in order."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from smoothgen.apart import groups
from smoothgen.board import Board
from smoothgen.device import DeviceConfig, DevicePolicy, _own_device
from smoothgen.errors import ConfigError, DeviceError, DistributedError, Interrupted
from smoothgen.launch import Launch, in_contact, meet
from smoothgen.reduction import added, folded


@pytest.fixture
def _alone(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, where the processes meet, is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here"}, "MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}, "ranks run from 0"),
        ({"WORLD_SIZE": "two"}, 'WORLD_SIZE is "two", expected a whole number'),
    ],
)
def test_half_an_environment_is_refused(monkeypatch, environment, reason):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=reason):
        DevicePolicy(DeviceConfig(device="cpu"))


@pytest.mark.usefixtures("_alone")
def test_without_an_environment_a_process_is_alone():
    assert Launch.from_environment() == Launch(1, 0, 0)


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _own_device("cuda", Launch(4, 1, 1)).index == 1
    with pytest.raises(DeviceError, match="number 3 on this machine, which has 2 GPUs"):
        _own_device("cuda", Launch(4, 2, 2))


def test_only_the_loss_of_others_is_called_that():
    with pytest.raises(DistributedError, match="process 1 of 2 lost contact"), in_contact(Launch(2, 1, 1), 5):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), in_contact(Launch(2, 1, 1), 5):
        raise RuntimeError("size mismatch")


def test_a_meeting_sees_none_of_the_keys_of_earlier_ones(monkeypatch):
    store = torch.distributed.HashStore()
    monkeypatch.setattr("smoothgen.launch._store", lambda *_: store)
    first, second = (meet(Launch(2, 0, 0), timedelta(seconds=5)) for _ in range(2))
    first.set("smoothgen/finished", "")
    assert first.check(["smoothgen/finished"])
    assert not second.check(["smoothgen/finished"])


def test_a_process_group_of_others_is_refused():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ConfigError, match="has 1 processes and this is its number 0, but WORLD_SIZE is 2"):
            meet(Launch(2, 0, 0), timedelta(seconds=5))
    finally:
        torch.distributed.destroy_process_group()


def test_gradients_are_added_from_the_left():
    rows = torch.tensor([[1e8, 1.0], [1.0, 2.0], [-1e8, 4.0], [1.0, 8.0]])
    one_by_one = rows[0] + rows[1] + rows[2] + rows[3]
    assert torch.equal(folded(None, rows), one_by_one)
    assert torch.equal(folded(folded(None, rows[:2]), rows[2:]), one_by_one)
    assert torch.equal(added(rows[:, 0]), one_by_one[0])
    assert not torch.equal(folded(None, rows.flip(0)), one_by_one)  # so the order does matter here


@pytest.mark.parametrize("processes", range(3, 9))
def test_groups_hold_every_rank_once_and_are_alike(processes):
    parts = groups(processes, 3)
    assert [rank for part in parts for rank in part] == list(range(processes))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


class Store:
    """The three calls of a torch store that a board makes."""

    def __init__(self):
        self.values: dict[str, str] = {}

    def set(self, key, value):
        self.values[key] = value

    def get(self, key):
        return self.values[key].encode()

    def check(self, keys):
        return all(key in self.values for key in keys)


def boards(monkeypatch, timeout=5.0):
    clock = [100.0]
    monkeypatch.setattr("smoothgen.board.time.monotonic", lambda: clock[0])
    store = Store()
    return clock, *(Board(store, name, ["density", "inverter"], timeout) for name in ("density", "inverter"))


def test_a_board_tells_progress_failure_and_signals(monkeypatch):
    clock, density, inverter = boards(monkeypatch)
    inverter.tell(5, 20)
    assert density.progress("inverter") == (5, 20)
    assert density.status() == "; inverter 5/20"
    assert density.trouble() is None
    inverter.fail(ValueError("loss nan"))
    clock[0] += 1
    assert "stage inverter failed on other processes (loss nan)" in str(density.trouble())
    density.fail(Interrupted("stopped by signal 15", 15))
    trouble = inverter.trouble()
    assert isinstance(trouble, Interrupted)
    assert trouble.signum == 15


def test_a_silent_stage_is_taken_for_dead_after_the_timeout_unless_it_is_done(monkeypatch):
    clock, density, inverter = boards(monkeypatch)
    for _ in range(8):  # signs of life on both sides
        clock[0] += 1
        assert inverter.trouble() is None
        assert density.trouble() is None
    for _ in range(5):
        clock[0] += 1
        assert density.trouble() is None
    clock[0] += 1
    assert "gave no sign of life for 5 s" in str(density.trouble())
    inverter.finish()
    clock[0] += 1
    assert density.trouble() is None
