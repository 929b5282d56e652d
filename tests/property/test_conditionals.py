"""log p(x_i | x_<i): the terms sum to log_prob, and none knows what comes after it; over every registered density."""

from __future__ import annotations

import pytest
import torch
from registered import DensityCase, density_params
from torch import Generator

from smoothgen.density_model import DensityModel
from smoothgen.errors import NoClosedFormError
from smoothgen.event import EventSpec
from smoothgen.testing.material import contexts_of, lopsided

pytestmark = pytest.mark.usefixtures("float64")

EVENTS = density_params(
    EventSpec(shape=(3,)),
    EventSpec(shape=(1, 2, 2)),
    EventSpec(shape=(2,), low=-2.0, high=2.0, levels=6),
    contexts=("no context", "noisy copy + features"),
)


def has_conditionals(model: DensityModel) -> bool:
    try:
        return bool(model.coordinate_order)
    except NoClosedFormError:
        return False


@EVENTS
def test_conditionals_are_the_terms_of_log_prob(case: DensityCase, event, context, device):
    model = case.build(event, context, device)
    generator = Generator().manual_seed(3)
    x = lopsided(event, 8, generator=generator)
    given = contexts_of(context, x, generator)
    x, given = x.to(device), None if given is None else given.to(device)
    if not has_conditionals(model):
        with pytest.raises(NoClosedFormError, match="gives no conditionals"):
            model.log_conditionals(x, given)
        dequantised = event.levels is not None and getattr(case.config, "head", "") == "continuous"
        assert case.config.type != "made" or dequantised
        return
    order = model.coordinate_order
    terms = model.log_conditionals(x, given)
    assert terms.shape == (8, event.dimensions) and sorted(order) == list(range(event.dimensions))
    torch.testing.assert_close(terms.sum(1), model.log_prob(x, given))
    for place, coordinate in enumerate(order):
        changed = x.flatten(1).clone()
        changed[:, coordinate] = event.quantize(changed[:, coordinate] + 0.8)
        moved = (model.log_conditionals(changed.reshape(x.shape), given) - terms).abs().amax(0)
        assert (moved[list(order[:place])] == 0.0).all(), f"a term sees coordinate {coordinate}, which comes later"
        assert (moved[list(order[place:])] > 1e-9).all(), f"a term does not see coordinate {coordinate} before it"
