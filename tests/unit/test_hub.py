"""Model cards state what a model is; the hub gets safetensors, JSON and the card, and nothing else."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import smoothgen
from smoothgen.checkpoint import write_json
from smoothgen.errors import CheckpointError, DependencyError
from smoothgen.model_card import model_card
from smoothgen.smoothed_model import SmoothedModel

hub = pytest.importorskip("huggingface_hub")

CONFIG = {
    "name": "tiny",
    "description": "five <b>rings</b> | and `more`",
    "data": {"type": "rings", "train_size": 100},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [8]},
    "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [8]}},
    "trainer": {"max_steps": 2, "warmup_steps": 1},
    "evaluate": {"max_examples": 30, "importance_examples": 10, "importance_samples": [3]},
    "device": {"threads": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "run"
    smoothgen.fit(CONFIG, folder)
    return folder


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub that keeps what it is given in a folder."""
    kept = tmp_path / "server"
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, name, **options):
            calls.append(("create", name, options))

        def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
            target = kept / repo_id
            target.mkdir(parents=True)
            for file in Path(folder_path).iterdir():
                (target / file.name).write_bytes(file.read_bytes())
            return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(name, revision=None, allow_patterns=None):
        calls.append(("download", name, revision, allow_patterns))
        if not (kept / name).is_dir():
            raise hub.errors.LocalEntryNotFoundError("no such repository\nand no network")
        return str(kept / name)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return SimpleNamespace(kept=kept, calls=calls)


def test_every_run_leaves_a_card_that_states_what_it_is(run):
    text = (run / "README.md").read_text()
    assert text == model_card(run)
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "smoothgen"
    wanted = ["rings", "Kernel `gaussian`, sigma 0.3", "fixed during training", "lower bound", "nats", "± ", "| 30 |"]
    wanted += ["entropy is", "| seed | 0 |", f"torch {torch.__version__}", '"max_steps": 2']
    for part in wanted:
        assert part in text, part
    assert "<b>" not in text
    assert "five &lt;b&gt;rings&lt;/b&gt; \\| and \\`more\\`" in text
    assert "null" not in text.split("## How it was made")[1]


def test_folders_of_this_machine_stay_out_of_the_card(run, tmp_path):
    copied = tmp_path / "copy"
    copied.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (copied / file.name).write_bytes(file.read_bytes())
    stored = yaml.safe_load((copied / "experiment.yaml").read_text())
    stored["data"] = {"type": "array", "path": "/home/somebody/private/rows.csv"}
    (copied / "experiment.yaml").write_text(yaml.safe_dump(stored))
    text = model_card(copied)
    assert "rows.csv" in text
    assert "somebody" not in text


def test_discrete_data_are_stated_in_bits_per_dim(run, tmp_path):
    config = copy.deepcopy(CONFIG) | {"data": {"type": "digits"}, "kernel": {"type": "gaussian", "sigma": "median"}}
    smoothgen.fit(config, tmp_path / "digits")
    text = (tmp_path / "digits/README.md").read_text()
    assert "bits per dim (lower is better)" in text
    assert "17 levels from -1 to 1: discrete" in text
    assert "unconditional-image-generation" in text


def test_a_model_without_a_bound_says_so(tmp_path):
    smoothgen.fit(CONFIG | {"inverter": {"type": "gradient"}}, tmp_path / "run")
    assert "Not measured" in (tmp_path / "run/README.md").read_text()


def test_a_card_needs_a_finished_run(run, tmp_path):
    (tmp_path / "experiment.yaml").write_bytes((run / "experiment.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="a card describes a finished run"):
        model_card(tmp_path)
    write_json(tmp_path / "config.json", {"event": {"shape": [2]}})
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"evaluation\.json is damaged"):
        model_card(tmp_path)


def test_a_model_goes_to_the_hub_and_comes_back(run, server):
    model = smoothgen.load(run)
    address = model.push_to_hub("me/rings", run_dir=run, token="secret")
    assert address == "https://hub/me/rings/commit/1"
    assert ("create", "me/rings", {"private": True, "exist_ok": True}) in server.calls
    files = {file.name for file in (server.kept / "me/rings").iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md", "samples.png", "evaluation.json"}
    assert all(b"secret" not in file.read_bytes() for file in (server.kept / "me/rings").iterdir())
    back = SmoothedModel.from_pretrained("hf://me/rings", revision="v1")
    patterns = ["config.json", "model.safetensors", "README.md"]
    assert server.calls[-1] == ("download", "me/rings", "v1", patterns)
    x = torch.randn(3, 2)
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(back.log_prob(x, generator=seeds[0]), model.log_prob(x, generator=seeds[1]))
    assert isinstance(smoothgen.load("hf://me/rings"), SmoothedModel)


def test_what_can_go_wrong_is_one_line(run, server, monkeypatch):
    with pytest.raises(CheckpointError, match=r"^hf://no/body cannot be fetched: no such repository and no network;"):
        smoothgen.load("hf://no/body")
    for name in ("hf://../etc", "hf://a", "hf://a/b/c", "hf://a/../b"):
        with pytest.raises(CheckpointError, match="write owner/name"):
            smoothgen.load(name)
    with pytest.raises(CheckpointError, match="only models at hf://"):
        SmoothedModel.from_pretrained(run, revision="v1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"smoothgen\[hub\]"):
        smoothgen.load("hf://me/rings")
