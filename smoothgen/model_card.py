"""A page that says what a trained model is: its data, its noise, its likelihood with units, and how it was made."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smoothgen.checkpoint import CONFIG_FILE, write_atomically
from smoothgen.config import ExperimentConfig
from smoothgen.documents import read_json
from smoothgen.errors import CheckpointError
from smoothgen.event import EventSpec
from smoothgen.regular_file import is_regular
from smoothgen.run_directory import ENVIRONMENT, EVALUATION, RunDirectory

CARD = "README.md"
FRONT = """---
library_name: smoothgen
pipeline_tag: {task}
tags:
- smoothgen
- density-estimation
- distribution-smoothing
- arxiv:2103.15089
---
"""


def write_card(run: Path) -> None:
    """Writes README.md into a finished run. Raises CheckpointError and RunDirectoryError."""
    write_atomically(run / CARD, model_card(run).encode())


def model_card(run: Path) -> str:
    """The card of a finished run, in Markdown with the front matter that model hubs read.

    States the data (type and settings, without folders of this machine), the event, the kernel and sigma, likelihoods
    on the test split with unit, kind, standard error and number of examples, sample quality where it was measured, and
    settings, seed and versions. Raises CheckpointError for a run without a model, RunDirectoryError for what is no run.
    """
    directory = RunDirectory(run)
    config = directory.stored_config()
    description = _json(run / CONFIG_FILE)
    if not description:
        raise CheckpointError(f"{run / CONFIG_FILE} does not exist: a card describes a finished run")
    metrics, environment = _json(run / EVALUATION), _json(run / ENVIRONMENT)
    event = description["event"]
    image = len(event["shape"]) == 3
    parts = [
        FRONT.format(task="unconditional-image-generation" if image else "other"),
        f"# {_plain(config.name)}\n",
        f"{_plain(config.description)}\n" if config.description else "",
        f"A smoothed density model: noise is added to the data, the density of the noisy data is modelled by "
        f"`{config.density.type}`, and the noise is inverted by `{config.inverter.type}` "
        "([Meng et al., ICLR 2021](https://arxiv.org/abs/2103.15089)), made with smoothgen.\n",
        "![samples](samples.png)\n" if (run / "samples.png").is_file() else "",
        "## Use\n\n```python\nimport smoothgen\n\n"
        'model = smoothgen.load("this-folder")  # or SmoothedModel.from_pretrained("hf://owner/name")\n'
        "x = model.sample(16)  # in the units of the data\n"
        "print(model.likelihood(x))\n```\n",
        _data(config, event),
        _noise(config, metrics),
        _likelihoods(metrics),
        _quality(metrics),
        _making(config, metrics, environment),
        "## Limits\n\nThe model knows the data named above and nothing else; what is wrong or private in them may come "
        "back in samples. Likelihoods compare only with others on the same examples, in the same unit. The licence of "
        "the data and of this model is for its owner to state.\n",
    ]
    return "\n".join(part for part in parts if part)


def _json(path: Path) -> dict[str, Any]:
    """What a file of the run holds, nothing where there is no such file."""
    if not is_regular(path):
        return {}
    try:
        value = read_json(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); evaluate or train again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged (no keys and values); evaluate or train again")
    return value


def _plain(text: str) -> str:
    """Text of a configuration on one line, which Markdown and HTML take literally."""
    for sign in ("&", "<", ">"):
        text = text.replace(sign, {"&": "&amp;", "<": "&lt;", ">": "&gt;"}[sign])
    for sign in "\\`*_[]|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _settings(part: dict[str, Any]) -> str:
    """A part's settings as one line of YAML flow style, without folders of this machine."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            items = ((key, shown(item)) for key, item in value.items())
            return {key: item for key, item in items if item is not None and item != {}}
        if isinstance(value, (list, tuple)):
            return [shown(item) for item in value]
        return Path(value).name if isinstance(value, str) and ("/" in value or "\\" in value) else value

    return "`" + json.dumps(shown(part), ensure_ascii=False).replace("`", "'") + "`"


def _data(config: ExperimentConfig, event: dict[str, Any]) -> str:
    rows = [("source", _settings(config.data.model_dump(mode="json"))), ("shape of an example", str(event["shape"]))]
    if event.get("names"):
        rows.append(("columns", ", ".join(map(_plain, event["names"]))))
    if event.get("levels"):
        low, high = EventSpec.model_validate(event).ends
        rows.append(("values", f"{event['levels']} levels from {low:g} to {high:g}: discrete"))
    else:
        rows.append(("values", "continuous"))
    if event.get("scale") and not event.get("levels"):
        rows.append(("units", "samples and likelihoods are in the data's own units; the model standardises inside"))
    return "## Data\n\n" + _table(("", ""), rows)


def _noise(config: ExperimentConfig, metrics: dict[str, Any]) -> str:
    kernel = config.kernel.model_dump(mode="json")
    sigma = metrics.get("sigma")
    found = kernel.get("sigma") if sigma is None else ", ".join(f"{value:.4g}" for value in sigma[:8])
    if sigma is not None and len(sigma) > 8:
        found = f"{found}, ... ({len(sigma)} coordinates)"
    how = "learned with the bound" if kernel.get("learnable") else "fixed during training"
    if "sigma_search" in metrics:
        how = "found by short trainings before the training"
    where = "in the model's coordinates, standard deviation of each coordinate's noise"
    return f"## Noise\n\nKernel `{kernel['type']}`, sigma {found} ({where}; {how}).\n"


def _likelihoods(metrics: dict[str, Any]) -> str:
    likelihoods = metrics.get("likelihoods") or {}
    if not likelihoods:
        return "## Likelihood\n\nNot measured: the single-step inverter has no density, or evaluation was left out.\n"
    rows = []
    for name, value in likelihoods.items():
        discrete = "bits_per_dim" in value
        number, error = (
            (value["bits_per_dim"], value["bits_per_dim_stderr"]) if discrete else (value["nats"], value["stderr"])
        )
        unit = "bits per dim (lower is better)" if discrete else "nats, log density (higher is better)"
        drawn = str(value["draws"]) if value["draws"] else "-"
        rows.append(
            (name, f"{_shown(number, 'not finite')} ± {_shown(error)}", unit, value["kind"], str(value["n"]), drawn)
        )
    text = "## Likelihood\n\nOn the test split, ± one standard error over its examples.\n\n"
    text += _table(("", "value", "unit", "kind", "examples", "draws K"), rows)
    if metrics.get("entropy") is not None:
        text += f"\nThe data's own entropy is {metrics['entropy']:.4f} nats: no model has a larger mean log density.\n"
    return text


def _shown(value: float | None, otherwise: str = "unknown") -> str:
    return otherwise if value is None or not math.isfinite(value) else f"{value:.4f}"


def _quality(metrics: dict[str, Any]) -> str:
    """The measurements of samples, as evaluation.json has them."""
    found = {key: metrics[key] for key in ("quality", "two_sample", "neighbours") if metrics.get(key)}
    if not found:
        return ""
    return (
        "## Samples against data\n\nAs in `evaluation.json`:\n\n```json\n"
        + json.dumps(found, indent=1, ensure_ascii=False)
        + "\n```\n"
    )


def _making(config: ExperimentConfig, metrics: dict[str, Any], environment: dict[str, Any]) -> str:
    rows = [
        ("density", _settings(config.density.model_dump(mode="json"))),
        ("inverter", _settings(config.inverter.model_dump(mode="json"))),
        ("training, AdamW", _settings(config.trainer.model_dump(mode="json", exclude={"sigma_search"}))),
        ("seed", str(config.seed)),
    ]  # fmt: skip
    if metrics.get("parameters"):
        rows.append(("parameters", ", ".join(f"{name} {count:,}" for name, count in metrics["parameters"].items())))
    if environment:
        packages = environment.get("packages", {})
        rows.append(("versions", f"smoothgen {environment['smoothgen']}, Python {environment['python']}, "
                     + ", ".join(f"{name} {version}" for name, version in packages.items())))  # fmt: skip
    return "## How it was made\n\n" + _table(("", ""), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
