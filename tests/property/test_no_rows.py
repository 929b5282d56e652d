"""No rows are as good as any number of them, and what is no number of rows is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from registered import MADE, DensityCase, density_params
from torch import Generator

import smoothgen
from smoothgen.errors import ConfigError, NoClosedFormError, ShapeError
from smoothgen.event import EventSpec
from smoothgen_pixelcnnpp.pixelcnnpp import PixelCNNPPConfig
from smoothgen_pixelcnnpp.samplers import Algorithm

PLANE = EventSpec(shape=(2,))
PICTURE = EventSpec(shape=(1, 2, 2))
LEVELS = EventSpec(shape=(2,), low=-2.0, high=2.0, levels=6)
BAD = pytest.mark.parametrize("count", [-1, 2.0, "3", None, True])


def check_no_rows(model):
    shape = (0, *model.event_shape)
    context = None if model.context_shape is None else torch.zeros(0, *model.context_shape, dtype=torch.float64)
    none = model.sample(0, context, generator=Generator())
    assert (none.shape, none.dtype) == (shape, torch.float64)
    assert model.sample(np.int64(0), context).shape == shape
    assert model.log_prob(none, context, generator=Generator()).shape == (0,)
    for kind in ("full", "causal"):
        try:
            model.check_score(kind)
        except NoClosedFormError:
            continue
        assert model.score(none, context, kind=kind).shape == shape
    if model.autoregressive:
        assert model.complete(none, torch.zeros(model.event_shape) == 1, context).shape == shape


@density_params(PLANE, PICTURE, LEVELS, contexts=("no context", "noisy copy + features"))
@pytest.mark.usefixtures("float64")
def test_no_rows_give_an_empty_answer_of_the_right_shape(case: DensityCase, event, context):
    check_no_rows(case.build(event, context))


@pytest.mark.parametrize("sampler", Algorithm.__args__)
@pytest.mark.usefixtures("float64")
def test_no_pictures_are_drawn_by_any_sampler(sampler):
    config = PixelCNNPPConfig(filters=4, blocks=1, resolutions=1, components=2, sampler=sampler)
    check_no_rows(DensityCase("pixelcnnpp", config).build(PICTURE))


@BAD
@density_params(PLANE, contexts=("no context",))
@pytest.mark.usefixtures("float64")
def test_what_is_no_number_of_rows_is_refused(case: DensityCase, event, context, count):
    with pytest.raises(ShapeError, match="num_samples must be a whole number, 0 or more, got"):
        case.build(event, context).sample(count)


def smoothed(inverter):
    kernel = {"type": "gaussian", "sigma": 0.3}
    data = {"type": "rings", "train_size": 50}
    return smoothgen.build({"data": data, "kernel": kernel, "density": MADE, "inverter": inverter})


@pytest.mark.parametrize("inverter", [{"type": "conditional", "density": MADE}, {"type": "gradient"}])
def test_a_smoothed_model_takes_no_rows(inverter):
    model = smoothed(inverter)
    x, x_tilde = model.sample(0, return_smoothed=True)
    assert x.shape == x_tilde.shape == (0, 2)
    for options in ({}, {"method": "single-step"}, {"method": "single-step", "score": "causal"}):
        assert model.denoise(x_tilde, **options).shape == (0, 2)
    with pytest.raises(ShapeError, match=r"SmoothedModel: num_samples must be .* got -1"):
        model.sample(-1)


def test_an_unknown_score_is_refused():
    model = smoothed({"type": "gradient"})
    with pytest.raises(ConfigError, match='unknown score "foo"; choose "full" or "causal"'):
        model.denoise(torch.zeros(3, 2), method="single-step", score="foo")
    with pytest.raises(ConfigError, match='unknown score "half"'):
        model.density.score(torch.zeros(3, 2), kind="half")
