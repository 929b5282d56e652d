"""EventSpec and ContextSpec: levels, units, checks and their messages, validation, JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from smoothgen.errors import DataError
from smoothgen.event import ContextSpec, EventSpec

BYTE = EventSpec(shape=(1, 2, 2), low=-1.0, high=1.0, levels=256)
LEVELS = EventSpec(shape=(3,), low=-1.0, high=1.0, levels=5)
TABLE = EventSpec(shape=(2,), shift=(100.0, -3.0), scale=(20.0, 0.25), names=("income", "age"))


def test_dimensions_and_bin_width():
    assert BYTE.dimensions == 4 and TABLE.dimensions == 2
    assert BYTE.bin_width == pytest.approx(2.0 / 255.0)
    assert LEVELS.bin_width == 0.5
    with pytest.raises(DataError, match="continuous event has no bin width"):
        _ = TABLE.bin_width


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("low", "high", "levels"), [(-1.0, 1.0, 256), (0.0, 255.0, 256), (0.0, 1.0, 2), (-3.0, 7.0, 1000)]
)
def test_every_level_keeps_its_number(dtype, low, high, levels):
    event = EventSpec(shape=(1,), low=low, high=high, levels=levels)
    k = torch.arange(levels)[:, None]
    x = (low + k.double() * (high - low) / (levels - 1)).to(dtype)
    assert torch.equal(event.levels_of(x), k)
    assert torch.equal(event.levels_of(event.quantize(x)), k)
    assert event.quantize(x).dtype == dtype
    assert torch.allclose(event.quantize(x), x, atol=1e-6 * max(abs(low), abs(high)))
    event.check(x)


@given(values=st.lists(st.floats(-10.0, 10.0), min_size=1, max_size=20))
def test_quantize_finds_the_nearest_level(values):
    x = torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, 3)
    quantized = LEVELS.quantize(x)
    levels = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=torch.float64)
    nearest = (x[..., None] - levels).abs().amin(-1)
    assert torch.allclose((x - quantized).abs(), nearest, atol=1e-12)
    assert torch.isin(quantized, levels).all()
    assert torch.equal(LEVELS.quantize(quantized), quantized)
    LEVELS.check(quantized)


def test_quantize_of_continuous_events_respects_the_bounds():
    x = torch.tensor([[-2.0], [0.3], [2.0]])
    bounds = [
        (None, None, [-2.0, 0.3, 2.0]),
        (0.0, None, [0.0, 0.3, 2.0]),
        (None, 0.0, [-2.0, 0.0, 0.0]),
        (0.0, 1.0, [0.0, 0.3, 1.0]),
    ]
    for low, high, expected in bounds:
        assert EventSpec(shape=(1,), low=low, high=high).quantize(x).flatten().tolist() == pytest.approx(expected)


# --- check -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_named(bad):
    x = torch.zeros(5, 3)
    x[3, 1] = x[4, 2] = bad
    with pytest.raises(
        DataError, match=rf"^train: 2 of 15 values bad: {bad} at \(3, 1\) is not finite; remove or fill"
    ):
        LEVELS.check(x, "train")


def test_values_out_of_range_are_named():
    x = torch.zeros(2, 1, 2, 2)
    x[1, 0, 0, 1] = 1.5
    with pytest.raises(
        DataError, match=r"^x: 1 of 8 values bad: 1\.5 at \(1, 0, 0, 1\) is outside \[-1\.0, 1\.0\]; rescale"
    ):
        BYTE.check(x)
    half = EventSpec(shape=(1,), low=0.0)
    half.check(torch.tensor([[1e9]]))
    with pytest.raises(DataError, match=r"-1 at \(0, 0\) is outside \[0\.0, None\]"):
        half.check(torch.tensor([[-1.0]]))


def test_values_between_levels_are_named():
    x = torch.tensor([[0.0, 0.5, -1.0], [0.0, 0.3, 1.0]])
    with pytest.raises(DataError, match=r"0\.3 at \(1, 1\) is on none of the 5 levels; quantise the data"):
        LEVELS.check(x)


def test_shapes_are_compared():
    with pytest.raises(DataError, match=r"^test: expected shape \(n, 1, 2, 2\), got \(7, 4\)$"):
        BYTE.check(torch.zeros(7, 4), "test")


def test_good_data_pass_unchanged():
    x = LEVELS.quantize(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))
    assert LEVELS.check(x) is x
    bytes_as_floats = torch.arange(256)[:, None].float() / 127.5 - 1.0
    EventSpec(shape=(1,), low=-1.0, high=1.0, levels=256).check(bytes_as_floats)
    rounding = torch.tensor([[1.0 + 1e-7, -1.0 - 1e-7, 0.0]])
    LEVELS.check(rounding)
    assert len(LEVELS.check(torch.zeros(0, 3))) == 0


# --- units -----------------------------------------------------------------------------------------------------------


@given(
    shift=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)),
    scale=st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)),
    values=st.tuples(st.floats(-50.0, 50.0), st.floats(-50.0, 50.0)),
)
def test_units_there_and_back(shift, scale, values):
    event = EventSpec(shape=(2,), shift=shift, scale=scale)
    x = torch.tensor([values], dtype=torch.float64)
    data = event.to_data(x)
    expected = [s + w * v for s, w, v in zip(shift, scale, values, strict=True)]
    assert data[0].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert torch.allclose(event.to_model(data), x, rtol=1e-9, atol=1e-9 * (1.0 + max(map(abs, shift)) / min(scale)))
    assert event.log_scale == pytest.approx(math.log(scale[0]) + math.log(scale[1]))
    jacobian = torch.autograd.functional.jacobian(event.to_data, x).reshape(2, 2)
    assert torch.logdet(jacobian).item() == pytest.approx(event.log_scale, abs=1e-9)


def test_units_follow_the_shape_in_raster_order():
    event = EventSpec(shape=(1, 2, 2), shift=(1.0, 2.0, 3.0, 4.0), scale=(1.0, 10.0, 100.0, 1000.0))
    assert event.to_data(torch.ones(2, 1, 2, 2))[1].tolist() == [[[2.0, 12.0], [103.0, 1004.0]]]


def test_one_number_is_the_unit_of_all():
    event = EventSpec(shape=(1, 2, 2), shift=(1.0,), scale=(10.0,))
    data = event.to_data(torch.ones(2, 1, 2, 2))
    assert (data == 11.0).all() and (event.to_model(data) == 1.0).all()
    assert event.log_scales == (math.log(10.0),) * 4 and event.log_scale == pytest.approx(4 * math.log(10.0))


@given(first=st.integers(-1000, 1000), step=st.sampled_from([1, 2, 5, 1000]), levels=st.integers(2, 300))
def test_levels_come_back_as_the_very_values_of_the_data(first, step, levels):
    last = first + step * (levels - 1)
    units = {"shift": ((first + last) / 2,), "scale": ((last - first) / 2,)}
    event = EventSpec(shape=(1,), low=-1.0, high=1.0, levels=levels, **units)
    data = torch.arange(first, last + 1, step, dtype=torch.float64)[:, None]
    x = event.to_model(data).float()
    assert event.levels_of(x).flatten().tolist() == list(range(levels))
    assert torch.equal(event.nearest_data(x + 0.3 * event.bin_width), data)
    assert event.ends == (first, last)
    assert event.log_scale == 0.0, "the probability of a level is the same in any units"
    event.check_levels(data)
    with pytest.raises(DataError, match=rf"is none of the {levels} levels from .* to .*give them in these units"):
        event.check_levels(data + 0.5 * step)
    with pytest.raises(DataError, match=r"nan at .* is none of"):
        event.check_levels(torch.full((1, 1), math.nan))


def test_without_units_nothing_changes():
    x = torch.randn(4, 1, 2, 2)
    assert BYTE.to_model(x) is x and BYTE.to_data(x) is x and BYTE.log_scale == 0.0


def test_the_smoothed_and_the_standard_space():
    assert BYTE.smoothed() == EventSpec(shape=(1, 2, 2))
    standard = TABLE.standard()
    assert standard.scale == () == standard.shift
    assert standard.names == TABLE.names and standard.log_scale == 0.0
    bounded = EventSpec(shape=(1,), low=0.0, high=2.0, shift=(1.0,), scale=(3.0,))
    assert (bounded.standard().low, bounded.standard().high) == (0.0, 2.0)


# --- validation and JSON ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shape": ()}, "at least one axis"),
        ({"shape": (0,)}, "greater than 0"),
        ({"shape": (-3,)}, "greater than 0"),
        ({"shape": (2,), "levels": 256}, "needs low, high and at least 2 levels"),
        ({"shape": (2,), "low": 0.0, "levels": 256}, "needs low, high and at least 2 levels"),
        ({"shape": (2,), "low": 0.0, "high": 1.0, "levels": 1}, "at least 2 levels"),
        ({"shape": (2,), "low": 1.0, "high": 1.0}, "must be below"),
        ({"shape": (2,), "low": 2.0, "high": 1.0}, r"low 2.0 must be below high 1.0"),
        ({"shape": (2,), "low": math.nan}, "finite"),
        ({"shape": (2,), "high": math.inf}, "finite"),
        ({"shape": (3,), "shift": (1.0, 2.0), "scale": (1.0, 2.0)}, "need 3 numbers each, one, or none"),
        ({"shape": (2,), "shift": (1.0, 2.0)}, "need 2 numbers each, one, or none"),
        ({"shape": (2,), "scale": (1.0, 2.0)}, "need 2 numbers each, one, or none"),
        ({"shape": (2,), "shift": (0.0, 0.0), "scale": (1.0, 0.0)}, "every scale must be positive"),
        ({"shape": (2,), "shift": (0.0, 0.0), "scale": (1.0, -1.0)}, "every scale must be positive"),
        ({"shape": (2,), "names": ("a",)}, "1 names for 2 coordinates"),
        ({"shape": (2,), "level": 256}, 'did you mean "levels"'),
    ],
)
def test_inconsistent_events_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        EventSpec(**keys)


@pytest.mark.parametrize("event", [BYTE, LEVELS, TABLE, EventSpec(shape=(7,), low=0.0)])
def test_json_round_trip(event):
    assert EventSpec.model_validate_json(event.model_dump_json()) == event
    assert EventSpec(**json.loads(json.dumps(event.model_dump(mode="json")))) == event
    assert hash(event) == hash(event.model_copy())
    with pytest.raises(ValidationError, match="frozen"):
        event.low = 3.0


# --- contexts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (ContextSpec(features=3), (3,)),
        (ContextSpec(noisy_copy=(1, 4, 4)), (1, 4, 4)),
        (ContextSpec(noisy_copy=(1, 4, 4), features=2), (18,)),
        (ContextSpec(noisy_copy=(5,), noise_std=(0.1,) * 5), (5,)),
        (ContextSpec(), (0,)),
    ],
)
def test_shape_of_a_context(spec, shape):
    assert spec.shape == shape and spec.dimensions == math.prod(shape)


def test_contexts_join_and_split():
    x_tilde = torch.arange(12.0).reshape(3, 1, 2, 2)
    features = -torch.arange(6.0).reshape(3, 2)
    both = ContextSpec(noisy_copy=(1, 2, 2), features=2)
    joined = both.join(x_tilde, features)
    assert joined.shape == (3, *both.shape)
    copy, rest = both.split(joined)
    assert torch.equal(copy, x_tilde.flatten(1)) and torch.equal(rest, features)

    alone = ContextSpec(noisy_copy=(1, 2, 2))
    assert alone.join(x_tilde, None) is x_tilde
    copy, rest = alone.split(x_tilde)
    assert torch.equal(copy, x_tilde.flatten(1)) and rest is None

    copy, rest = ContextSpec(features=2).split(features)
    assert copy is None and torch.equal(rest, features)
