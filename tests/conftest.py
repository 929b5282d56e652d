"""What every test shares: hypothesis profiles, one thread, the device, float64 and seeds.

pytest --device cuda runs the property tests on an accelerator; --hypothesis-profile thorough tries more examples,
quick fewer (tests/mutation.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("quick", settings.get_profile("ci"), max_examples=10)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the property tests compute: cpu, cuda, ... (default: cpu)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.accelerator.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no accelerator here"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of the property tests."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """New tensors and modules are float64. Use by `pytestmark = pytest.mark.usefixtures("float64")`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def generator(device: torch.device) -> torch.Generator:
    """A seeded generator on the device."""
    return torch.Generator(device).manual_seed(20210503)
