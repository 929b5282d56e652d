"""Mixtures of Gaussians: density against torch's, gradient against finite differences, quantiles deep in both tails."""

from __future__ import annotations

import mpmath
import pytest
import torch

from smoothgen import gaussian_mixture


def parameters(*shape: int, components: int = 3):
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(*shape, components, dtype=torch.float64, generator=generator) for _ in range(3)]
    x = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return [value.requires_grad_(True) for value in (x, *draw)]


def test_log_density_is_that_of_torch():
    x, logits, loc, log_scale = parameters(50)
    components = torch.distributions.Normal(loc, log_scale.exp())
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), components)
    found = gaussian_mixture.log_density(x, logits, loc, log_scale)
    torch.testing.assert_close(found, mixture.log_prob(x), rtol=1e-12, atol=1e-12)


def test_its_gradient_and_the_gradient_of_that_are_right():
    values = parameters(2, 2)
    assert torch.autograd.gradcheck(gaussian_mixture.log_density, values)
    assert torch.autograd.gradgradcheck(gaussian_mixture.log_density, values)


def test_parameters_may_broadcast():
    x, logits, loc, log_scale = parameters(5)
    shared = [value[:1].detach().requires_grad_(True) for value in (logits, loc, log_scale)]
    spread = [value.expand(5, -1).detach().requires_grad_(True) for value in shared]
    ours = torch.autograd.grad(gaussian_mixture.log_density(x, *shared).sum(), shared)
    theirs = torch.autograd.grad(gaussian_mixture.log_density(x, *spread).sum(), spread)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.sum(0, keepdim=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_quantiles_invert_the_distribution_function_in_both_tails(dtype, tolerance):
    """The reference adds up tails in 50 digits."""
    generator = torch.Generator().manual_seed(1)
    logits, loc, log_scale = (torch.randn(40, 3, dtype=torch.float64, generator=generator).to(dtype) for _ in range(3))
    logit_u = torch.linspace(-35, 35, 40, dtype=torch.float64).to(dtype)
    x = gaussian_mixture.inverse_cdf(logit_u, logits, loc, log_scale)
    with mpmath.workdps(50):
        for row in range(40):
            weight = [mpmath.exp(float(value)) for value in logits[row]]
            z = [
                (mpmath.mpf(float(x[row])) - float(m)) / mpmath.exp(float(s))
                for m, s in zip(loc[row], log_scale[row], strict=True)
            ]
            below = sum(w * mpmath.ncdf(value) for w, value in zip(weight, z, strict=True))
            above = sum(w * mpmath.ncdf(-value) for w, value in zip(weight, z, strict=True))
            found = float(mpmath.log(below / above))
            assert found == pytest.approx(float(logit_u[row]), abs=tolerance * max(1.0, abs(float(logit_u[row])) ** 2))


def test_quantiles_rise_with_u():
    generator = torch.Generator().manual_seed(2)
    logits, loc, log_scale = (torch.randn(1, 4, generator=generator).expand(2000, -1) for _ in range(3))
    x = gaussian_mixture.inverse_cdf(torch.linspace(-12, 12, 2000), logits, loc, log_scale)
    assert (x.diff() >= 0).all()
    assert x.diff().gt(0).double().mean() > 0.99
