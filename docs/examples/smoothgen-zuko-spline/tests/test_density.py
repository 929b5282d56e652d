"""What a spline flow claims beyond the laws of every density."""

import math

import smoothgen
import torch

from smoothgen_zuko_spline.density import ZukoSplineConfig

LINE = smoothgen.EventSpec(shape=(1,))


def test_untrained_it_is_the_gaussian_of_the_data() -> None:
    """In one dimension the splines start as the identity, so the flow is the data's mean and width."""
    x = 3.0 + 0.5 * torch.randn(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    density = ZukoSplineConfig().build(LINE).double()
    density.initialize(x)
    expected = torch.distributions.Normal(x.mean(), x.std(correction=0)).log_prob(x[:, 0])
    assert (density.log_prob(x) - expected).abs().max() < 0.05


def test_it_learns_two_modes() -> None:
    """Within 0.1 nats of the entropy of two modes, log 2 above that of one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2, (2000, 1), generator=generator) * 2.0 - 1.0
    x = x + 0.1 * torch.randn(2000, 1, generator=generator)
    density = ZukoSplineConfig(bins=16).build(LINE)
    density.initialize(x)
    optimizer = torch.optim.Adam(density.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = -density.log_prob(x).mean()
        loss.backward()
        optimizer.step()
    entropy = 0.5 * math.log(2.0 * math.pi * math.e * 0.01) + math.log(2.0)
    assert entropy - 0.1 < loss.item() < entropy + 0.1
