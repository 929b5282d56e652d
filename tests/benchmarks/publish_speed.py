"""The docs page of speed from what `python tests/benchmarks/speed` measured.

    python tests/benchmarks/publish_speed.py [tests/benchmarks/results/speed-cpu.json]

Writes docs/speed/index.md and docs/speed/growth.png. The page's prose is in TEXT below; every number is the file's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests/benchmarks/results/speed-cpu.json"
DOCS = ROOT / "docs/speed"

TEXT = {
    "head": """---
hide:
  - toc
---

# Speed

Everything here was measured by one command, contenders taking turns (A B A B …) on one core; medians of {rounds} turns.
A part of the page may come from a later call than another: the file of results says when each row was measured. A
ratio is the baseline's time over ours, with the quartiles of the ratios turn by turn. Seconds are CPU seconds, as other
work on a shared machine is then left out. *Asked* and *aim* were set before, from prototypes.

<!-- not-run: half an hour -->
```bash
pip install -e '.[bench]'
python tests/benchmarks/speed --out tests/benchmarks/results/speed-cpu.json
python tests/benchmarks/publish_speed.py
```

Machine: {device}, one thread, torch {torch}.
""",
    "ceilings": """## What the machine can do

The fastest of {rounds} calls, in gigaflops (10⁹ products and sums a second). Shares of a ceiling below are of the
convolutions here: the products that PixelCNN++ consists of.
""",
    "pixelcnn": """## PixelCNN++: training and evaluation

The baseline is a plain network of the public PyTorch kind with the same weights (`tests/plain_pixelcnnpp.py`: pads,
convolves, permutes to a Linear, concat-ELU each time it is read), the mixture's formula as written, and Adam with its
defaults. Before they are timed both are compared: outputs within 1e-5, gradients of all convolutions within 1e-4.
*Aligned* is the default way to give x̃, with as many filters as the plain network, and with as few as give it the
parameters of `stack`. {conditioning}
""",
    "sampling": """## PixelCNN++: exact sampling

Naive sampling runs the plain network once for every pixel; it is timed over a few passes and multiplied by the number
of pixels, and its sampler is not counted. *In torch* is `sampler: cached`, the same without compiled code.
""",
    "plane": """## Two dimensions

MADE: the trainer's step against the textbook loop (DataLoader, Adam with its defaults) around a MADE written plainly
with the same weights; *own model in that loop* is the ratio to the textbook loop around our own model. RealNVP: 8
couplings of two hidden layers of 64, the same fused Adam for all, against the fastest of normflows, nflows and zuko.
""",
    "bounds": """## Importance-weighted bounds

K draws for each example in one pass, against a loop over the draws.
""",
    "costs": "## What a user waits for and pays\n",
    "growth": """## How cost grows

The exponent between the two largest sizes, and the one that counting operations gives; small sizes cost what starting
an operation costs.

![Seconds against size](growth.png)
""",
}


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def verdict(row: dict[str, Any]) -> str:
    if row["least"] is None or row["ratio"] is None:
        return ""
    return (
        "aim met"
        if row["aim"] and row["ratio"] >= row["aim"]
        else "met"
        if row["ratio"] >= row["least"]
        else "**missed**"
    )


def notes_of(row: dict[str, Any]) -> str:
    """What else was measured, in words."""
    notes, told = row["notes"], []
    if "equal" in notes:
        told.append(f"outputs within {notes['equal']['outputs']:.0e}, gradients {notes['equal']['gradients']:.0e}")
    for key, form in (
        ("gflops", "{:.0f} GFLOP/s"),
        ("share of ceiling", "{:.0%} of the ceiling"),
        ("peak memory MB", "peak {:.0f} MB"),
        ("in torch", "in torch ×{:.0f}"),
        ("head", "head {:.1%}"),
        ("head in torch", "head in torch {:.0%}"),
        ("loss_off", "loss off by {:.1e}"),
        ("own_model_in_that_loop", "own model in that loop ×{:.2f}"),
        ("difference_of_means", "means differ by {:.0e} nats"),
    ):
        if notes.get(key) is not None:
            told.append(form.format(notes[key]))
    told += [f"{name[:-4]} off {value:.0e}" for name, value in notes.items() if name.endswith(" off")]
    told += [f"{name} {value}" for name, value in notes.items() if name.endswith(" passes")]
    if "seconds" in notes:
        told.append(", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in notes["seconds"].items()))
    return "; ".join(told)


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | ours | baseline | ratio | asked | aim | | |", "|---|--:|--:|--:|--:|--:|---|---|"]
    for row in rows:
        unit = row["notes"].get("unit", "s")
        ratio = (
            "" if row["ratio"] is None else f"×{number(row['ratio'])} ({number(row['low'])} to {number(row['high'])})"
        )
        baseline = "" if row["baseline"] is None else f"{number(row['baseline'])} s"
        lines.append(
            f"| {row['name']} | {number(row['ours'])} {unit} | {baseline} | {ratio} | {number(row['least'])} "
            f"| {number(row['aim'])} | {verdict(row)} | {notes_of(row)} |"
        )
    return "\n".join(lines)


def growth_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | exponent | expected | seconds |", "|---|--:|--:|---|"]
    for row in rows:
        notes = row["notes"]
        times = ", ".join(f"{size}: {number(s)}" for size, s in zip(notes["sizes"], notes["seconds"], strict=True))
        lines.append(f"| {row['name']} | {row['ours']:.2f} | {notes['expected exponent']:g} | {times} |")
    return "\n".join(lines)


def growth_picture(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    columns = 3
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(9.0, 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis in axes[len(rows) :]:
        axis.set_visible(False)
    for axis, row in zip(axes, rows, strict=False):
        sizes, seconds, law = row["notes"]["sizes"], row["notes"]["seconds"], row["notes"]["expected exponent"]
        axis.loglog(sizes, seconds, "o-", color="#0072B2", label="measured")
        expected = [seconds[-1] * (size / sizes[-1]) ** law for size in sizes]
        axis.loglog(sizes, expected, "--", color="grey", label=f"size to the {law:g}")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axis.set_title(row["name"], fontsize=9)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=6, frameon=False)
    for axis in axes[::columns]:
        axis.set_ylabel("CPU s", fontsize=8)
    figure.savefig(path, dpi=110)


def conditioning() -> str:
    """What equal training makes of both ways, from the results of tests/benchmarks/conditioning.py."""
    runs = json.loads((RESULTS.parent / "conditioning_digits.json").read_text())["runs"]
    told = []
    for way in ("aligned", "stack"):
        last = [run["curve"][-1] for run in runs if run["conditioning"] == way]
        bits = sum(point["bits_per_dim"] for point in last) / len(last)
        steps = sum(point["steps"] for point in last) / len(last)
        told.append(f"{bits:.3f} bits per dimension after {steps:,.0f} steps ({way})")
    spent = runs[0]["curve"][-1]["seconds"]
    return (
        f"That it is no worse: on the digits, with equal parameters and {spent:.0f} CPU seconds, "
        f"{len(runs) // 2} seeds, {' against '.join(told)} (`tests/benchmarks/conditioning.py`)."
    )


def main() -> None:
    measured = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS).read_text())
    if measured["quick"]:
        sys.exit("these are the numbers of a quick run, which measures nothing")
    DOCS.mkdir(exist_ok=True)
    parts = [TEXT["head"].format(**measured)]
    for part in ("pixelcnn", "sampling", "plane", "bounds", "costs", "growth", "ceilings"):
        rows = [row for row in measured["rows"] if row["notes"]["part"] == part]
        if not rows:
            continue
        parts.append(TEXT[part].format(**measured, conditioning=conditioning()))
        if part == "growth":
            growth_picture(rows, DOCS / "growth.png")
            parts.append(growth_table(rows) + "\n")
        else:
            parts.append('<div class="wide" markdown>\n\n' + table(rows) + "\n\n</div>\n")
    parts.append((Path(__file__).parent / "speed/notes.md").read_text())
    (DOCS / "index.md").write_text("\n".join(parts))
    print(f"{DOCS / 'index.md'}: {len(measured['rows'])} rows")


if __name__ == "__main__":
    main()
