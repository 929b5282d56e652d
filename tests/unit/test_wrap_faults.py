"""Every fault that `wrap` names is found where it is planted, by its name, and nothing is found where nothing is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributions as D

import smoothgen
from smoothgen import ContextSpec, EventSpec
from smoothgen.errors import ConfigError, WrapError
from smoothgen.wrapping import FAULTS
from smoothgen.wrapping.foreign import Foreign, recognise
from smoothgen.wrapping.probe import examine
from smoothgen.wrapping.wrapped_density import WrappedDensity

PLANE = EventSpec(shape=(2,))
SPEC = ContextSpec(noisy_copy=(2,), noise_std=(0.5, 0.5), features=1)


class Affine(nn.Module):
    """A sound conditional density of two coordinates, z = (x - loc(c)) / scale(c): what the faults are planted in."""

    def __init__(self, dimensions: int = 2, features: int = 3) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, 2 * dimensions))
        self.dimensions = dimensions

    def parts(self, context: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.network(context).chunk(2, 1)
        return loc, raw.tanh()

    def terms(self, x: Tensor, context: Tensor) -> Tensor:
        loc, log_scale = self.parts(context)
        return -0.5 * ((x - loc) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2.0 * math.pi)

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        return self.terms(x, context).sum(1)

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn_like(like)

    def sample(self, num_samples: int, context: Tensor) -> Tensor:
        loc, log_scale = self.parts(context)
        return loc + log_scale.exp() * self.noise(loc)


class Column(Affine):
    def log_prob(self, x, context):
        return super().log_prob(x, context)[:, None]


class EveryCoordinate(Affine):
    def log_prob(self, x, context):
        return self.terms(x, context)


class Summed(Affine):
    def log_prob(self, x, context):
        return super().log_prob(x, context).sum()


class SummedAndSpread(Affine):
    def log_prob(self, x, context):
        return super().log_prob(x, context).sum().expand(len(x))


class Bounded(Affine):
    def log_prob(self, x, context):
        return torch.where((x > 0).all(1), super().log_prob(x, context), -math.inf)


class AlwaysDropout(Affine):
    def parts(self, context):
        return super().parts(nn.functional.dropout(context, 0.3, training=True))


class Centred(Affine):
    def terms(self, x, context):
        return super().terms(x - 0.3 * x.mean(0), context)


class BatchNormalised(Affine):
    def __init__(self):
        super().__init__()
        self.network.insert(1, nn.BatchNorm1d(16))


class Uncopied(Affine):
    def __deepcopy__(self, memo):
        raise TypeError("this module keeps an open file")


class OnlyFloat32(Affine):
    def log_prob(self, x, context):
        return super().log_prob(x, context).float()


class Float32Inside(Affine):
    def log_prob(self, x, context):
        return super().log_prob(x.float().double(), context.float().double()).to(x.dtype)


class Float32Weights(Affine):
    def parts(self, context):
        return super().parts(context.to(torch.float32))


class ConstantOnTheCPU(Affine):
    def terms(self, x, context):
        return super().terms(x + torch.zeros(2, dtype=x.dtype), context)


class StrayTensor(Affine):
    """Branches on values, as nflows does: the meta device cannot tell."""

    def __init__(self):
        super().__init__()
        self.shift = torch.full((2,), 0.1)

    def parts(self, context):
        loc, log_scale = super().parts(context)
        return (loc + self.shift if bool(context.max() < 1e9) else loc), log_scale


class LearnsOutside(Affine):
    def __init__(self):
        super().__init__()
        self.hidden = [torch.zeros(2, requires_grad=True)]

    def parts(self, context):
        loc, log_scale = super().parts(context)
        return loc + self.hidden[0].to(loc), log_scale


class Idle(Affine):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)


class Detached(Affine):
    def log_prob(self, x, context):
        return super().log_prob(x.detach(), context)


class HalfDetached(Affine):
    def terms(self, x, context):
        return super().terms(torch.cat([x[:, :1].detach(), x[:, 1:]], 1), context)


class ContextIgnored(Affine):
    def parts(self, context):
        return super().parts(torch.zeros_like(context))


class OneNumberIgnored(Affine):
    def parts(self, context):
        return super().parts(context * context.new_tensor([1.0, 1.0, 0.0]))


class FirstIgnores(Affine):
    def parts(self, context):
        (loc, log_scale), (fixed, fixed_scale) = super().parts(context), super().parts(torch.zeros_like(context))
        return torch.cat([fixed[:, :1], loc[:, 1:]], 1), torch.cat([fixed_scale[:, :1], log_scale[:, 1:]], 1)


class OnlyShifts(Affine):
    def parts(self, context):
        loc, _ = super().parts(context)
        return loc, torch.zeros_like(loc)


class NoSample(Affine):
    sample = None


class FailingSample(Affine):
    def sample(self, num_samples, context):
        raise NotImplementedError("no inverse")


class OneForAll(Affine):
    def sample(self, num_samples, context):
        return super().sample(num_samples, context)[:1]


class Numpy(Affine):
    def noise(self, like):
        return torch.from_numpy(np.random.standard_normal(like.shape)).to(like)


class TooWide(Affine):
    def noise(self, like):
        return 1.1 * torch.randn_like(like)


class RowsAstray(Affine):
    def sample(self, num_samples, context):
        return super().sample(num_samples, context.roll(1, 0))


class NotNormalised(Affine):
    def log_prob(self, x, context):
        return super().log_prob(x, context) + 0.02


PLANTED = [
    (Column, "shape"),
    (EveryCoordinate, "shape"),
    (Summed, "summed"),
    (SummedAndSpread, "summed"),
    (Bounded, "not-finite"),
    (AlwaysDropout, "random"),
    (Centred, "batch"),
    (BatchNormalised, "batch"),
    (Uncopied, "copy"),
    (OnlyFloat32, "dtype"),
    (Float32Inside, "dtype"),
    (Float32Weights, "dtype"),
    (ConstantOnTheCPU, "device"),
    (StrayTensor, "device"),
    (LearnsOutside, "parameters"),
    (Idle, "idle-parameters"),
    (Detached, "gradient"),
    (HalfDetached, "gradient"),
    (ContextIgnored, "context-ignored"),
    (OneNumberIgnored, "context-partial"),
    (FirstIgnores, "context-reach"),
    (OnlyShifts, "context-location"),
    (NoSample, "no-sampler"),
    (FailingSample, "no-sampler"),
    (OneForAll, "sample-shape"),
    (Numpy, "generator"),
    (TooWide, "samples"),
    (RowsAstray, "samples"),
    (NotNormalised, "mass"),
]
FOLLOWS = {
    Detached: {"idle-parameters"},
    AlwaysDropout: {"generator"},
    Float32Inside: {"gradient"},
    Centred: {"gradient", "samples"},
}
"""What a fault brings with it."""


class Shifted(Foreign):
    """A flow that shows its transform, z = a x + b tanh(x): sound, or with a wrong inverse, sign or log-determinant."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.scale, self.wrong = nn.Parameter(torch.tensor([0.5, 2.0])), wrong

    def to_noise(self, r, context):
        return self.scale * r

    def from_noise(self, z, context):
        return (z + 0.1 if self.wrong == "inverse" else z) / self.scale

    def noise_log_prob(self, z, context):
        return D.Independent(D.Normal(torch.zeros_like(z), torch.ones_like(z)), 1).log_prob(z)

    def log_prob(self, r, context):
        log_determinant = self.scale.abs().log().sum() + self.scale.abs().prod() - self.scale.abs().prod()
        factor = {"sign": -1.0, "value": 1.2}.get(self.wrong, 1.0)
        return self.noise_log_prob(self.to_noise(r, context), context) + factor * (log_determinant + 0.0)

    def draw(self, num_samples, context):
        return torch.randn(num_samples, 2).to(self.scale) / self.scale


def found(flow: object, event: EventSpec = PLANE, context: ContextSpec | None = SPEC) -> dict[str, str]:
    torch.manual_seed(0)
    foreign = flow if isinstance(flow, Foreign) else recognise(flow)
    return {fault.name: fault.detail for fault in examine(WrappedDensity(foreign, event, context, True, True))}


@pytest.mark.parametrize("dimensions", [1, 2, 3, 70])
def test_a_sound_density_has_no_fault(dimensions):
    torch.manual_seed(0)
    spec = ContextSpec(features=3)
    assert found(Affine(dimensions), EventSpec(shape=(dimensions,)), spec) == {}


@pytest.mark.parametrize(("cls", "name"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_is_named(cls, name):
    torch.manual_seed(0)
    names = set(found(cls()))
    assert name in names and names - {name} <= FOLLOWS.get(cls, set())
    with pytest.raises(WrapError, match=f'{name}: .*accept it by allow=.*"{name}"'):
        smoothgen.wrap(cls(), PLANE, SPEC)
    assert smoothgen.wrap(cls(), PLANE, SPEC, allow=(name, *FOLLOWS.get(cls, ()))).event == PLANE


@pytest.mark.parametrize(("wrong", "name"), [("inverse", "inverse"), ("sign", "log-det"), ("value", "log-det")])
def test_a_wrong_transform_is_named(wrong, name):
    flow = Shifted(wrong)
    with torch.no_grad():
        flow.scale.mul_(1.7)  # a determinant of one would hide its sign
    names = found(flow, PLANE, None)
    assert name in names and ("sign is wrong" in names[name]) == (wrong == "sign")
    assert found(Shifted("nothing"), PLANE, None) == {}


@pytest.mark.parametrize("cls", [TooWide, RowsAstray])
def test_a_wrong_sampler_in_many_coordinates_is_named(cls):
    torch.manual_seed(0)
    assert set(found(cls(5, 3), EventSpec(shape=(5,)), ContextSpec(features=3))) == {"samples"}


def test_every_fault_is_planted_somewhere():
    assert {name for _, name in PLANTED} | {"inverse", "log-det"} == set(FAULTS)


def test_accepted_shapes_are_mended():
    torch.manual_seed(0)
    sound = Affine()
    x, context = torch.randn(5, 2), torch.randn(5, 3)
    expected = smoothgen.wrap(sound, PLANE, SPEC).log_prob(x, context)
    for cls, name in PLANTED[:4]:
        other = cls()
        other.load_state_dict(sound.state_dict())
        value = smoothgen.wrap(other, PLANE, SPEC, allow=(name,)).log_prob(x, context)
        assert torch.allclose(value, expected, atol=1e-5)


def test_a_density_without_a_sampler_says_so_when_asked():
    model = smoothgen.wrap(NoSample(), PLANE, SPEC, allow="no-sampler")
    with pytest.raises(WrapError, match="NoSample has no method sample; it was accepted"):
        model.sample(3, torch.randn(3, 3))


def test_looking_changes_nothing():
    flow = BatchNormalised()
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    smoothgen.wrap(flow, PLANE, SPEC, allow=("batch",))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    assert flow.training


def test_wrong_requests_are_refused():
    with pytest.raises(ConfigError, match='no fault is called "contextreach"; did you mean "context-reach"'):
        smoothgen.wrap(Affine(), PLANE, SPEC, allow=("contextreach",))
    with pytest.raises(WrapError, match="Linear: log_prob of 2 coordinates fails"):
        smoothgen.wrap(nn.Linear(2, 2), PLANE)
    with pytest.raises(WrapError, match="function is no density that can be wrapped; give a flow"):
        smoothgen.wrap(lambda context: D.Normal(0, 1), PLANE)
    with pytest.raises(WrapError, match="is a density of smoothgen already"):
        smoothgen.wrap(smoothgen.wrap(Affine(), PLANE, SPEC), PLANE, SPEC)
    with pytest.raises(WrapError, match="log_prob of 3 coordinates given 3 numbers fails"):
        smoothgen.wrap(Affine(2), (3,), ContextSpec(features=3))
