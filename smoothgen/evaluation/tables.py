"""What was measured of samples, as tables for a person."""

from __future__ import annotations

from typing import Any

from rich.table import Table

UNMEASURED = "-"


def quality_table(quality: dict[str, Any]) -> Table:
    """A row for each set of samples, a column for each metric: value ± standard error."""
    return _of_sets(quality["sets"], f"against {quality['reference']} training examples")


def _of_sets(sets: dict[str, Any], title: str) -> Table:
    metrics = list(dict.fromkeys(metric for values in sets.values() for metric in values))
    table = Table("samples", "n", *metrics, title=title)
    for name, values in sets.items():
        count = max(value["n_fake"] for value in values.values())
        table.add_row(name, str(count), *(_shown(values.get(metric)) for metric in metrics))
    return table


def two_sample_table(two_sample: dict[str, Any]) -> Table:
    """A row for each set of points, a column for each measure: value ± standard error."""
    widths = ", ".join(f"{width:.3g}" for width in two_sample["bandwidths"])
    title = f"against {two_sample['reference']} {two_sample['reference_from']}; MMD^2 with bandwidths {widths}"
    table = _of_sets(two_sample["sets"], title)
    perfect = max(values["MMD^2"]["null_sd"] for values in two_sample["sets"].values())
    table.caption = f"perfect samples have MMD^2 = 0 ± {perfect:.2g}, and the precision and recall of test"
    return table


def neighbour_table(neighbours: dict[str, Any]) -> Table:
    """Mean distances to the nearest training example, and how they compare with the test set's."""
    table = Table("samples", "distance in", "mean to nearest", "of the test set's", "exact copies", "n")
    for space, sets in neighbours.items():
        for name, value in sets.items():
            ratio = UNMEASURED if value["ratio_to_test"] is None else f"{value['ratio_to_test']:.3f}"
            row = [_shown(value | {"value": value["mean"]}), ratio, f"{100 * value['copies']:.1f} %", str(value["n"])]
            table.add_row(name, space, *row)
    return table


def notes(quality: dict[str, Any]) -> list[str]:
    """What must be said beside the table, each once."""
    found = [
        f"{name}: {value['note']} (estimated bias {value['bias']:+.3g})"
        for values in quality["sets"].values()
        for name, value in values.items()
        if value.get("note")
    ]
    return [f"{len(found)} of the FIDs are of few examples: {found[0]}"] if found else []


def _shown(value: dict[str, Any] | None) -> str:
    return UNMEASURED if value is None else f"{value['value']:.4g} ± {value['stderr']:.2g}"
