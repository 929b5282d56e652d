"""Every reader of files from elsewhere: sound seeds, how they are damaged, and what reads them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import random
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_safetensors

from smoothgen import documents
from smoothgen.checkpoint import load_model
from smoothgen.config import load_config, recipes
from smoothgen.data_source import DataSource
from smoothgen.device import DevicePolicy
from smoothgen.errors import SmoothgenError
from smoothgen.event import EventSpec
from smoothgen.experiment import assemble
from smoothgen.masks import read_mask, unknown_mask
from smoothgen.report.record import read_run
from smoothgen.run_directory import RunDirectory
from smoothgen.smoothed_model import SmoothedConfig
from smoothgen.tables import CsvFormat, read_named
from smoothgen.trainer import trainer_of
from smoothgen_datasets.array import ArrayConfig
from smoothgen_datasets.cifar10 import LOSSY, RECORD, TEST, TRAIN, CIFAR10Config
from smoothgen_datasets.idx import MNISTConfig
from smoothgen_datasets.images import ImagesConfig
from smoothgen_datasets.pictures import read_header, read_pixels
from smoothgen_features.classifier import load_classifier, shipped
from smoothgen_features.torchscript import TRUST, TorchScriptConfig

from . import mutations as m

PLAIN = 0.01
"""The share of inputs that are left as they were: a reader that refuses everything would pass a fuzzer too."""
CSV_TOKENS = (
    *m.ODD_TEXTS,
    ",",
    ";",
    "\t",
    "\r",
    "\r\n",
    "\n\n",
    '"',
    '""',
    '",\n',
    "1e400",
    "1_0",
    " 1",
    "١",
    "\ufeff",
    "-",
)


class Reader(ABC):
    """name: what the results are listed under. Files of `prepare` stay; those of `write` change with every input."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seeds: list[bytes] = []

    @abstractmethod
    def prepare(self, directory: Path) -> None:
        """Makes the seeds, and puts what every input needs beside it into the directory."""

    @abstractmethod
    def write(self, directory: Path, rng: random.Random) -> None:
        """Puts one input there."""

    @abstractmethod
    def read(self, directory: Path, rng: random.Random) -> None:
        """Reads it. Raises SmoothgenError where it is refused."""


class FileReader(Reader):
    """One file that changes. damage: (seed, seeds, rng) -> bytes."""

    def __init__(
        self,
        name: str,
        file: str,
        make: Callable[[Path], list[bytes]],
        damage: Callable[[bytes, list[bytes], random.Random], bytes],
        read: Callable[[Path, random.Random], object],
    ) -> None:
        super().__init__(name)
        self.file, self._make, self._damage, self._read = file, make, damage, read

    def prepare(self, directory: Path) -> None:
        self.seeds = self._make(directory)

    def write(self, directory: Path, rng: random.Random) -> None:
        seed = rng.choice(self.seeds)
        data = seed if rng.random() < PLAIN else self._damage(seed, self.seeds, rng)
        (directory / self.file).write_bytes(data)

    def read(self, directory: Path, rng: random.Random) -> None:
        self._read(directory / self.file, rng)


def sound(source: DataSource) -> None:
    """What is accepted is what the rest of the program relies on: finite examples of the declared shape."""
    for name in ("train", "validation", "test"):
        try:
            examples = source.examples(name)  # type: ignore[arg-type]
            split = examples.rows(torch.arange(min(len(examples), 64)))
        except SmoothgenError:
            if name == "train":
                raise
            continue
        assert split.x.shape[1:] == source.event.shape and bool(split.x.isfinite().all())
        assert split.context is None or bool(split.context.isfinite().all())


# idx and CIFAR-10


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
LABELS = np.arange(6, dtype=np.uint8)


def idx_seeds(directory: Path) -> list[bytes]:
    for part in ("train", "t10k"):
        (directory / f"{part}-images-idx3-ubyte").write_bytes(idx(IMAGES))
        (directory / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS))
    return [idx(IMAGES), idx(IMAGES[:3]), idx(LABELS), idx(IMAGES[:, 0])]


def idx_gz_seeds(directory: Path) -> list[bytes]:
    seeds = idx_seeds(directory)
    (directory / "train-images-idx3-ubyte").unlink()
    return seeds


def idx_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return m.bytes_mutated(seed, seeds, rng)
    data = bytearray(seed)
    at = rng.choice((0, 2, 3, 4, 8, 12))
    size = 4 if at >= 4 else 1
    data[at : at + size] = (rng.choice(m.INTERESTING) & ((1 << 8 * size) - 1)).to_bytes(size, "big")
    return bytes(data)


def read_mnist(path: Path, rng: random.Random) -> None:
    config = MNISTConfig(
        path=path.parent, labels=rng.random() < 0.5, validation_examples=1, check=rng.choice((False, "auto"))
    )
    sound(config.build())


def cifar_seeds(directory: Path) -> list[bytes]:
    rng = np.random.default_rng(1)
    records = rng.integers(0, 256, (3, RECORD), dtype=np.uint8)
    records[:, 0] %= 10
    for name in (*TRAIN, TEST):
        (directory / name).write_bytes(records.tobytes())
    return [records.tobytes(), records[:1].tobytes()]


def cifar_gz_seeds(directory: Path) -> list[bytes]:
    seeds = cifar_seeds(directory)
    (directory / TRAIN[0]).unlink()
    return seeds


def cifar_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return tar(seed, rng)
    data = bytearray(m.bytes_mutated(seed, seeds, rng) if rng.random() < 0.5 else seed)
    for _ in range(rng.randrange(3)):
        if data:
            data[min(rng.choice((0, RECORD, 2 * RECORD)), len(data) - 1)] = rng.randrange(256)
    return bytes(data)


def tar(content: bytes, rng: random.Random) -> bytes:
    """An archive in place of the file, with odd names: it is no batch, and nothing of it is unpacked."""
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=rng.choice(("w", "w:gz"))) as archive:
        info = tarfile.TarInfo(rng.choice(("../escaped", "/tmp/escaped", "data_batch_1.bin")))
        info.size = len(content)
        info.type = rng.choice((tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE))
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read_cifar(path: Path, rng: random.Random) -> None:
    listing = path.parent / LOSSY
    if rng.random() < 0.2:
        listing.write_bytes(m.text_mutated(b"# lossy\n0\n2\n", [b"1\n"], rng, ("9" * 20, "-1", "0\n", "x", "\0", "٣")))
    else:
        listing.unlink(missing_ok=True)
    lossy = rng.choice(("drop", "keep"))
    sound(CIFAR10Config(path=path.parent, labels=rng.random() < 0.5, validation_examples=1, lossy=lossy).build())


# arrays


def _arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [
        rng.normal(size=(8, 3)),
        rng.normal(size=(8, 2)).astype(">f4"),
        rng.integers(0, 256, (6, 4, 4), dtype=np.uint8),
        rng.integers(0, 2, (8, 3)).astype(bool),
        np.asfortranarray(rng.normal(size=(6, 2, 3))),
        rng.integers(-3, 3, (9, 2)),
        rng.normal(size=9).astype(np.float16),
    ]


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def npy_seeds(directory: Path) -> list[bytes]:
    return [npy(values) for values in _arrays()]


def npy_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    return m.npy_mutated(seed, seeds, rng) if rng.random() < 0.6 else m.bytes_mutated(seed, seeds, rng)


def npz_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.7:
        members = {f"{key}.npy": rng.choice(seeds) for key in rng.choice((("x",), ("x", "y"), ("x", "x"), ()))}
        return m.npz_mutated(members, seeds, rng)
    buffer = io.BytesIO()
    (np.savez if rng.random() < 0.5 else np.savez_compressed)(buffer, x=np.load(io.BytesIO(seed)))
    return m.bytes_mutated(buffer.getvalue(), seeds, rng)


def npz_plain(directory: Path) -> list[bytes]:
    seeds = []
    for values in _arrays():
        buffer = io.BytesIO()
        np.savez(buffer, x=values)
        seeds.append(buffer.getvalue())
    return seeds


class NpzReader(FileReader):
    """Seeds are arrays, packed into archives of every kind."""

    def write(self, directory: Path, rng: random.Random) -> None:
        seed = rng.choice(self.seeds)
        plain = rng.random() < PLAIN
        data = rng.choice(npz_plain(directory)) if plain else npz_damage(seed, self.seeds, rng)
        (directory / self.file).write_bytes(data)


def csv_seeds(directory: Path) -> list[bytes]:
    return [
        b"a,b,c\n" + b"".join(b"%d,%d.5,-%de-3\n" % (i, i * i % 7, i) for i in range(8)),
        b"1;2\n3;4\n5;9\n7;8\n",
        '"ä","b"\r\n"1","2"\r\n"3","5"\r\n"4","1"\r\n'.encode(),
        b"\xef\xbb\xbfx,y\n1,0\n2,1\n3,1\n4,0\n",
    ]


def csv_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return m.bytes_mutated(seed, seeds, rng)
    return m.text_mutated(seed, seeds, rng, CSV_TOKENS)


def safetensors_seeds(directory: Path) -> list[bytes]:
    tensors = {
        f"t{i}": torch.from_numpy(np.array(v, dtype=v.dtype.newbyteorder("="), order="C"))
        for i, v in enumerate(_arrays())
    }
    return [save_safetensors({"x": value}) for value in tensors.values()] + [save_safetensors(tensors)]


def safetensors_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    damaged = m.safetensors_mutated(seed, seeds, rng) if rng.random() < 0.8 else m.bytes_mutated(seed, seeds, rng)
    return m.signed(damaged) if rng.random() < 0.8 else damaged


def read_arrays(path: Path, rng: random.Random) -> None:
    values: dict[str, Any] = {"path": path}
    if rng.random() < 0.3:
        values |= {"columns": rng.choice(([0], ["a"], [1, 0], [99], ["b", 0]))}
    if rng.random() < 0.2:
        values |= {"context_columns": rng.choice(([2], ["c"], [5]))}
    if rng.random() < 0.2:
        values |= {"levels": rng.choice((None, 2, 16, 10**6))}
    if rng.random() < 0.2:
        values |= {"low": rng.choice((-1.0, 0.0, -1e300)), "high": rng.choice((1.0, 2.0, 1e308, None))}
    if path.suffix in (".npz", ".safetensors") and rng.random() < 0.5:
        values |= {"key": rng.choice(("x", "t2", "", "x.npy"))}
    if path.suffix == ".csv":
        values |= {"delimiter": rng.choice((*",,,,;;\t", *'\n"\0x')), "header": rng.choice((None, None, True, False))}
        if rng.random() < 0.3:
            form = CsvFormat(values["delimiter"], values["header"], math.nan)
            read_named(path, None, rng.choice(((), ("a",), ("b", "a"), ("ä", "x"))), form)
            return
    values |= {"standardize": rng.random() < 0.7, "stream": rng.choice(("auto", "always", "never"))}
    sound(ArrayConfig.model_validate(values).build())


class ShardReader(Reader):
    """A folder of arrays that are streamed as one, each sound or damaged."""

    KINDS = (("npy", npy_seeds, npy_damage), ("npz", npz_plain, npz_damage), ("csv", csv_seeds, csv_damage),
             ("safetensors", safetensors_seeds, safetensors_damage))  # fmt: skip

    def prepare(self, directory: Path) -> None:
        self.of_kind = [(ending, make(directory), damage) for ending, make, damage in self.KINDS]

    def write(self, directory: Path, rng: random.Random) -> None:
        root = directory / "shards"
        if root.exists():
            _emptied(root)
        root.mkdir(exist_ok=True)
        ending, seeds, damage = rng.choice(self.of_kind)
        seed = rng.choice(seeds)
        whole = rng.random() < PLAIN
        for number in range(rng.randrange(1, 4)):
            name = f"part-{rng.choice((number, number, number, 10**30, chr(233)))}.{ending}"
            kind = rng.randrange(40)
            if kind == 0:
                (root / f"{number}.{ending}").mkdir(exist_ok=True)
            elif kind == 1 and not (root / name).exists():
                os.mkfifo(root / name)
            elif not (root / name).is_fifo():
                content = seed
                if not whole and rng.random() < 0.5:
                    given = npy_seeds(directory) if ending == "npz" else seeds
                    content = damage(rng.choice(given), given, rng)
                (root / name).write_bytes(content)

    def read(self, directory: Path, rng: random.Random) -> None:
        path = directory / "shards"
        values = {"path": rng.choice((path, path, path / "*.np*", path / "part-*", path / "**" / "*.csv"))}
        values |= {"stream": rng.choice(("always", "always", "auto", "never"))}
        sound(ArrayConfig.model_validate(values).build())


# pictures


def _pictures(kind: str) -> list[bytes]:
    rng = np.random.default_rng(3)
    grey = Image.fromarray(rng.integers(0, 256, (7, 5), dtype=np.uint8))
    rgb = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    rgba = Image.fromarray(rng.integers(0, 256, (4, 4, 4), dtype=np.uint8))
    forms = {
        "PNG": [grey, rgb, rgba, rgb.convert("P"), grey.convert("1"), grey.convert("LA"), grey.convert("I;16")],
        "JPEG": [grey, rgb, rgb.convert("CMYK")],
        "GIF": [grey, rgb.convert("P")],
        "BMP": [grey, rgb, rgb.convert("P"), grey.convert("1")],
        "WEBP": [rgb, rgba],
        "PPM": [grey, rgb, grey.convert("1")],
    }[kind]
    seeds = []
    for number, image in enumerate(forms):
        buffer = io.BytesIO()
        options: dict[str, Any] = {"exif": _exif()} if kind in ("JPEG", "WEBP", "PNG") and number == 1 else {}
        if kind == "GIF" and number == 1:
            options = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)], "transparency": 3}
        if kind == "JPEG" and number == 0:
            options = {"progressive": True}
        image.save(buffer, kind, **options)
        seeds.append(buffer.getvalue())
    return seeds


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a picture"
    return exif


def picture_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    if seed.startswith(b"\x89PNG") and rng.random() < 0.7:
        return m.png_mutated(seed, seeds, rng)
    return m.bytes_mutated(seed, seeds, rng)


def read_picture(path: Path, rng: random.Random) -> None:
    header = read_header(path)
    size = header.size if rng.random() < 0.6 else (5, 6)
    pixels = read_pixels(path, rng.choice((header.mode, "grey", "rgb", "rgba")), size)
    assert pixels.shape[1:] == size and pixels.dtype == np.uint8


def pictures(name: str, suffix: str, kinds: tuple[str, ...]) -> FileReader:
    def make(directory: Path) -> list[bytes]:
        return [seed for kind in kinds for seed in _pictures(kind)]

    return FileReader(name, f"picture{suffix}", make, picture_damage, read_picture)


class FolderReader(Reader):
    """A folder: odd names, links inwards and outwards, pipes, folders in place of files, splits and classes."""

    def prepare(self, directory: Path) -> None:
        self.seeds = _pictures("PNG") + _pictures("JPEG") + _pictures("GIF")

    def write(self, directory: Path, rng: random.Random) -> None:
        root = directory / "folder"
        if root.exists():
            _emptied(root)
        os.makedirs(root, exist_ok=True)
        same = rng.choice(self.seeds[:3])
        for number in range(rng.randrange(2, 6)):
            above = rng.choice(("", "", "a", "b", "train", "test", "train/a", "validation", ".hidden"))
            os.makedirs(root / above, exist_ok=True)
            stem = rng.choice((str(number), str(number), "é", "\udcff", "a" * 200, "x\ny", ".dot", "'"))
            path = root / above / f"{stem}{rng.choice(('.png', '.png', '.jpg', '.gif', '.PNG', '.txt', ''))}"
            try:
                self._put(path, same if rng.random() < 0.8 else rng.choice(self.seeds), rng)
            except (FileExistsError, IsADirectoryError):
                continue

    def _put(self, path: Path, content: bytes, rng: random.Random) -> None:
        kind = rng.randrange(30)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.symlink_to(
                rng.choice(("/etc/passwd", "/dev/zero", "..", ".", path.name, "nowhere", "0.png", "/proc/self/mem"))
            )
        elif kind == 2:
            os.makedirs(path)
        elif path.is_symlink() or path.is_fifo():
            return  # writing there would follow the link, or wait for a reader
        elif kind < 7:
            path.write_bytes(picture_damage(content, self.seeds, rng))
        else:
            path.write_bytes(content)

    def read(self, directory: Path, rng: random.Random) -> None:
        values: dict[str, Any] = {"path": directory / "folder", "labels": rng.random() < 0.3}
        values |= {"mode": rng.choice(("auto", "auto", "grey", "rgb", "rgba"))}
        values |= {"stream": rng.choice(("auto", "always", "never"))}
        if rng.random() < 0.6:
            values |= {"size": rng.choice(((4, 4), (7, 5), (100_000, 100_000), (1, 1)))}
            values |= {"resize": rng.choice(("refuse", "centre-crop-resize", "centre-crop-resize"))}
        sound(ImagesConfig.model_validate(values).build())


def _emptied(root: Path) -> None:
    for parent, folders, files in os.walk(root, topdown=False):
        for name in files:
            os.unlink(os.path.join(parent, name))
        for name in folders:
            path = os.path.join(parent, name)
            (os.unlink if os.path.islink(path) else os.rmdir)(path)


# models and runs

MODELS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"shape": (2,), "shift": (1.0, 2.0), "scale": (3.0, 0.5), "names": ("a", "b")},
        {
            "kernel": {"type": "gaussian", "sigma": 0.3},
            "density": {"type": "made", "hidden": [4], "components": 2},
            "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [4], "components": 2}},
        },
    ),
    (
        {"shape": (1, 4, 4), "low": -1.0, "high": 1.0, "levels": 4},
        {
            "kernel": {"type": "laplace", "sigma": 0.3},
            "density": {"type": "pixelcnnpp", "filters": 2, "blocks": 1, "resolutions": 1, "components": 1},
            "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [4], "components": 1}},
        },
    ),
    (
        {"shape": (3,)},
        {
            "kernel": {"type": "gaussian", "sigma": [0.1, 0.2, 0.3], "learnable": True},
            "density": {"type": "realnvp", "layers": 2, "hidden": [4]},
            "inverter": {"type": "gradient"},
        },
    ),
]


class ModelReader(Reader):
    """A saved model, of which either file is damaged, or both are of different models."""

    def __init__(self, name: str, which: str) -> None:
        super().__init__(name)
        self.which = which
        self.pairs: list[tuple[bytes, bytes]] = []

    def prepare(self, directory: Path) -> None:
        torch.manual_seed(0)
        for event, config in MODELS:
            model = SmoothedConfig.model_validate(config).build(EventSpec(**event))
            model.save_pretrained(directory)
            self.pairs.append(
                ((directory / "config.json").read_bytes(), (directory / "model.safetensors").read_bytes())
            )
        self.trees = [json.loads(config) for config, _ in self.pairs]

    def write(self, directory: Path, rng: random.Random) -> None:
        config, weights = rng.choice(self.pairs)
        if rng.random() >= PLAIN:
            if self.which == "config":
                config = self._config(config, rng)
            else:
                weights = safetensors_damage(weights, [each for _, each in self.pairs], rng)
        (directory / "config.json").write_bytes(config)
        (directory / "model.safetensors").write_bytes(weights)

    def _config(self, config: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.15:
            return m.text_mutated(
                config, [each for each, _ in self.pairs], rng, (*m.ODD_TEXTS, "[" * 2000, '{"a":' * 90)
            )
        return m.json_bytes(m.tree_mutated(json.loads(config), self.trees, rng), rng)

    def read(self, directory: Path, rng: random.Random) -> None:
        model = load_model(directory)
        assert not model.training


RUN: dict[str, Any] = {
    "name": "run",
    "data": {"type": "rings", "train_size": 32, "test_size": 8},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [4], "components": 1},
    "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [4], "components": 1}},
    "trainer": {"max_steps": 4, "batch_size": 4, "checkpoint_every": 2, "validate_every": 2, "patience": 1},
}


class CheckpointReader(Reader):
    """A checkpoint that training resumes from."""

    def prepare(self, directory: Path) -> None:
        config = load_config(RUN)
        source = config.data.build()
        parts = assemble(config, source)
        self.run = RunDirectory(directory)
        self.trainer = trainer_of(*parts, source, DevicePolicy(config.device), self.run)
        save = self.trainer._save

        def keep(index: int, training: Any) -> None:
            save(index, training)
            self.seeds.append(self.run.checkpoint.read_bytes())

        self.trainer._save = keep  # type: ignore[method-assign]
        self.trainer.train()
        self.trainer._save = save  # type: ignore[method-assign]
        self.metrics = (directory / "metrics.jsonl").read_bytes()

    def write(self, directory: Path, rng: random.Random) -> None:
        seed = rng.choice(self.seeds)
        data = seed if rng.random() < PLAIN else safetensors_damage(seed, self.seeds, rng)
        newest, former = self.run.checkpoint, self.run.former_checkpoint
        newest, former = directory / newest.name, directory / former.name
        former.unlink(missing_ok=True)
        if rng.random() < 0.1:  # the newest is damaged for sure, so that the one before it is asked for
            former.write_bytes(data)
            data = data[: rng.randrange(9)]
        newest.write_bytes(data)

    def read(self, directory: Path, rng: random.Random) -> None:
        self.run.path = directory
        saved = self.trainer._read_checkpoint()
        stage = saved[1]["stage"]
        if stage < len(self.trainer.stages):
            training = self.trainer._start(self.trainer.stages[stage], saved)
            if rng.random() < 0.1:
                self.trainer.seed = 0
                self.trainer._step(self.trainer.stages[stage], training)


def experiment_seeds(directory: Path) -> list[bytes]:
    """The three shortest recipes, and one in JSON: YAML is parsed slowly."""
    shortest = sorted((path.read_bytes() for path in recipes().values()), key=len)[:3]
    return [*shortest, json.dumps(RUN).encode()]


class ExperimentReader(Reader):
    """An experiment's YAML file, with overrides."""

    def prepare(self, directory: Path) -> None:
        self.seeds = experiment_seeds(directory)
        self.trees = [documents.parse_yaml(seed.decode()) for seed in self.seeds]

    def write(self, directory: Path, rng: random.Random) -> None:
        kind = rng.random()
        if kind < PLAIN:
            data = rng.choice(self.seeds)
        elif kind < 0.4:
            data = m.text_mutated(rng.choice(self.seeds), self.seeds, rng, YAML_TOKENS)
        elif kind < 0.5:
            data = m.bytes_mutated(rng.choice(self.seeds), self.seeds, rng)
        else:
            data = m.yaml_bytes(m.tree_mutated(rng.choice(self.trees), self.trees, rng), rng)
        (directory / "experiment.yaml").write_bytes(data)

    def read(self, directory: Path, rng: random.Random) -> None:
        overrides = []
        if rng.random() < 0.3:
            key = rng.choice(
                ("trainer.max_steps", "kernel.sigma", "density", "density.type", "name", "seed", "a.b", "", "data")
            )
            value = rng.choice((*m.ODD_TEXTS, *YAML_TOKENS, *map(str, m.ODD_NUMBERS)))
            overrides.append(rng.choice((f"{key}={value}", key, f"{key}=[{value}]", f"{key}={{a: {value}}}", value)))
        if rng.random() < 0.2:
            RunDirectory(directory).stored_config()
        else:
            load_config(directory / "experiment.yaml", overrides)


# fmt: off
YAML_TOKENS = (
    *m.ODD_TEXTS, ": ", "- ", "? ", "&a ", "*a", "<<: *a", "!!python/object/apply:os.system [x]", "!!binary aGk=",
    "!!int x", "!!float '.'", "!!timestamp 2020-01-01", "!!set {a}", "!!omap [a: 1]", "!<tag:yaml.org,2002:null> x",
    "!x ", "%YAML 9.9\n", "%TAG ! tag:x,2000:\n", "---\n", "...\n", "|\n", ">-9\n", '"\\ud800"', '"\\U00110000"',
    '"\\x00"', "[", "{", "]", "}", ",", "1:30:00", "0o17", "0b11", "017", "1_000", ".inf", "-.INF", ".nan", "1e-3",
    "1e9999", "on", "no", "~", "#", "\t", "'", "\\${a}", "${", "${trainer.max_steps}", "${.a}", "${a.${b}}",
    "${kernel}", "${density}", "[*a, *a]", "&a [*a]",
)
# fmt: on


def log_seeds(directory: Path) -> list[bytes]:
    lines = [json.dumps({"stage": "density", "step": i, "loss": 1.5 / i, "learning_rate": 1e-3}) for i in range(1, 6)]
    lines += [json.dumps({"stage": "inverter", "step": 5, "validation_loss": float("nan")})]
    return ["".join(f"{line}\n" for line in lines).encode(), f"{lines[0]}\n{lines[1][:9]}".encode()]


def log_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return m.text_mutated(
            seed, seeds, rng, (*m.ODD_TEXTS, "NaN", "-Infinity", "[" * 5000, "\r", "\u2028", '"a":1,')
        )
    lines = seed.splitlines()
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(lines))
        try:
            record = json.loads(lines[at])
        except ValueError:
            continue
        lines[at] = m.json_bytes(m.tree_mutated(record, [record], rng), rng)
    return b"\n".join(lines) + rng.choice((b"\n", b""))


def read_log(path: Path, rng: random.Random) -> None:
    run = RunDirectory(path.parent)
    if rng.random() < 0.2:
        run.rewind(rng.choice((0, 1, 3, 10**18)))
    for record in run.metrics():
        assert isinstance(record["stage"], str) and record["step"] >= 0


SEARCH = {
    "sigma": 0.3, "finished": True, "winner": 0.3, "median": 0.5, "candidates": [0.1, 0.3, 0.6],
    "rungs": [
        {"steps": 5, "candidates": [0.1, 0.3, 0.6], "scores": [None, -1.5, -2.0], "behind": [None, 0.0, 0.5],
         "stderr": [None, 0.0, 0.1], "seconds": 0.2},
    ],
}  # fmt: skip


def search_seeds(directory: Path) -> list[bytes]:
    return [json.dumps(SEARCH).encode()]


def evaluation_seeds(directory: Path) -> list[bytes]:
    return [json.dumps({"parameters": {"density": 12}, "likelihoods": SEARCH}).encode()]


def read_evaluation(path: Path, rng: random.Random) -> None:
    assert isinstance(RunDirectory(path.parent).evaluation(), dict)


def json_damage(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return m.text_mutated(seed, seeds, rng, (*m.ODD_TEXTS, "NaN", "-Infinity", "[" * 5000, '{"a":' * 200, ",", '"'))
    tree = json.loads(seed)
    return m.json_bytes(m.tree_mutated(tree, [tree], rng), rng)


def read_search(path: Path, rng: random.Random) -> None:
    from smoothgen.sigma_search import summary, with_found_sigma
    from smoothgen.successive_halving import Rung

    record = RunDirectory(path.parent).search()
    assert record is not None
    summary(record)
    for rung in record["rungs"]:
        Rung.restored(rung)
    with_found_sigma(load_config("rings", ["kernel.sigma=auto"]) if rng.random() < 0.01 else load_config(RUN), record)


class ReportReader(Reader):
    """A run's folder as the report and the model card read it: each file sound, damaged or missing."""

    def prepare(self, directory: Path) -> None:
        self.files = {
            "experiment.yaml": ([json.dumps(RUN).encode()], json_damage),
            "metrics.jsonl": (log_seeds(directory), log_damage),
            "sigma_search.json": (search_seeds(directory), json_damage),
            "evaluation.json": (evaluation_seeds(directory), json_damage),
            "environment.json": ([b'{"python": "3.11", "packages": {"torch": "2"}, "command": ["x"]}'], json_damage),
        }

    def write(self, directory: Path, rng: random.Random) -> None:
        for name, (seeds, damage) in self.files.items():
            kind, seed = rng.random(), rng.choice(seeds)
            if kind < 0.1:
                (directory / name).unlink(missing_ok=True)
            else:
                (directory / name).write_bytes(damage(seed, seeds, rng) if kind < 0.5 else seed)

    def read(self, directory: Path, rng: random.Random) -> None:
        record = read_run(directory)
        assert isinstance(record.evaluation, dict) and all(isinstance(line, dict) for line in record.metrics)


MASK_EVENT = EventSpec(shape=(1, 4, 4))


class MaskReader(Reader):
    """A mask in every format of arrays, or by name."""

    FORMS = (
        ("mask.npy", npy_damage),
        ("mask.csv", csv_damage),
        ("mask.safetensors", safetensors_damage),
        ("mask.npz", npz_damage),
    )

    def prepare(self, directory: Path) -> None:
        values = (np.arange(48).reshape(3, 1, 4, 4) % 3 == 0)[:, :]
        arrays = [values, values[0], values.astype(float), values.astype(np.uint8).reshape(3, 16)]
        text = "\n".join(",".join(map(str, row)) for row in values.astype(int).reshape(3, 16)).encode()
        packed = [npy(each) for each in arrays]
        tensors = [save_safetensors({"mask": torch.from_numpy(each.copy())}) for each in arrays]
        self.of_form = {"mask.npy": packed, "mask.npz": packed, "mask.csv": [text], "mask.safetensors": tensors}

    def write(self, directory: Path, rng: random.Random) -> None:
        for name, _ in self.FORMS:
            (directory / name).unlink(missing_ok=True)
        self.file, damage = rng.choice(self.FORMS)
        seeds = self.of_form[self.file]
        plain = rng.random() < PLAIN and self.file != "mask.npz"
        seed = rng.choice(seeds)
        (directory / self.file).write_bytes(seed if plain else damage(seed, seeds, rng))

    def read(self, directory: Path, rng: random.Random) -> None:
        if rng.random() < 0.05:
            what = rng.choice((*m.ODD_TEXTS, "top", "centre", "a,b", ",", "nan"))
            event = rng.choice((MASK_EVENT, EventSpec(shape=(2,), names=("a", "b")), EventSpec(shape=(1, 1))))
            assert unknown_mask(what, event, torch.zeros(3, *event.shape)).dtype == torch.bool
        mask = read_mask(directory / self.file, MASK_EVENT, 3)
        assert mask.dtype == torch.bool and tuple(mask.shape[-3:]) == MASK_EVENT.shape


def classifier_seeds(directory: Path) -> list[bytes]:
    return [shipped()["digits"].read_bytes()]


def read_classifier(path: Path, rng: random.Random) -> None:
    network, _ = load_classifier(path)
    assert not network.training


class _Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def script_seeds(directory: Path) -> list[bytes]:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(_Means()), buffer)
    return [buffer.getvalue()]


def read_script(path: Path, rng: random.Random) -> None:
    """A file that nobody vouched for, as a foreign configuration would name it: it must not even be looked into."""
    os.environ[TRUST] = hashlib.sha256(b"another file").hexdigest()
    config = TorchScriptConfig(path=path, name="means", num_features=3)
    config.build(EventSpec(shape=(3, 4, 4), low=-1.0, high=1.0))
    raise AssertionError("a script ran that nobody vouched for")


def gz(
    damage: Callable[[bytes, list[bytes], random.Random], bytes],
) -> Callable[[bytes, list[bytes], random.Random], bytes]:
    def damaged(seed: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
        payload = seed if rng.random() < 0.4 else damage(seed, seeds, rng)
        return m.gzip_mutated(payload, rng) if rng.random() < 0.8 else gzip.compress(payload, 1, mtime=0)

    return damaged


READERS: tuple[Reader, ...] = (
    FileReader("idx", "train-images-idx3-ubyte", idx_seeds, idx_damage, read_mnist),
    FileReader("idx.gz", "train-images-idx3-ubyte.gz", idx_gz_seeds, gz(idx_damage), read_mnist),
    FileReader("cifar10", TRAIN[0], cifar_seeds, cifar_damage, read_cifar),
    FileReader("cifar10.gz", f"{TRAIN[0]}.gz", cifar_gz_seeds, gz(cifar_damage), read_cifar),
    FileReader("npy", "array.npy", npy_seeds, npy_damage, read_arrays),
    NpzReader("npz", "array.npz", npy_seeds, npz_damage, read_arrays),
    FileReader("csv", "table.csv", csv_seeds, csv_damage, read_arrays),
    FileReader("safetensors", "array.safetensors", safetensors_seeds, safetensors_damage, read_arrays),
    ShardReader("sharded arrays"),
    pictures("png", ".png", ("PNG",)),
    pictures("jpeg", ".jpg", ("JPEG",)),
    pictures("gif", ".gif", ("GIF",)),
    pictures("bmp, webp, ppm", ".bmp", ("BMP", "WEBP", "PPM")),
    FolderReader("image folder"),
    ModelReader("model.safetensors", "weights"),
    ModelReader("config.json", "config"),
    CheckpointReader("checkpoint"),
    ExperimentReader("experiment.yaml"),
    FileReader("metrics.jsonl", "metrics.jsonl", log_seeds, log_damage, read_log),
    FileReader("sigma_search.json", "sigma_search.json", search_seeds, json_damage, read_search),
    FileReader("evaluation.json", "evaluation.json", evaluation_seeds, json_damage, read_evaluation),
    ReportReader("run of a report"),
    MaskReader("mask"),
    FileReader("feature classifier", "f.safetensors", classifier_seeds, safetensors_damage, read_classifier),
    FileReader("torchscript", "script.pt", script_seeds, m.bytes_mutated, read_script),
)
