"""Arrays in files: npy, npz, csv, safetensors."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from smoothgen.checkpoint import write_atomically
from smoothgen.errors import ConfigError
from smoothgen.event import EventSpec


def write_array(path: Path, arrays: dict[str, Tensor], event: EventSpec) -> None:
    """Writes named arrays (n, *event_shape), atomically, in the format of the file's ending.

    .npz and .safetensors hold all of them by name; .npy, .csv (a row per example, with a header) and .png (a picture)
    hold one. Raises ConfigError for another ending, or several arrays in a file of one.
    """
    from smoothgen.evaluation.pictures import save_panels

    values = {name: value.detach().cpu() for name, value in arrays.items()}
    ending = path.suffix.lower()
    if ending in (".npy", ".csv") and len(values) > 1:
        raise ConfigError(f"{path}: a {ending} file holds one array, not {', '.join(values)}; use .npz or .safetensors")
    if ending == ".png":
        save_panels(path, values, event)
    elif ending == ".safetensors":
        from safetensors.torch import save

        write_atomically(path, save({name: value.contiguous() for name, value in values.items()}))
    elif ending in (".npy", ".npz"):
        buffer = io.BytesIO()
        if ending == ".npz":
            named: dict[str, Any] = {name: value.numpy() for name, value in values.items()}
            np.savez(buffer, **named)
        else:
            np.save(buffer, next(iter(values.values())).numpy())
        write_atomically(path, buffer.getvalue())
    elif ending == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(event.names or [f"x{index}" for index in range(event.dimensions)])
        writer.writerows(next(iter(values.values())).flatten(1).tolist())
        write_atomically(path, text.getvalue().encode())
    else:
        raise ConfigError(f'{path}: unknown ending "{ending}"; use .npy, .npz, .csv, .safetensors or .png')
