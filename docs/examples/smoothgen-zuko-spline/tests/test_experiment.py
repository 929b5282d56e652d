"""experiment.yaml as a user runs it, cut short: it trains, is measured, and comes back from its run directory."""

from pathlib import Path

import pytest
import smoothgen
import torch

EXPERIMENT = Path(__file__).parents[1] / "experiment.yaml"
SHORT = (
    "trainer.max_steps=20",
    "trainer.warmup_steps=2",
    "evaluate.max_examples=64",
    "evaluate.importance_examples=16",
    "evaluate.importance_samples=[2]",
    "evaluate.samples=64",
    "evaluate.metrics=[elbo]",
    "device.device=cpu",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "short"
    result = smoothgen.fit(EXPERIMENT, directory, overrides=SHORT)
    assert result.metrics["likelihoods"]
    return directory


def test_a_trained_model_comes_back_and_samples(run: Path) -> None:
    model = smoothgen.load(run)
    first, again = (model.sample(32, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == (32, *model.event_shape)
    assert torch.equal(first, again) and bool(first.isfinite().all())


def test_a_trained_model_has_a_bound_with_an_error(run: Path) -> None:
    x = smoothgen.load_config(EXPERIMENT).data.build().split("test").x[:64]
    likelihood = smoothgen.load(run).likelihood_at(x, generator=torch.Generator().manual_seed(1))
    assert likelihood.kind == "lower bound" and likelihood.stderr > 0
