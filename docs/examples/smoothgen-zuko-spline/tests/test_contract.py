"""The part keeps the laws of its interface, and is found once the package is installed."""

from importlib.metadata import entry_points

import smoothgen
from smoothgen.testing import check

from smoothgen_zuko_spline.density import ZukoSplineConfig


def test_the_contract_is_kept() -> None:
    config = ZukoSplineConfig(transforms=2, hidden=(16,), bins=4)
    check(config, accuracy=1e-4, leave_out={"compiles": "torch.compile does not trace zuko's lazy transforms"})


def test_it_is_found_by_its_entry_point() -> None:
    advertised = {point.name: point.value for point in entry_points(group="smoothgen")}
    assert advertised.get("zuko_spline") == "smoothgen_zuko_spline", "not installed: pip install -e '.[test]'"
    assert smoothgen.installed().find("density", "zuko_spline") is ZukoSplineConfig
