"""The mixture's log density against its definition, and its hand-written gradient against autograd's."""

from __future__ import annotations

import torch

from smoothgen import logistic_mixture


def by_definition(x, logits, loc, log_scale):
    z = (x.unsqueeze(-1) - loc) / log_scale.exp()
    density = torch.exp(-z) / (1.0 + torch.exp(-z)) ** 2 / log_scale.exp()
    return (torch.softmax(logits, -1) * density).sum(-1).log()


def parameters(*shape: int, components: int = 3):
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(*shape, components, dtype=torch.float64, generator=generator) for _ in range(3)]
    x = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return [value.requires_grad_(True) for value in (x, *draw)]


def test_log_density_is_its_definition():
    values = parameters(7, 2)
    torch.testing.assert_close(logistic_mixture.log_density(*values), by_definition(*values), rtol=1e-12, atol=1e-12)


def test_its_gradient_and_the_gradient_of_that_are_right():
    values = parameters(2, 2)
    assert torch.autograd.gradcheck(logistic_mixture.log_density, values)
    assert torch.autograd.gradgradcheck(logistic_mixture.log_density, values)


def test_parameters_may_broadcast():
    x, logits, loc, log_scale = parameters(5)
    shared = [value[:1].detach().requires_grad_(True) for value in (logits, loc, log_scale)]
    ours = torch.autograd.grad(logistic_mixture.log_density(x, *shared).sum(), [x, *shared])
    theirs = torch.autograd.grad(by_definition(x, *shared).sum(), [x, *shared])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_it_stays_finite_far_out():
    x = torch.tensor([-1e6, 1e6, 0.0], dtype=torch.float32, requires_grad=True)
    logits = torch.tensor([[0.0, -80.0]]).expand(3, 2)
    value = logistic_mixture.log_density(x, logits, torch.zeros(3, 2), torch.full((3, 2), -6.0))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_it_runs_under_vmap():
    values = [value.detach() for value in parameters(4)]
    score = torch.func.vmap(torch.func.grad(lambda x, *rest: logistic_mixture.log_density(x, *rest)))(*values)
    x = values[0].clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(logistic_mixture.log_density(x, *values[1:]).sum(), x)
    torch.testing.assert_close(score, expected)
