"""What a checkpoint belongs to, as short digests: the run's configuration, and the examples that it learns from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoothgen.checksums import digest
from smoothgen.config import read_yaml
from smoothgen.errors import CheckpointError
from smoothgen.regular_file import is_regular
from smoothgen.row_order import SKETCH
from smoothgen.run_directory import EXPERIMENT, RunDirectory
from smoothgen.training_data import TrainingData

FREE = ("name", "description", "evaluate", "device", "loggers")
"""Keys of an experiment that may change between a stop and a resume: no weight depends on them."""


def fingerprint(run: RunDirectory, data: TrainingData) -> dict[str, Any]:
    """`config`: a digest of each of the run's keys. `data`: one of the training examples and their context, of all, or
    of some thousands spread evenly where they are streamed."""
    path = run.path / EXPERIMENT
    stored = read_yaml(path) if is_regular(path) else {}
    keys = {key: digest({}, {key: value}) for key, value in stored.items() if key not in FREE}
    return {"config": keys, "data": _digest_of_examples(data)}


def check_fingerprint(path: Path, stored: Mapping[str, Any] | None, own: Mapping[str, Any]) -> None:
    """Compares what a checkpoint holds with what its run has now; one without a fingerprint is older than they are.

    Raises CheckpointError where the checkpoint is another run's, or the training examples have changed.
    """
    if stored is None:
        return
    keys = sorted((stored["config"].keys() | own["config"].keys()) - set(FREE))
    changed = [key for key in keys if stored["config"].get(key) != own["config"].get(key)]
    if changed:
        raise CheckpointError(
            f"{path} was written by a run with another {', '.join(changed)} than the {EXPERIMENT} beside it; put the "
            "run's own checkpoint back, or train in a new run directory"
        )
    if stored["data"] != own["data"]:
        raise CheckpointError(
            f"{path} was trained on other examples: the training data have changed since; bring them back, or train "
            "in a new run directory"
        )


def _digest_of_examples(data: TrainingData) -> str:
    count = len(data.examples)
    examples = data.sample(SKETCH if data.examples.streamed else count)
    tensors = {"x": examples.x, "context": examples.context}
    return digest({name: value.cpu() for name, value in tensors.items() if value is not None}, {"count": count})
