"""What every kernel shares: refusals word for word, sigma and its configuration, the median rule on known distances."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor, nn

from smoothgen.density_model import DensityModel
from smoothgen.errors import ConfigError, NoClosedFormError, ShapeError
from smoothgen.event import EventSpec
from smoothgen.noise_kernel import (
    AnyNoiseKernel,
    NoiseKernel,
    NoiseKernelConfig,
    ProductKernel,
    ScaledKernelConfig,
    median_sigma,
)
from smoothgen_kernels import smoothgen_components
from smoothgen_kernels.gaussian import GaussianConfig, GaussianKernel
from smoothgen_kernels.laplace import LaplaceConfig, LaplaceKernel
from smoothgen_kernels.uniform import UniformConfig, UniformKernel

pytestmark = pytest.mark.usefixtures("float64")

CUBE = EventSpec(shape=(3,))
PICTURE = EventSpec(shape=(1, 2, 2))
CONFIGS = {"gaussian": GaussianConfig, "laplace": LaplaceConfig, "uniform": UniformConfig}
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


class Whole(NoiseKernel):
    """A kernel that only does what it must: the same noise in every coordinate."""

    @property
    def sigma(self) -> Tensor:
        return torch.ones(1)

    def _sample(self, x: Tensor, generator: Generator | None) -> Tensor:
        return x + torch.randn(len(x), 1, generator=generator)

    def _log_prob(self, x_tilde: Tensor, x: Tensor) -> Tensor:
        return -0.5 * (x_tilde - x)[:, 0].square()


class Flat(DensityModel):
    """log p = 0 everywhere."""

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return 0.0 * x.flatten(1).sum(1)

    def _sample(self, num_samples: int, context: Tensor | None, generator: Generator | None) -> Tensor:
        raise NotImplementedError


def message(error: type[Exception], call) -> str:
    with pytest.raises(error) as refusal:
        call()
    return str(refusal.value)


# --- a kernel that a plugin leaves bare -------------------------------------------------------------------------------


def test_what_a_kernel_does_not_have_is_refused_with_the_way_out():
    kernel, x = Whole(CUBE), torch.zeros(2, 3)
    assert message(NoClosedFormError, lambda: kernel.posterior_mean(x, Flat(CUBE))) == (
        "Whole has no empirical-Bayes formula; invert with p(x | x_tilde) (inverter type: conditional), "
        "or use a gaussian kernel"
    )
    assert message(NoClosedFormError, lambda: kernel.log_prob_each(x, x)) == (
        "Whole gives no density for each coordinate, which needs noise that is independent between coordinates; "
        "use one of the gaussian, laplace or uniform kernels"
    )
    kernel.check_posterior_mean = lambda smoothed, score="full": None
    assert message(NoClosedFormError, lambda: kernel.posterior_mean(x, Flat(CUBE))) == (
        "Whole has no empirical-Bayes formula"
    )


@pytest.mark.parametrize("missing", ["sigma", "_sample", "_log_prob"])
def test_a_kernel_needs_sigma_noise_and_density(missing):
    complete = {name: vars(Whole)[name] for name in ("sigma", "_sample", "_log_prob") if name != missing}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Unfinished", (NoiseKernel,), complete)(CUBE)


@pytest.mark.parametrize("missing", ["_standard_noise", "_standard_log_prob"])
def test_a_product_kernel_needs_its_standard_noise_and_density(missing):
    names = ("_standard_noise", "_standard_log_prob")
    complete = {name: vars(UniformKernel)[name] for name in names if name != missing}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Unfinished", (ProductKernel,), complete)(CUBE, 1.0)


def test_posterior_means_that_do_not_exist_say_why_and_what_to_do_instead():
    line, wide = EventSpec(shape=(1,)), EventSpec(shape=(11,))
    uniform, laplace = UniformConfig(sigma=0.5).build(line), LaplaceConfig(sigma=0.5)
    assert message(NoClosedFormError, lambda: uniform.check_posterior_mean(Flat(line))) == (
        "kernel uniform: its empirical-Bayes formula is a sum of density differences over the whole line, which "
        "a 1 % error of a learned density ruins (worse than not denoising at all on the thin rings); "
        "use inverter type: conditional, or a gaussian kernel"
    )
    assert message(NoClosedFormError, lambda: laplace.build(wide).check_posterior_mean(Flat(wide))) == (
        "kernel laplace: the posterior mean needs 64 densities per coordinate and is offered up to 10 coordinates, "
        "not 11; use inverter type: conditional, or a gaussian kernel"
    )
    assert message(NoClosedFormError, lambda: laplace.build(line).check_posterior_mean(Causal(line), "causal")) == (
        "kernel laplace has no causal score; use score: full, or a gaussian kernel"
    )


def test_every_way_in_names_the_tensor_of_the_wrong_shape():
    kernel, right, wrong = GaussianConfig(sigma=0.5).build(PICTURE), torch.zeros(5, 1, 2, 2), torch.zeros(5, 4)
    text = "GaussianKernel: {} must have shape (batch, 1, 2, 2), got (5, 4)"
    assert message(ShapeError, lambda: kernel.sample(wrong)) == text.format("x")
    for method in (kernel.log_prob, kernel.log_prob_each):
        assert message(ShapeError, lambda method=method: method(wrong, right)) == text.format("x_tilde")
        assert message(ShapeError, lambda method=method: method(right, wrong)) == text.format("x")
    assert message(ShapeError, lambda: kernel.posterior_mean(wrong, Flat(PICTURE))) == text.format("x_tilde")


def test_a_learnable_kernel_is_one_with_a_parameter_that_moves():
    kernel = GaussianConfig(sigma=0.5, learnable=True).build(CUBE)
    assert kernel.learnable and isinstance(kernel.log_sigma, nn.Parameter)
    assert kernel.log_sigma.shape == (1,)
    kernel.requires_grad_(False)
    assert not kernel.learnable
    fixed = GaussianConfig(sigma=0.5).build(PICTURE)
    assert not fixed.learnable and not isinstance(fixed.log_sigma, nn.Parameter)
    assert "log_sigma" in fixed.state_dict() and fixed.log_sigma.shape == (1, 1, 1)


def test_a_kernel_is_not_learnable_unless_asked():
    for kernel in (GaussianKernel, LaplaceKernel, UniformKernel):
        assert not kernel(CUBE, 0.5).learnable and kernel(CUBE, 0.5, learnable=True).learnable


def test_sigma_is_rounded_once_to_the_default_dtype():
    """The logarithm is taken in double precision, whatever the model computes in."""
    sigmas = (0.1, 0.2, 0.3, 0.7, 1.1, 1.3, 3.7, 9.9)
    torch.set_default_dtype(torch.float32)
    try:
        kernel = GaussianConfig(sigma=sigmas).build(EventSpec(shape=(8,)))
    finally:
        torch.set_default_dtype(torch.float64)
    assert kernel.log_sigma.dtype == torch.float32
    assert torch.equal(kernel.log_sigma, torch.tensor([math.log(s) for s in sigmas], dtype=torch.float32))
    in_single = torch.tensor(sigmas, dtype=torch.float32).log()
    assert not torch.equal(kernel.log_sigma, in_single), "the sigmas are such that it shows"


class Causal(Flat):
    """The paper's released code differentiates each coordinate's own conditional only: here that is 2 everywhere."""

    autoregressive = True

    def _causal_score(self, x: Tensor, context: Tensor | None) -> Tensor:
        return torch.full_like(x, 2.0)


def test_the_causal_score_is_used_where_it_is_asked_for():
    kernel, x = GaussianConfig(sigma=0.5).build(CUBE), torch.zeros(4, 3)
    assert torch.allclose(kernel.posterior_mean(x, Causal(CUBE), score="causal"), torch.full((4, 3), 0.25 * 2.0))
    assert torch.equal(kernel.posterior_mean(x, Causal(CUBE)), x)


class RandomBound(Flat):
    """A density whose log_prob is a random lower bound: it has no score of the whole joint."""

    exact = False


@pytest.mark.parametrize("config", [GaussianConfig, LaplaceConfig])
def test_a_density_without_a_score_is_refused_by_default(config):
    with pytest.raises(NoClosedFormError, match="random lower bound"):
        config(sigma=0.5).build(CUBE).check_posterior_mean(RandomBound(CUBE))


def test_the_default_score_is_the_whole_joint():
    """x_tilde + sigma^2 times the gradient of the joint, which for a flat density is x_tilde."""
    x = torch.randn(4, 3, generator=Generator().manual_seed(0))
    for kernel in (GaussianConfig(sigma=0.5).build(CUBE), LaplaceConfig(sigma=0.5).build(CUBE)):
        kernel.check_posterior_mean(Flat(CUBE))
        assert torch.allclose(kernel.posterior_mean(x, Flat(CUBE)), x, atol=1e-12)


class Tilted(Flat):
    """log p = slope . x, the same everywhere."""

    def __init__(self, event: EventSpec, slope: Tensor) -> None:
        super().__init__(event)
        self.slope = slope

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        return x.flatten(1) @ self.slope.to(x)


def test_posterior_means_where_the_density_is_exponential():
    """p(y) ~ exp(g . y): x = y + sigma^2 g for Gaussian noise, y + sigma^2 g / (1 - sigma^2 g^2 / 2) for Laplace's.

    E exp(g b u) = 1 / (1 - g b) for an exponential u; so E exp(g b u) - E exp(-g b u) = 2 g b / (1 - g^2 b^2).
    """
    sigma, slope = torch.tensor([0.5, 1.0, 0.2, 2.0]), torch.tensor([0.6, -0.3, 1.1, 0.1])
    y = torch.randn(5, 1, 2, 2, generator=Generator().manual_seed(2))
    density, numbers = Tilted(PICTURE, slope), tuple(sigma.tolist())
    step = sigma**2 * slope
    gaussian = GaussianConfig(sigma=numbers).build(PICTURE).posterior_mean(y, density)
    assert torch.allclose((gaussian - y).flatten(1), step.expand(5, 4), rtol=1e-10)
    laplace = LaplaceConfig(sigma=numbers).build(PICTURE).posterior_mean(y, density)
    assert torch.allclose((laplace - y).flatten(1), (step / (1.0 - 0.5 * step * slope)).expand(5, 4), rtol=1e-10)


def test_laplace_noise_allows_no_density_that_is_steeper_than_itself():
    """What was smoothed with it changes by at most |shift| / b: steeper claims count as that, on either side."""
    line, y = EventSpec(shape=(1,)), torch.zeros(1, 1)
    kernel, b = LaplaceConfig(sigma=math.sqrt(2.0)).build(line), 1.0
    steps = {
        g: kernel.posterior_mean(y, Tilted(line, torch.tensor([g / b]))).item() for g in (1.0, 2.0, 5.0, -1.0, -5.0)
    }
    assert math.isfinite(steps[1.0]) and steps[1.0] > b
    for g in (2.0, 5.0, -1.0, -5.0):
        assert steps[g] == pytest.approx(math.copysign(steps[1.0], g), rel=1e-9)


def test_a_kernel_prints_its_event_and_sigma():
    assert repr(GaussianConfig(sigma=0.25).build(CUBE)) == "GaussianKernel(event (3,), sigma 0.25)"
    assert repr(GaussianConfig(sigma=(0.1, 0.25, 0.2)).build(CUBE)) == "GaussianKernel(event (3,), sigma 0.1 to 0.25)"
    assert repr(GaussianConfig(sigma=0.25).build(CUBE).to("meta")) == "GaussianKernel(event (3,))"


@pytest.mark.parametrize("config", [GaussianConfig, LaplaceConfig])
def test_posterior_means_have_the_dtype_and_device_of_the_data(config):
    """Whatever the defaults are."""
    kernel = config(sigma=0.5).build(CUBE).float()
    x = torch.randn(4, 3, generator=Generator().manual_seed(0)).float()
    with torch.device("meta"):
        mean = kernel.posterior_mean(x, Flat(CUBE))
        noisy = kernel.sample(x)
    assert mean.dtype == noisy.dtype == torch.float32 and mean.device == noisy.device == x.device
    assert torch.allclose(mean, x, atol=1e-6)
    elsewhere = kernel.to("meta").posterior_mean(x.to("meta"), Flat(CUBE))
    assert elsewhere.device.type == "meta" and elsewhere.shape == x.shape


# --- densities in closed form -----------------------------------------------------------------------------------------

HALF = math.sqrt(3.0)
LOG_DENSITIES = {
    "gaussian": lambda z: -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi),
    "laplace": lambda z: -math.sqrt(2.0) * abs(z) - math.log(math.sqrt(2.0)),
    "uniform": lambda z: -math.log(2.0 * HALF) if abs(z) <= HALF else -math.inf,
}


@pytest.mark.parametrize("tag", CONFIGS)
def test_log_density_of_each_coordinate(tag):
    """Against the formula, coordinate by coordinate, with a sigma for each; log_prob is the sum."""
    sigma = (0.2, 0.5, 1.0, 3.0)
    kernel = CONFIGS[tag](sigma=sigma).build(PICTURE)
    z = torch.tensor([[0.3, -1.1, 1.7, 0.0], [2.0, 0.1, -0.4, -1.8]])
    x = 10.0 * torch.randn(2, 1, 2, 2, generator=Generator().manual_seed(1))
    x_tilde = x + (z * torch.tensor(sigma)).reshape(2, 1, 2, 2)
    expected = torch.tensor(
        [[LOG_DENSITIES[tag](v) - math.log(s) for v, s in zip(row, sigma, strict=True)] for row in z.tolist()]
    )
    each = kernel.log_prob_each(x_tilde, x)
    assert each.shape == (2, 1, 2, 2)
    assert torch.allclose(each.flatten(1), expected, rtol=1e-10)
    assert torch.allclose(kernel.log_prob(x_tilde, x), expected.sum(1), rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_edge_of_the_uniform_kernel_gives_way_by_rounding_only(dtype):
    """At x = 0 by some eps of the half-width; at a large x by the rounding of x + noise, 2 eps |x|, and no more."""
    eps, edge = torch.finfo(dtype).eps, 0.5 * HALF
    kernel = UniformConfig(sigma=0.5).build(EventSpec(shape=(1,))).to(dtype)

    def inside(x: float, noise: float) -> bool:
        at = torch.tensor([[x]], dtype=torch.float64)
        return bool(kernel.log_prob((at + noise).to(dtype), at.to(dtype)).isfinite())

    assert inside(0.0, edge) and inside(0.0, edge * (1.0 + 32.0 * eps))
    assert not inside(0.0, edge * (1.0 + 128.0 * eps))
    large = 2.0**12
    for x in (large, -large):
        assert inside(x, edge + 1.0 * eps * large) and inside(x, -edge - 1.0 * eps * large)
        assert not inside(x, edge + 4.0 * eps * large) and not inside(x, -edge - 4.0 * eps * large)
    unit = eps * large  # of the numbers above 2^12, so that x + noise is not rounded
    noise = (math.floor(edge / unit) + 3) * unit
    assert 2.1 * unit < noise - edge < 3.0 * unit and not inside(large, noise)


def test_no_coordinate_of_the_uniform_kernel_lies_outside_its_box():
    noise = UniformConfig(sigma=0.5).build(CUBE).sample(torch.zeros(20_000, 3), generator=Generator().manual_seed(0))
    edge = 0.5 * HALF
    assert noise.abs().max() <= edge and noise.max() > 0.999 * edge and noise.min() < -0.999 * edge


# --- configuration ----------------------------------------------------------------------------------------------------


def test_the_plugin_offers_its_kernels():
    assert smoothgen_components() == [GaussianConfig, LaplaceConfig, UniformConfig]
    assert [config.tag() for config in smoothgen_components()] == ["gaussian", "laplace", "uniform"]
    assert {config.interface for config in smoothgen_components()} == {"kernel"}


@EVERY_CONFIG
def test_a_configuration_builds_its_kernel(config):
    made = {GaussianConfig: GaussianKernel, LaplaceConfig: LaplaceKernel, UniformConfig: UniformKernel}[config]
    assert config(sigma=1.0).type == config.tag() and not config(sigma=1.0).learnable
    for learnable in (False, True):
        kernel = config(sigma=0.7, learnable=learnable).build(CUBE)
        assert type(kernel) is made and kernel.event == CUBE and kernel.learnable == learnable
        assert kernel.sigma.item() == pytest.approx(0.7)


@EVERY_CONFIG
def test_sigma_that_waits_says_what_for(config):
    assert message(ConfigError, lambda: config(sigma="auto").build(CUBE)) == (
        'kernel.sigma: "auto" is found by training the experiment whose own kernel this is: use smoothgen.fit '
        "(or smoothgen train), or give a number"
    )
    assert message(ConfigError, lambda: config(sigma="median").build(CUBE)) == (
        'kernel.sigma: "median" needs training data; build from a whole configuration'
    )
    assert message(ConfigError, lambda: config(sigma=(1.0, 2.0)).build(CUBE)) == (
        "kernel.sigma: 2 numbers for 3 coordinates"
    )


@EVERY_CONFIG
def test_sigma_in_a_configuration(config):
    assert config(sigma="auto").searches
    assert not config(sigma="median").searches and not config(sigma=0.3).searches
    found = config(sigma="auto", learnable=True).with_sigma(0.25)
    assert found == config(sigma=0.25, learnable=True) and not found.searches
    assert config(sigma=(1.0, 2.0)).number() == (1.0, 2.0)
    data = torch.tensor([[0.0], [3.0]])
    assert config(sigma="median", learnable=True).resolve(data) == config(sigma=1.5, learnable=True)
    for kept in (config(sigma=0.3), config(sigma="auto")):
        assert kept.resolve(data) is kept


def test_a_wrong_sigma_is_one_message():
    with pytest.raises(ValidationError) as refusal:
        GaussianConfig(sigma=-1.0)
    (problem,) = refusal.value.errors()
    assert problem["msg"] == 'must be a number above 0, one such number per coordinate, "median" or "auto"'
    assert (problem["loc"], problem["type"]) == (("sigma",), "sigma")
    assert refusal.value.__cause__ is None


def test_a_field_of_any_kernel_takes_the_registered_ones_by_their_tags():
    kernels = TypeAdapter(AnyNoiseKernel)
    for tag, config in CONFIGS.items():
        assert kernels.validate_python({"type": tag, "sigma": 0.3}) == config(sigma=0.3)
    for no_kernel in ("gausian", "made"):
        with pytest.raises(ValidationError, match="gaussian, laplace, uniform"):
            kernels.validate_python({"type": no_kernel, "sigma": 0.3})


def test_what_a_plugins_configuration_has_to_define():
    class Bare(NoiseKernelConfig):
        type: str = "bare"

    assert issubclass(ScaledKernelConfig, NoiseKernelConfig)
    assert Bare().searches is False
    assert message(TypeError, lambda: Bare().build(CUBE)) == "Bare must define build(event)"
    assert message(TypeError, lambda: Bare().with_sigma(1.0)) == (
        "Bare must define with_sigma(sigma) to be searched for"
    )


# --- the median rule --------------------------------------------------------------------------------------------------


def test_median_rule_of_two_points():
    """Distance 5 in three dimensions: 5 / (2 sqrt(3))."""
    assert median_sigma(torch.tensor([[0.0, 0.0, 1.0], [3.0, 4.0, 1.0]])) == pytest.approx(2.5 / math.sqrt(3.0))


def test_median_rule_takes_examples_spread_over_the_data():
    """Of 0 .. 9, three are 0, 4 and 9 (the even grid, rounded down): distances 4, 5, 9, so 5 / 2."""
    data = torch.arange(10.0)[:, None]
    assert median_sigma(data, most=3) == pytest.approx(2.5)
    assert median_sigma(data, most=2) == pytest.approx(4.5), "the first and the last"


def test_median_rule_looks_at_two_thousand_examples():
    """0 .. 4000 in order: the two thousand evenly spaced ones have the same spread as all; of the first only, half."""
    data = torch.arange(4001.0)[:, None]
    whole = (1.0 - math.sqrt(0.5)) * 4000.0 / 2.0  # the median |difference| of two uniforms on [0, 1] is 1 - sqrt(1/2)
    assert median_sigma(data) == pytest.approx(whole, rel=2e-3)
    assert median_sigma(data) == median_sigma(data, most=2000) != median_sigma(data, most=2001)


def test_median_rule_works_where_the_data_are():
    """Whatever the default device is."""
    data = torch.tensor([[0.0], [3.0]])
    with torch.device("meta"):
        assert median_sigma(data) == pytest.approx(1.5)


def test_median_rule_measures_in_double_precision():
    """sqrt(1 + 4 + 9) / (2 sqrt(3)) from float32 data, further than float32 knows it."""
    data = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float32)
    assert median_sigma(data) == pytest.approx(math.sqrt(14.0 / 12.0), rel=1e-14)


def test_median_rule_refuses_in_full_sentences():
    assert message(ConfigError, lambda: median_sigma(torch.zeros(1, 2))) == (
        "kernel.sigma: the median rule needs at least two training examples"
    )
    assert message(ConfigError, lambda: median_sigma(torch.zeros(3, 2))) == (
        "kernel.sigma: the median rule gives 0, as most training examples are equal; give a number"
    )
