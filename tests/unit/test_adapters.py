"""Densities of other libraries by configuration: the contract, what is refused and why, training, saving."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch
from pydantic import ValidationError

import smoothgen
from smoothgen.dequantization import build_density
from smoothgen.errors import ConfigError, DependencyError, WrapError
from smoothgen.event import EventSpec
from smoothgen.testing import check
from smoothgen.testing.material import LEVELS, LINE, PLANE, context_spec
from smoothgen_adapters import arguments, nflows_flow, normflows_flow, zuko_flow
from smoothgen_adapters.nflows_flow import NflowsConfig
from smoothgen_adapters.normflows_flow import NormflowsConfig
from smoothgen_adapters.torch_distribution import TorchDistributionConfig
from smoothgen_adapters.zuko_flow import ZukoConfig

BRANCHES = "its splines index by which values are inside their bound"
SMALL = {
    "zuko": ZukoConfig(arguments={"transforms": 2, "hidden_features": [16], "bins": 4}),
    "nflows": NflowsConfig(  # its splines start so steep that the contract's grid cannot follow them
        flow="MaskedAffineAutoregressiveTransform",
        layers=2,
        encoder=(16,),
        arguments={"hidden_features": 16, "num_blocks": 1},
    ),
    "normflows": NormflowsConfig(
        layers=2, encoder=(16,), arguments={"num_hidden_channels": 16, "num_blocks": 1, "num_bins": 4}
    ),
    "torch": TorchDistributionConfig(components=2, hidden=(16,)),
}
EXCUSED = {
    "zuko": {"compiles": "it builds distributions and transforms anew in every call"},
    "nflows": {},
    "normflows": {"compiles": BRANCHES, "meta": BRANCHES},
    "torch": {},
}


def needs(tag: str) -> None:
    if tag in ("zuko", "nflows"):
        pytest.importorskip(tag, reason=f"{tag} is not installed: extra {'peers' if tag == 'zuko' else 'bench'}")


@pytest.mark.slow
@pytest.mark.parametrize("tag", SMALL)
def test_the_contract_is_kept(tag):
    needs(tag)
    report = check(SMALL[tag], events=[PLANE], leave_out=EXCUSED[tag], noise=0.03, accuracy=1e-4)
    held = {finding.law for finding in report.findings if finding.outcome == "holds"}
    assert {"mass", "samples", "context-reaches", "saved", "gradient", "bfloat16", "learns"} <= held


@pytest.mark.parametrize("context", ["no context", "noisy copy + features"])
@pytest.mark.parametrize(
    "config",
    [
        *(ZukoConfig(flow=name, arguments={"hidden_features": [8]}) for name in ("MAF", "RealNVP", "BPF", "GMM")),
        *(NflowsConfig(flow=name, layers=2, mixing="ReversePermutation") for name in list(nflows_flow.ARGUMENTS)[:4:2]),
        NflowsConfig(flow="SimpleRealNVP", arguments={"num_layers": 2, "activation": "elu"}),
        *(NormflowsConfig(flow=name, layers=2) for name in ("MaskedAffineAutoregressive", "MaskedAffineFlow")),
        TorchDistributionConfig(distribution="StudentT", arguments={"df": 3}),
        TorchDistributionConfig(distribution="LowRankMultivariateNormal", components=2, arguments={"rank": 1}),
    ],
    ids=lambda config: f"{config.type}-{getattr(config, 'flow', None) or config.distribution}",
)
def test_every_kind_builds_and_draws(config, context):
    needs(config.type)
    given = context_spec(context, PLANE)
    if given is not None and getattr(config, "flow", "") in ("SimpleRealNVP", "MaskedAffineFlow"):
        with pytest.raises(ConfigError, match=r"takes no context.*choose flow"):
            config.build(PLANE, given)
        return
    model = config.build(PLANE, given)
    rows = None if given is None else torch.randn(6, *given.shape)
    draws = model.sample(6, rows)
    assert draws.shape == (6, 2) and model.log_prob(draws, rows).isfinite().all()


@pytest.mark.parametrize(
    ("cls", "keys", "message"),
    [
        (
            ZukoConfig,
            {"flow": "NSF", "arguments": {"bin": 4}},
            'takes no argument bin; did you mean "bins".*transforms',
        ),
        (
            ZukoConfig,
            {"arguments": {"univariate": "os.system"}},
            "univariate of zuko's NSF is set by smoothgen: it is code",
        ),
        (ZukoConfig, {"arguments": {"bins": "4"}}, "bins of zuko's NSF must be a whole number from 2, got '4'"),
        (ZukoConfig, {"flow": "os.system"}, "flow"),
        (ZukoConfig, {"arguments": {"activation": "exec"}}, "must be one of relu, elu, silu, tanh"),
        (NflowsConfig, {"arguments": {"tails": "circular"}}, "tails .* linear, as the density has to be positive"),
        (NflowsConfig, {"flow": "SimpleRealNVP", "layers": 3}, "whole flow: set arguments.num_layers"),
        (NormflowsConfig, {"arguments": {"num_blocks": 0}}, "must be a whole number from 1, got 0"),
        (TorchDistributionConfig, {"arguments": {"loc": 1.0}}, "loc of torch's MultivariateNormal .*: it is learned"),
        (TorchDistributionConfig, {"allow": ["shapes"]}, 'no fault is called "shapes"; did you mean "shape"'),
    ],
)
def test_what_a_configuration_may_not_say(cls, keys, message):
    with pytest.raises(ValidationError, match=message):
        cls(**keys)


def test_what_is_allowed_is_what_the_libraries_take():
    """A name that no constructor takes would fail when a flow is built."""
    needs("nflows")
    needs("zuko")
    import nflows.flows
    import nflows.nn.nets
    import nflows.transforms
    import normflows
    import zuko

    def takes(*callables) -> set[str]:
        return {name for each in callables for name in inspect.signature(each).parameters}

    shared = takes(
        zuko.flows.MAF, zuko.flows.NICE, zuko.flows.MaskedAutoregressiveTransform, zuko.nn.MLP, zuko.nn.MaskedMLP
    ) | takes(zuko.flows.CNF, zuko.flows.FFJTransform)
    for name, allowed in zuko_flow.ARGUMENTS.items():
        assert set(allowed) <= shared | takes(getattr(zuko.flows, name)), name
    for name, allowed in nflows_flow.ARGUMENTS.items():
        home = nflows.flows if name in nflows_flow.WHOLE else nflows.transforms
        assert set(allowed) <= takes(getattr(home, name), nflows.nn.nets.ResidualNet), name
    for name, allowed in normflows_flow.ARGUMENTS.items():
        if name != "MaskedAffineFlow":
            assert set(allowed) <= takes(getattr(normflows.flows, name)), name
    assert set(arguments.ACTIVATIONS) == set(arguments.FUNCTIONS)


def test_a_coupling_of_one_coordinate_is_refused():
    for config in (SMALL["normflows"], ZukoConfig(flow="RealNVP"), NflowsConfig(flow="AffineCouplingTransform")):
        with pytest.raises(ConfigError, match="needs at least 2; the event has shape"):
            config.build(LINE)


@pytest.mark.parametrize(("tag", "extra"), [("zuko", "peers"), ("nflows", "bench")])
def test_a_missing_library_is_named_with_its_extra(tag, extra, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == tag]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, tag, None)
    with pytest.raises(DependencyError, match=rf"density {tag} needs {tag}.*smoothgen\[{extra}\]"):
        SMALL[tag].build(PLANE)


def test_a_fault_that_arguments_cause_is_named_and_can_be_accepted():
    needs("nflows")
    keys = {"flow": "MaskedAutoregressiveFlow", "arguments": {"num_layers": 2, "batch_norm_between_layers": True}}
    with pytest.raises(WrapError, match="batch: in training mode"):
        NflowsConfig(**keys).build(PLANE)
    assert NflowsConfig(**keys, allow=("batch",)).build(PLANE).event == PLANE


def test_the_first_coordinate_sees_the_context_through_the_base():
    needs("nflows")
    context = context_spec("features", PLANE)
    flow = "MaskedAffineAutoregressiveTransform"
    for config in (
        NflowsConfig(flow=flow, layers=1, mixing="none"),
        NormflowsConfig(flow="MaskedAffineAutoregressive", layers=1, mixing="none"),
    ):
        assert config.build(EventSpec(shape=(3,)), context).context == context


def test_levels_are_dequantised():
    model = build_density(SMALL["torch"], LEVELS)
    assert model.measure == "discrete" and model.log_prob(torch.zeros(3, 2)).shape == (3,)


@pytest.mark.parametrize("tag", SMALL)
def test_an_experiment_trains_saves_and_loads(tag, tmp_path):
    needs(tag)
    density = SMALL[tag].model_dump(mode="json")
    result = smoothgen.fit(
        {
            "data": {"type": "moons", "train_size": 200, "validation_size": 50, "test_size": 50},
            "kernel": {"type": "gaussian", "sigma": 0.3},
            "density": density,
            "inverter": {"type": "conditional", "density": density},
            "trainer": {"max_steps": 3, "batch_size": 32, "warmup_steps": 1},
            "evaluate": {"metrics": ["elbo"], "importance_samples": [2], "max_examples": 20, "importance_examples": 5},
        },
        tmp_path / "run",
    )
    result.model.save_pretrained(tmp_path / "saved")
    loaded = smoothgen.SmoothedModel.from_pretrained(tmp_path / "saved")
    x = torch.randn(7, 2)
    values = [m.log_prob(x, generator=torch.Generator().manual_seed(1)) for m in (result.model.eval(), loaded)]
    assert torch.equal(*values)
    assert loaded.sample(4).shape == (4, 2)
