"""Sound flows of the four libraries pass `wrap`; what a library really gets wrong is named."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import distributions as D
from torch import nn

import smoothgen
from smoothgen import ContextSpec, EventSpec
from smoothgen.dequantization import UniformDequantization
from smoothgen.errors import WrapError

nf = pytest.importorskip("normflows")


def spec(dimensions: int) -> ContextSpec:
    """A noisy copy and one feature."""
    return ContextSpec(noisy_copy=(dimensions,), noise_std=(0.5,) * dimensions, features=1)


def normflows_maf(dimensions: int, context: int | None, layers: int = 2, **settings) -> nn.Module:
    flows = []
    for _ in range(layers):
        flows += [
            nf.flows.MaskedAffineAutoregressive(dimensions, 16, context_features=context, num_blocks=1, **settings),
            nf.flows.Permute(dimensions, mode="swap"),
        ]
    base = nf.distributions.DiagGaussian(dimensions)
    return (nf.NormalizingFlow if context is None else nf.ConditionalNormalizingFlow)(base, flows)


def normflows_spline(dimensions: int, context: int | None) -> nn.Module:
    flows = []
    for index in range(2):
        flows += [
            nf.flows.CoupledRationalQuadraticSpline(
                dimensions, 1, 16, num_context_channels=context, reverse_mask=bool(index)
            ),
            nf.flows.LULinearPermute(dimensions),
        ]
    base = nf.distributions.DiagGaussian(dimensions)
    return (nf.NormalizingFlow if context is None else nf.ConditionalNormalizingFlow)(base, flows)


def normflows_realnvp(dimensions: int) -> nn.Module:
    flows = []
    for index in range(2):
        mask = (torch.arange(dimensions) + index) % 2
        nets = [nf.nets.MLP([dimensions, 16, dimensions], init_zeros=True) for _ in range(2)]
        flows += [nf.flows.MaskedAffineFlow(mask.float(), *nets), nf.flows.ActNorm(dimensions)]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(dimensions), flows)


def nflows_maf(dimensions: int, context: int | None, layers: int = 2, **settings) -> nn.Module:
    pytest.importorskip("nflows", reason="nflows is not installed: extra bench")
    from nflows import distributions, flows, transforms

    parts = []
    for _ in range(layers):
        parts += [
            transforms.ReversePermutation(dimensions),
            transforms.MaskedAffineAutoregressiveTransform(
                dimensions, 16, context_features=context, num_blocks=1, **settings
            ),
        ]
    return flows.Flow(transforms.CompositeTransform(parts), distributions.StandardNormal([dimensions]))


def nflows_spline(dimensions: int, context: int) -> nn.Module:
    pytest.importorskip("nflows", reason="nflows is not installed: extra bench")
    from nflows import distributions, flows, transforms

    parts = []
    for _ in range(2):
        parts += [
            transforms.ReversePermutation(dimensions),
            transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                dimensions, 16, context_features=context, num_bins=4, tails="linear", tail_bound=5.0
            ),
        ]
    return flows.Flow(transforms.CompositeTransform(parts), distributions.StandardNormal([dimensions]))


def nflows_batch_norm() -> nn.Module:
    pytest.importorskip("nflows", reason="nflows is not installed: extra bench")
    from nflows.flows import MaskedAutoregressiveFlow

    return MaskedAutoregressiveFlow(3, 16, 2, 1, batch_norm_between_layers=True)


def zuko_flow(name: str, dimensions: int, context: int | None, **settings) -> nn.Module:
    zuko = pytest.importorskip("zuko", reason="zuko is not installed: extra peers")
    return getattr(zuko.flows, name)(dimensions, context or 0, **settings)


class Conditional(nn.Module):
    """A torch distribution of a context, as a user writes it."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.network = nn.Linear(context, 4)

    def forward(self, context):
        loc, log_scale = self.network(context).chunk(2, -1)
        return D.Independent(D.Laplace(loc, log_scale.exp()), 1)


SOUND = {
    "normflows MAF, 2": (lambda: normflows_maf(2, 3), 2, True),
    "normflows MAF, 3": (lambda: normflows_maf(3, None), 3, False),
    "normflows spline, 2": (lambda: normflows_spline(2, 3), 2, True),
    "normflows spline, 4": (lambda: normflows_spline(4, None), 4, False),
    "normflows RealNVP with ActNorm": (lambda: normflows_realnvp(2), 2, False),
    "nflows MAF, 1": (lambda: nflows_maf(1, None), 1, False),
    "nflows MAF, 3": (lambda: nflows_maf(3, 4), 3, True),
    "nflows spline, 2": (lambda: nflows_spline(2, 3), 2, True),
    "nflows MAF with dropout": (lambda: nflows_maf(2, None, dropout_probability=0.5), 2, False),
    "zuko NSF, 1": (lambda: zuko_flow("NSF", 1, 2, hidden_features=(16,)), 1, True),
    "zuko NSF, 4": (lambda: zuko_flow("NSF", 4, 5, transforms=2, hidden_features=(16,)), 4, True),
    "zuko MAF, 2": (lambda: zuko_flow("MAF", 2, 3, hidden_features=(16,)), 2, True),
    "zuko GMM": (lambda: zuko_flow("GMM", 2, 3, components=3), 2, True),
    "torch normal": (lambda: D.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])), 2, False),
    "torch Cauchy": (lambda: D.Independent(D.Cauchy(torch.zeros(2), torch.ones(2)), 1), 2, False),
    "torch mixture": (
        lambda: D.MixtureSameFamily(
            D.Categorical(torch.ones(2)), D.Independent(D.Normal(torch.tensor([[-2.0, 0], [2, 1]]), 0.5), 1)
        ),
        2,
        False,
    ),
    "torch transformed": (
        lambda: D.TransformedDistribution(
            D.Independent(D.Normal(torch.zeros(3), 1.0), 1), [D.AffineTransform(1.0, torch.tensor([1.0, 2, 3]), 1)]
        ),
        3,
        False,
    ),
    "torch of a context": (lambda: Conditional(3), 2, True),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_flow_passes(name):
    torch.manual_seed(0)
    make, dimensions, conditional = SOUND[name]
    context = spec(dimensions) if conditional else None
    model = smoothgen.wrap(make(), (dimensions,), context)
    x = torch.randn(40, dimensions)
    given = torch.randn(40, dimensions + 1) if conditional else None
    model.initialize(x, given)
    model.eval()
    value = model.log_prob(x, given)
    assert value.shape == (40,) and value.isfinite().all()
    draws = [model.sample(40, given, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert draws[0].shape == x.shape and torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    twin = copy.deepcopy(model).double()
    assert torch.allclose(
        twin.log_prob(x.double(), None if given is None else given.double()).float(), value, atol=1e-3
    )
    model.load_state_dict({key: tensor.clone() for key, tensor in model.state_dict().items()})


WRONG = {
    "nflows' MADE keeps the context from the first coordinate": (
        lambda: nflows_maf(3, 4, layers=1),
        3,
        True,
        "context-reach",
    ),
    "normflows' MADE too": (lambda: normflows_maf(3, 4, layers=1), 3, True, "context-reach"),
    "normflows' MADE, one coordinate, batch norm": (
        lambda: normflows_maf(3, None, use_batch_norm=True),
        3,
        False,
        "batch",
    ),
    "nflows' batch norm": (nflows_batch_norm, 3, False, "batch"),
    "a distribution of single coordinates": (lambda: D.Normal(torch.zeros(2), torch.ones(2)), 2, False, "shape"),
    "learned tensors in no module": (
        lambda: D.Independent(D.Normal(torch.zeros(2, requires_grad=True), 1.0), 1),
        2,
        False,
        "parameters",
    ),
    "a positive distribution": (
        lambda: D.Independent(D.Gamma(2 * torch.ones(2), 1.0, validate_args=False), 1),
        2,
        False,
        "not-finite",
    ),
    "a distribution given a context": (
        lambda: D.MultivariateNormal(torch.zeros(2), torch.eye(2)),
        2,
        True,
        "context-ignored",
    ),
    "zuko's circular splines": (lambda: zuko_flow("NCSF", 2, None, hidden_features=(16,)), 2, False, "mass"),
    "an exponential below zero": (
        lambda: D.Independent(D.Gamma(torch.ones(1), 1.0, validate_args=False), 1),
        1,
        False,
        "mass: exp.log_prob. integrates to .*e",
    ),
    "a base without a gradient": (
        lambda: nf.NormalizingFlow(nf.distributions.DiagGaussian(2), [nf.flows.Planar(2)]),
        2,
        False,
        "fails",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_library_gets_wrong_is_named(name):
    torch.manual_seed(0)
    make, dimensions, conditional, fault = WRONG[name]
    flow = make()
    with pytest.raises(WrapError, match=fault):
        smoothgen.wrap(flow, (dimensions,), spec(dimensions) if conditional else None)


def test_the_blind_coordinate_is_the_first_and_can_be_accepted():
    torch.manual_seed(0)
    flow = normflows_maf(3, 4, layers=1)
    # in normflows the swap stands next to the data: the first of the flow is the last of the data
    with pytest.raises(WrapError, match=r"context-reach: coordinates \[2\] do not react"):
        smoothgen.wrap(flow, (3,), spec(3))
    assert smoothgen.wrap(flow, (3,), spec(3), allow=("context-reach",)).context == spec(3)


def test_values_are_those_of_the_library():
    """Before anything is measured on data, and around a noisy copy once its noise is known."""
    distribution = D.MultivariateNormal(torch.tensor([1.0, -1.0]), torch.tensor([[2.0, 0.3], [0.3, 0.5]]))
    model = smoothgen.wrap(distribution, (2,), standardize=False)
    x = torch.randn(6, 2)
    assert torch.allclose(model.log_prob(x), distribution.log_prob(x), atol=1e-6)
    assert torch.allclose(model.double().log_prob(x.double()).float(), distribution.log_prob(x), atol=1e-5)
    model.float().initialize(3.0 + 2.0 * torch.randn(1000, 2))
    assert torch.allclose(model.log_prob(x), distribution.log_prob(x), atol=1e-6), "it came as it is, and stays"
    flow = Conditional(3)
    anchored = smoothgen.wrap(flow, (2,), spec(2))
    context = torch.randn(6, 3)
    expected = flow(context).log_prob((x - context[:, :2]) / 0.5) - 2.0 * math.log(0.5)
    assert torch.allclose(anchored.log_prob(x, context), expected, atol=1e-5)
    free = smoothgen.wrap(flow, (2,), spec(2), anchor=False)
    assert torch.allclose(free.log_prob(x, context), flow(context).log_prob(x), atol=1e-5)


def test_pictures_reach_a_library_in_the_shape_it_takes():
    event = EventSpec(shape=(1, 2, 2))
    shaped = smoothgen.wrap(D.Independent(D.Normal(torch.zeros(1, 2, 2), 1.0), 3), event)
    flat = smoothgen.wrap(D.Independent(D.Normal(torch.zeros(4), 1.0), 1), event)
    x = torch.randn(5, 1, 2, 2)
    assert torch.allclose(shaped.log_prob(x), flat.log_prob(x))
    assert shaped.sample(3).shape == flat.sample(3).shape == (3, 1, 2, 2)


def test_levels_are_dequantised():
    event = EventSpec(shape=(2,), low=0.0, high=3.0, levels=4)
    model = smoothgen.wrap(normflows_maf(2, None), event)
    assert isinstance(model, UniformDequantization) and model.measure == "discrete"
    x = event.quantize(4.0 * torch.rand(20, 2))
    model.initialize(x)
    assert model.log_prob(x).isfinite().all()
    event.check(model.sample(10))
