"""python -m smoothgen_features CONFIG: train a classifier for sample quality and write its weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[str, typer.Argument(help="A shipped recipe's name (digits, mnist) or a YAML file.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
) -> None:
    """Train a classifier on a data source with labels; its features are then `type: classifier, weights: FILE`."""
    import torch

    from smoothgen import __version__
    from smoothgen_features.classifier import save_classifier
    from smoothgen_features.training import load_training_config, recorded, train_classifier

    torch.set_num_threads(1)  # the weights depend on the number of threads
    recipe = load_training_config(config)
    network, accuracy, examples = train_classifier(recipe)
    training = recorded(recipe) | {
        "test_accuracy": accuracy,
        "test_examples": examples,
        "smoothgen": __version__,
        "torch": torch.__version__,
    }
    save_classifier(network, out, training)
    typer.echo(f"{network.name}: test accuracy {accuracy:.4f} of {examples}; {out}, fingerprint {network.fingerprint}")


def main() -> None:
    """Runs the command; what a user can mend is one line and exit code 2."""
    from smoothgen.errors import SmoothgenError

    try:
        typer.run(train)
    except SmoothgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
