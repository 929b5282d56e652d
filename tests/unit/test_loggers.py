"""Loggers: followed exactly, also after a resume; never the end of a run; nothing secret in it."""

from __future__ import annotations

import json
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import smoothgen
from smoothgen.errors import ConfigError, DependencyError, Interrupted
from smoothgen.logger import Logger, LoggerConfig, LoggerWarning, numbers
from smoothgen.registry import INTERFACES, installed
from smoothgen.run_directory import RunDirectory
from smoothgen.trainer import Trainer
from smoothgen_loggers import wandb as wandb_plugin

EVENTS: list[tuple[Any, ...]] = []
HEADER = 7
"""Bytes before the first record of a wandb file."""
TINY = {
    "name": "tiny",
    "data": {"type": "rings", "train_size": 200, "validation_size": 50, "test_size": 60},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [8], "components": 2},
    "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [8], "components": 2}},
    "trainer": {"max_steps": 12, "batch_size": 16, "log_every": 2, "validate_every": 6, "checkpoint_every": 4},
    "evaluate": {"max_examples": 40, "importance_samples": [], "samples": 30, "metrics": ["elbo", "samples"]},
    "device": {"device": "cpu", "threads": 1},
}


class Recorder(Logger):
    """Notes every call; fails in, or sends a signal at, the call it is told to."""

    def __init__(self, fails: str, signals: int) -> None:
        self.fails, self.signals = fails, signals

    def start(self, config: dict[str, Any], run_dir: Path, records: Any) -> None:
        self._note("start", config["name"], run_dir.name, list(records))

    def log(self, index: int, record: dict[str, Any]) -> None:
        self._note("log", index, record)
        if index == self.signals:
            signal.raise_signal(signal.SIGTERM)

    def measure(self, metrics: dict[str, Any]) -> None:
        self._note("measure", metrics["likelihoods"]["elbo"]["nats"])

    def picture(self, name: str, path: Path) -> None:
        self._note("picture", name, path.read_bytes()[:4])

    def finish(self, status: str) -> None:
        self._note("finish", status)

    def _note(self, *event: Any) -> None:
        EVENTS.append(event)
        if event[0] == self.fails:
            raise RuntimeError("the service is down")


class RecorderConfig(LoggerConfig):
    type: Literal["recorder"] = "recorder"
    fails: str = ""
    signals: int = -1

    def build(self) -> Recorder:
        return Recorder(self.fails, self.signals)


class Plugin:
    @smoothgen.hookimpl
    def smoothgen_components(self) -> list[type[LoggerConfig]]:
        return [RecorderConfig]


@pytest.fixture(autouse=True)
def _recorder() -> Iterator[None]:
    EVENTS.clear()
    smoothgen.register(Plugin(), "recorder")
    if "tensorboard" not in installed().components["logger"]:  # an installation older than this entry point
        import smoothgen_loggers

        smoothgen.register(smoothgen_loggers)
    yield
    installed.cache_clear()


def config(*loggers: Any, **changes: Any) -> dict[str, Any]:
    return TINY | {"loggers": list(loggers)} | changes


def test_a_logger_sees_the_whole_run_in_order(tmp_path):
    smoothgen.fit(config("recorder"), tmp_path / "run")
    kinds = [event[0] for event in EVENTS]
    assert kinds == ["start", *["log"] * kinds.count("log"), "measure", "picture", "finish"]
    assert EVENTS[0][1:] == ("tiny", "run", [])
    logged = [event[1:] for event in EVENTS if event[0] == "log"]
    assert logged == list(enumerate(RunDirectory(tmp_path / "run").metrics()))
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert ("measure", evaluation["likelihoods"]["elbo"]["nats"]) in EVENTS
    assert ("picture", "samples", b"\x89PNG") in EVENTS
    assert EVENTS[-1] == ("finish", "finished")


def test_a_resumed_run_says_which_records_stand_and_goes_on_from_there(tmp_path):
    with pytest.raises(Interrupted):
        smoothgen.fit(config({"type": "recorder", "signals": 5}), tmp_path / "run")
    assert EVENTS[-1] == ("finish", "interrupted")
    EVENTS.clear()
    smoothgen.fit(config("recorder"), tmp_path / "run", resume=True)
    records = RunDirectory(tmp_path / "run").metrics()
    standing = EVENTS[0][3]
    assert 0 < len(standing) < len(records)
    assert standing == records[: len(standing)]
    assert [event[1] for event in EVENTS if event[0] == "log"] == list(range(len(standing), len(records)))


def rolled_back(monkeypatch, run_dir: Path, *loggers: Any) -> list[tuple[int, dict[str, Any]]]:
    """Trains a run whose density goes back from step 9 to its checkpoint at 6. What the records were, by index."""
    step = Trainer._step

    def diverging(self: Trainer, stage: Any, training: Any) -> Any:
        position = training.position
        if (stage.name, position.step, position.rollbacks) == ("density", 9, 0):
            training.parameters[0].data.fill_(float("nan"))
        return step(self, stage, training)

    monkeypatch.setattr(Trainer, "_step", diverging)
    trainer = TINY["trainer"] | {"on_bad_step": "rollback", "checkpoint_every": 6}  # type: ignore[operator]
    smoothgen.fit(config(*loggers, trainer=trainer), run_dir)
    records = RunDirectory(run_dir).metrics()
    (bad,) = [index for index, record in enumerate(records) if "bad_step" in record]
    assert [record["step"] for record in records[bad - 1 : bad + 2]] == [6, 9, 8]
    return list(enumerate(records))


def test_a_rollback_takes_its_records_back_from_the_loggers(tmp_path, monkeypatch):
    records = rolled_back(monkeypatch, tmp_path / "run", "recorder")
    starts = [index for index, event in enumerate(EVENTS) if event[0] == "start"]
    assert len(starts) == 2
    assert EVENTS[starts[1] - 1] == ("finish", "interrupted")
    standing = EVENTS[starts[1]][3]
    assert standing == [record for _, record in records[: len(standing)]]
    after = [event[1:] for event in EVENTS[starts[1] :] if event[0] == "log"]
    assert after == records[len(standing) :]
    assert EVENTS[-1] == ("finish", "finished")


@pytest.mark.parametrize("where", ["start", "log", "measure", "picture", "finish"])
def test_a_logger_that_fails_is_dropped_with_one_warning_and_the_run_goes_on(tmp_path, where):
    with pytest.warns(LoggerWarning, match=f'logger "recorder" failed in {where} .* the service is down') as caught:
        result = smoothgen.fit(config({"type": "recorder", "fails": where}, "recorder"), tmp_path / "run")
    assert len([one for one in caught if issubclass(one.category, LoggerWarning)]) == 1
    assert result.metrics["likelihoods"]["elbo"]["n"] == 40
    assert EVENTS[-1] == ("finish", "finished")  # of the second one, which never noticed


def test_a_failed_run_is_told_to_its_loggers(tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("smoothgen.experiment.draw_pictures", broken)
    with pytest.raises(OSError, match="disk full"):
        smoothgen.fit(config("recorder"), tmp_path / "run")
    assert EVENTS[-1] == ("finish", "failed")


def test_only_the_main_process_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(smoothgen.DevicePolicy, "is_main", False)
    smoothgen.fit(config("recorder"), tmp_path / "run")
    assert EVENTS == []


def test_loggers_need_a_run_directory():
    with pytest.raises(ConfigError, match="loggers follow a run in its directory"):
        smoothgen.fit(config("recorder"))


def test_the_configuration_names_an_unknown_logger():
    with pytest.raises(ConfigError, match=r'loggers\.0: unknown type "tensorbord"; did you mean "tensorboard"'):
        smoothgen.load_config(config("tensorbord"))


@pytest.mark.parametrize(("tag", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_library_is_named_before_training(tmp_path, monkeypatch, tag, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=rf'pip install "smoothgen\[{tag}\]"'):
        smoothgen.fit(config(tag), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_extras_exist():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {"tensorboard", "wandb"} <= set(project["optional-dependencies"])
    assert project["entry-points"]["smoothgen"]["loggers"] == "smoothgen_loggers"


def test_every_finite_number_is_found_by_its_path():
    assert dict(numbers({"a": {"b": 1, "c": float("nan")}, "d": True, "e": "x", "f": [1.0], "g": 2.5})) == {
        "a/b": 1.0,
        "g": 2.5,
    }


def test_logger_is_an_interface_like_the_others():
    assert "logger" in INTERFACES
    assert installed().find("logger", "recorder") is RecorderConfig


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    assert {"samples"} <= set(events.Tags()["images"])
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """What metrics.jsonl says, by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in RunDirectory(run_dir).metrics():
        for name, value in record.items():
            if name not in ("stage", "step") and isinstance(value, int | float):
                found.setdefault(f"{record['stage']}/{name}", []).append(
                    (record["step"], pytest.approx(value, rel=1e-6))
                )
    return found


def test_tensorboard_holds_every_record_once_also_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    run_dir = tmp_path / "run"
    with pytest.raises(Interrupted):
        smoothgen.fit(config("tensorboard", {"type": "recorder", "signals": 5}), run_dir)
    with (run_dir / "metrics.jsonl").open("a") as file:  # logged after the checkpoint by a process that was killed
        file.write(json.dumps({"stage": "density", "step": 11, "loss": 99.0}) + "\n")
    smoothgen.fit(config("tensorboard"), run_dir, resume=True)
    found = scalars(run_dir)
    test = {tag: values for tag, values in found.items() if tag.startswith("test/")}
    assert {tag: values for tag, values in found.items() if tag not in test} == expected(run_dir)
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    elbo = evaluation["likelihoods"]["elbo"]["nats"]
    assert test["test/likelihoods/elbo/nats"] == [(0, pytest.approx(elbo, rel=1e-6))]


def test_tensorboard_holds_every_record_once_also_after_a_rollback(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    rolled_back(monkeypatch, tmp_path / "run", "tensorboard")
    found = {tag: values for tag, values in scalars(tmp_path / "run").items() if not tag.startswith("test/")}
    assert found == expected(tmp_path / "run")


@pytest.mark.slow
def test_wandb_offline_holds_every_record_once_and_no_secret(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("MY_TOKEN", "another-secret-5f3a")
    run_dir = tmp_path / "run"
    with pytest.raises(Interrupted):
        smoothgen.fit(config("wandb", {"type": "recorder", "signals": 5}), run_dir)
    identity = json.loads((run_dir / "wandb" / wandb_plugin.IDENTITY).read_text())["id"]
    smoothgen.fit(config("wandb"), run_dir, resume=True)
    (log,) = (run_dir / "wandb").glob(f"offline-run-*-{identity}/*.wandb")
    records = RunDirectory(run_dir).metrics()
    rows = history(log)
    assert [row["_step"] for row in rows[: len(records)]] == list(range(len(records)))
    for row, record in zip(rows, records, strict=False):
        stage = record["stage"]
        assert {name: row[f"{stage}/{name}"] for name in record if name != "stage"} == {
            name: pytest.approx(value) for name, value in record.items() if name != "stage"
        }
    for file in run_dir.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert secret.encode() not in content, file
            assert b"another-secret-5f3a" not in content, file


@pytest.mark.slow
def test_wandb_offline_holds_every_record_once_also_after_a_rollback(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    records = rolled_back(monkeypatch, tmp_path / "run", "wandb")
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    rows = history(log)
    assert [row["_step"] for row in rows[: len(records)]] == list(range(len(records)))
    for row, (_, record) in zip(rows, records, strict=False):
        assert {name: row[f"{record['stage']}/{name}"] for name in ("step", "loss") if name in record} == {
            name: pytest.approx(record[name]) for name in ("step", "loss") if name in record
        }


def history(log: Path) -> list[dict[str, Any]]:
    """The rows of a wandb file, which wandb may still be writing for a moment after the run has ended."""
    sizes = [log.stat().st_size, -1]
    while sizes[-1] != sizes[-2] or (sizes[-1] <= HEADER and len(sizes) < 50):
        time.sleep(0.2)
        sizes.append(log.stat().st_size)
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    rows = []
    for data in messages(log.read_bytes()):
        record = protocol.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({"_step": record.history.step.num} | items)
    return rows


def messages(content: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, in blocks of 32 kB, after wandb's header."""
    position, parts = HEADER, []
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        size, kind = struct.unpack_from("<HB", content, position + 4)
        parts.append(content[position + 7 : position + 7 + size])
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_wandb_online_needs_a_login(monkeypatch):
    library = pytest.importorskip("wandb")
    monkeypatch.setattr(type(library.api), "api_key", None, raising=False)
    with pytest.raises(ConfigError, match="wandb login"):
        installed().components["logger"]["wandb"](mode="online").build()


class FakeRun:
    """The part of wandb's interface that the logger uses, as a server that already has some rows answers."""

    def __init__(self, step: int) -> None:
        self.step, self.rows = step, []

    def log(self, row: dict[str, Any], step: int | None = None) -> None:
        self.rows.append(step)

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def finish(self, exit_code: int) -> None: ...


def test_wandb_online_leaves_out_what_the_server_has(tmp_path):
    class Library:
        Settings = dict

        @staticmethod
        def init(**arguments: Any) -> FakeRun:
            assert arguments["resume"] == "allow"
            return run

    run = FakeRun(step=7)
    logger = wandb_plugin.WandbLogger(Library, wandb_plugin.WandbConfig(mode="online"))  # type: ignore[arg-type]
    logger.start({}, tmp_path, [{"stage": "density", "step": step, "loss": 1.0} for step in range(5)])
    for index in range(5, 10):
        logger.log(index, {"stage": "density", "step": index, "loss": 1.0})
    assert run.rows == [7, 8, 9]


def test_wandb_online_sends_a_new_run_after_a_rollback(tmp_path):
    runs: list[tuple[str, FakeRun]] = []

    class Library:
        Settings = dict

        @staticmethod
        def init(**arguments: Any) -> FakeRun:
            runs.append((arguments["id"], FakeRun(step=0)))
            return runs[-1][1]

    logger = wandb_plugin.WandbLogger(Library, wandb_plugin.WandbConfig(mode="online"))  # type: ignore[arg-type]
    records = [{"stage": "density", "step": step, "loss": 1.0} for step in range(5)]
    logger.start({}, tmp_path, records)
    logger.finish("interrupted")
    logger.start({}, tmp_path, records[:3])
    logger.log(3, records[3])
    (first, old), (second, new) = runs
    assert (old.rows, new.rows) == ([0, 1, 2, 3, 4], [0, 1, 2, 3])
    assert first != second
    assert json.loads((tmp_path / "wandb" / wandb_plugin.IDENTITY).read_text())["id"] == second
