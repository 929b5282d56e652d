"""Tables of what was measured, on the terminal."""

from __future__ import annotations

from typing import Any

from smoothgen.commands.arguments import console_of_output


def show(metrics: dict[str, Any]) -> None:
    """Tables of what was measured."""
    if "sigma_search" in metrics:
        from smoothgen.sigma_search import summary

        console_of_output().print(summary(metrics["sigma_search"]), highlight=False)
    if metrics.get("likelihoods"):
        _show_likelihoods(metrics, metrics["likelihoods"])
    if "quality" in metrics or "neighbours" in metrics or "two_sample" in metrics:
        from smoothgen.evaluation import tables

        console = console_of_output()
        if "quality" in metrics:
            console.print(tables.quality_table(metrics["quality"]))
            for line in tables.notes(metrics["quality"]):
                console.print(line, highlight=False)
        if "neighbours" in metrics:
            console.print(tables.neighbour_table(metrics["neighbours"]))
        if "two_sample" in metrics:
            console.print(tables.two_sample_table(metrics["two_sample"]))


def _show_likelihoods(metrics: dict[str, Any], likelihoods: dict[str, Any]) -> None:
    from rich.table import Table

    discrete = any("bits_per_dim" in value for value in likelihoods.values())
    table = Table("test", "bits per dim" if discrete else "nats", "± s.e.", "n", "K", "kind", "terms (nats)")
    for name, value in likelihoods.items():
        unit = ("bits_per_dim", "bits_per_dim_stderr") if "bits_per_dim" in value else ("nats", "stderr")
        terms = ", ".join(f"{term} {number['nats']:.3f}" for term, number in value["terms"].items())
        row = [f"{value[unit[0]]:.4f}", f"{value[unit[1]]:.4f}", str(value["n"]), str(value["draws"] or "-")]
        table.add_row(name, *row, value["kind"], terms)
    console = console_of_output()
    console.print(table)
    if metrics.get("entropy") is not None:
        gaps = ", ".join(f"{k} {v['gap']:.4f} ± {v['gap_stderr']:.4f}" for k, v in likelihoods.items() if "gap" in v)
        console.print(f"exact entropy {metrics['entropy']:.4f} nats; gap to the exact log density: {gaps}")
    if metrics.get("gain_over_baseline"):
        gains = metrics["gain_over_baseline"].items()
        text = ", ".join(f"{name} {value['nats']:+.3f} ± {value['stderr']:.3f}" for name, value in gains)
        console.print(f"gain over the plain baseline, same examples, nats: {text}", highlight=False)
    counts = metrics["parameters"]
    console.print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()), highlight=False)
