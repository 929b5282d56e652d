"""Models on the Hugging Face hub: safetensors, JSON and a card; never code or pickles. Needs the extra `hub`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothgen.checkpoint import CONFIG_FILE, WEIGHTS_FILE, write_atomically
from smoothgen.errors import CheckpointError
from smoothgen.extras import required
from smoothgen.model_card import CARD

if TYPE_CHECKING:
    from smoothgen.density_model import DensityModel

PREFIX = "hf://"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED = (CONFIG_FILE, WEIGHTS_FILE, CARD)
SHOWN = ("samples.png", "evaluation.json")
"""What a run adds to its model's own files when it is uploaded. Nothing else of it leaves this machine."""


def download(address: str, revision: str | None = None) -> Path:
    """The local copy of a model at `hf://owner/name`: its config.json, model.safetensors and card, nothing else.

    revision: a branch, tag or commit. Raises CheckpointError, and DependencyError without the extra `hub`.
    """
    name = _name(address)
    hub = required("huggingface_hub", "the hub", "hub")
    with _reporting(f"{address} cannot be fetched"):
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))


def upload(
    model: DensityModel,
    config: Any,
    name: str,
    *,
    run_dir: str | Path | None = None,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Upload with smoothgen",
) -> str:
    """Uploads a model to `owner/name`, made where it does not exist; returns the address of the commit.

    run_dir: the run that trained it, whose card, picture, configuration and measurements go along. private: who may see
    a repository that is made now. token: by default what `hf auth login` keeps. Raises CheckpointError and
    DependencyError.
    """
    from smoothgen.checkpoint import save_model
    from smoothgen.model_card import model_card

    name = _name(name)
    hub = required("huggingface_hub", "the hub", "hub")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_model(model, config, place)
        if run_dir is not None:
            run = Path(run_dir)
            write_atomically(place / CARD, model_card(run).encode())
            for file in SHOWN:
                if (run / file).is_file():
                    write_atomically(place / file, (run / file).read_bytes())
        with _reporting(f"{name} cannot be uploaded"):
            api = hub.HfApi(token=token)
            api.create_repo(name, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=name, folder_path=place, revision=revision, commit_message=message))


def _name(address: str) -> str:
    name = address.removeprefix(PREFIX)
    if not NAME.fullmatch(name) or ".." in name:
        raise CheckpointError(f'"{address}" is not the name of a repository; write owner/name')
    return name


@contextmanager
def _reporting(what: str) -> Iterator[None]:
    """One clear line for whatever the hub or the way to it answers."""
    import huggingface_hub.errors as errors

    try:
        yield
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{what}: {reason}; check the name, the network and `hf auth whoami`") from error
