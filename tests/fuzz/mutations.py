"""Mutations: of bytes, of plain trees (JSON, YAML), and of the formats whose checksums and lengths hide them."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import yaml
from safetensors.torch import load as load_safetensors

from smoothgen.checksums import digest

# fmt: off
INTERESTING = (
    0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)
ODD_TEXTS = (
    "", "\0", "../../etc/passwd", "/dev/zero", "/dev/stdin", "~nobody/x", "a" * 5000, "\ud800", "é\u202e", "${a}",
    "${oc.env:HOME}", "${data}", "${data.path}", "nan", "inf", "-1", "1e999", "9" * 5000, "0x1F", "null", "true", "{}",
    "auto", "median", "made", "realnvp", "smoothed", "pixelcnnpp", "zuko_nsf", "conditional", "gradient", "laplace",
    "uniform", "array", "images", "mnist", "digits", "rings", "torchscript", "%s%n", "\n", "'\"",
)
ODD_NUMBERS = (
    0, -1, 1, 2, 3, 7, 16, 255, 256, 65536, 10**6, 10**9, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.0,
    0.5, 1e-320, 1e-30, 1e30, 1e308, -1e308, float("inf"), float("-inf"), float("nan"),
)
SHAPES = (
    "()", "(0,)", "(-1,)", "(True, 2)", "(10**9,)", "(1000000000000,)", f"({2**63},)", "(1.5,)", "(2, 3)", "(3, 2)",
    "(6,)", "(" + "1," * 70 + ")", "[2, 3]", "2", "(2, 'a')", "(None,)",
)
TYPES = (
    "'|O'", "'<f8'", "'<f2'", "'<f16'", "'<c16'", "'|V0'", "'|S0'", "'<U0'", "'|b1'", "'<M8[s]'", "'<U4'", "'|V8'",
    "'>i8'", "'<u1'", "[('a', '<f8')]", "[('a', '|O')]", "[('a', '<f8', (10**9,))]", "'f8,f8'", "''", "None",
    "('<f8', (2,))", "'<f8" + " " * 50 + "'",
)
CHUNKS = (
    b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"cHRM", b"pHYs",
    b"sRGB", b"IDAT", b"IEND", b"abcd",
)
# fmt: on


def bytes_mutated(seed: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to a few changes anywhere: flips, odd numbers, cuts, repeats, moves, splices with another seed."""
    data = bytearray(seed)
    for _ in range(1 + int(rng.expovariate(0.7))):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.4:
            at = min(at, rng.randrange(65))  # headers come first
        length = min(int(rng.expovariate(0.1)) + 1, len(data) - at)
        kind = rng.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            value = rng.choice(INTERESTING) & ((1 << 8 * size) - 1)
            data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.randbytes(length)
        elif kind == 5:
            data[at:at] = data[at : at + length] * min(rng.choice((1, 2, 10, 300)), 1 + (1 << 16) // max(length, 1))
        elif kind == 6:
            del data[at:]
        elif kind == 7:
            other = rng.choice(others)
            cut = rng.randrange(len(other) + 1)
            data[at:] = other[cut:]
        else:
            other_at = rng.randrange(len(data) + 1)
            data[other_at:other_at] = data[at : at + length]
    return bytes(data)


def text_mutated(seed: bytes, others: Sequence[bytes], rng: random.Random, tokens: Sequence[str]) -> bytes:
    """Words put in, replaced and repeated; a few are no UTF-8."""
    text = seed.decode("utf-8", "replace")
    for _ in range(1 + int(rng.expovariate(0.7))):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 1, 3, 10)))
        text = text[:at] + rng.choice(tokens) * rng.choice((1, 1, 1, 2, 50)) + text[end:]
    data = text.encode("utf-8", rng.choice(("surrogatepass", "replace")))
    return bytes_mutated(data, others, rng) if rng.random() < 0.2 else data


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(node, dict):
        found += [place for key, value in node.items() for place in _places(value, (*path, key))]
    elif isinstance(node, list):
        found += [place for index, value in enumerate(node[:12]) for place in _places(value, (*path, index))]
    return found


def _at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def odd_value(rng: random.Random, others: Sequence[Any] = ({},)) -> Any:
    """A number, text or structure that a reader may not expect."""
    kind = rng.randrange(9)
    if kind < 3:
        return rng.choice(ODD_NUMBERS)
    if kind == 3:
        return rng.choice(ODD_TEXTS)
    if kind == 4:
        return rng.choice((None, True, False, [], {}, [[]], [None], {"type": rng.choice(ODD_TEXTS)}))
    if kind == 5:
        return [rng.choice(ODD_NUMBERS) for _ in range(rng.choice((1, 2, 3, 20, 300)))]
    if kind == 6:
        deep: Any = rng.choice(ODD_NUMBERS)
        for _ in range(rng.choice((3, 20, 70, 150))):
            deep = [deep] if rng.random() < 0.5 else {rng.choice(("a", "density", "type")): deep}
        return deep
    other = rng.choice(others)
    return copy.deepcopy(_at(other, rng.choice(_places(other))))


def tree_mutated(tree: Any, others: Sequence[Any], rng: random.Random) -> Any:
    """One to a few values replaced, removed, renamed, swapped or put below one another."""
    tree = copy.deepcopy(tree)
    for _ in range(1 + int(rng.expovariate(0.9))):
        place = rng.choice(_places(tree))
        if not place:
            if rng.random() < 0.05:
                return odd_value(rng, others)
            continue
        parent, key, kind = _at(tree, place[:-1]), place[-1], rng.randrange(7)
        value = parent[key]
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice((*ODD_TEXTS, *parent))] = parent.pop(key)
        elif kind == 2 and isinstance(value, (int, float)) and not isinstance(value, bool):
            parent[key] = rng.choice((value + 1, value * 2, -value, value * 2**40, value * 0.3, [value], str(value)))
        elif kind == 3 and isinstance(parent, list):
            parent[key:key] = [copy.deepcopy(value)] * rng.choice((1, 2, 100))
        elif kind == 4:
            parent[key] = copy.deepcopy(_at(tree, rng.choice(_places(tree))))
        else:
            parent[key] = odd_value(rng, others)
    return tree


def json_bytes(tree: Any, rng: random.Random) -> bytes:
    """JSON, sometimes with a key twice, odd spaces, a mark at its start, or escapes for everything."""
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.8, indent=rng.choice((None, None, 2)))
    if rng.random() < 0.05 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]
    if rng.random() < 0.03:
        text = "\ufeff" + text
    return text.encode("utf-8", "surrogatepass")


def yaml_bytes(tree: Any, rng: random.Random) -> bytes:
    """YAML in either style; JSON where YAML has no writer for a value."""
    if rng.random() < 0.5:
        return json_bytes(tree, rng)
    try:
        text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=rng.choice((None, False)), allow_unicode=True)
    except (yaml.YAMLError, RecursionError):
        return json_bytes(tree, rng)
    return text.encode("utf-8", "surrogatepass")


def safetensors_bytes(header: Any, body: bytes, rng: random.Random) -> bytes:
    """A file with that header; its length is sometimes another."""
    text = json_bytes(header, rng)
    text += b" " * (-len(text) % 8)
    length = (
        len(text) if rng.random() < 0.95 else rng.choice((*INTERESTING, len(text) + 1, len(text) - 8)) & (2**64 - 1)
    )
    return struct.pack("<Q", max(length, 0)) + text + body


def safetensors_parts(data: bytes) -> tuple[Any, bytes]:
    """(header, body) of a sound file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def safetensors_mutated(seed: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Shapes, types, offsets, names and metadata changed, in a file that is otherwise whole."""
    header, body = safetensors_parts(seed)
    metadata = header.get("__metadata__", {})
    if "smoothgen" in metadata and rng.random() < 0.6:
        inner = [
            json.loads(safetensors_parts(other)[0].get("__metadata__", {}).get("smoothgen", "{}")) for other in others
        ]
        mutated = tree_mutated(json.loads(metadata["smoothgen"]), inner, rng)
        header["__metadata__"]["smoothgen"] = json_bytes(mutated, rng).decode("utf-8", "replace")
        return safetensors_bytes(header, body, rng)
    kind = rng.randrange(6)
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    if kind == 0:
        header[name]["dtype"] = rng.choice(
            ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X")
        )
    elif kind == 1:
        header[name]["shape"] = rng.choice(
            ([], [0], [1] * 70, [2**63], [-1], [10**12], header[rng.choice(names)]["shape"])
        )
    elif kind == 2:
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = rng.choice(([end, begin], [begin, end + 4], [0, len(body)], [begin, 2**63]))
    elif kind == 3:
        header[rng.choice((*ODD_TEXTS, *names))] = header.pop(name)
    elif kind == 4:
        body = bytes_mutated(body or b"x", [body or b"x"], rng)
    else:
        header = tree_mutated(header, [header], rng)
    return safetensors_bytes(header, body, rng)


def signed(data: bytes) -> bytes:
    """The file with the checksum of what it now holds, as somebody who means harm would write it; or as it was."""
    try:
        header, body = safetensors_parts(data)
        metadata = json.loads(header["__metadata__"]["smoothgen"])
        metadata.pop("digest")
        metadata["digest"] = digest(load_safetensors(data), metadata)
        header["__metadata__"]["smoothgen"] = json.dumps(metadata)
        text = json.dumps(header).encode()
    except Exception:  # whatever is wrong with the file is for the reader to find
        return data
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def gzip_mutated(payload: bytes, rng: random.Random) -> bytes:
    """Packed, sometimes several members, with junk after, damaged, or a bomb."""
    kind = rng.randrange(10)
    if kind == 0:
        payload += bytes(rng.choice((1, 1000, 3_000_000)))
    packed = gzip.compress(payload, rng.choice((0, 1, 6)), mtime=0)
    if kind == 1:
        packed += rng.choice((packed, bytes(100), rng.randbytes(20), gzip.compress(bytes(1 << 20))))
    if kind in (2, 3, 4):
        packed = bytes_mutated(packed, [packed], rng)
    return packed


def npy_mutated(seed: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The header's text changed, with its length set right."""
    (length,) = struct.unpack("<H", seed[8:10])
    header, body = seed[10 : 10 + length].decode("latin1"), seed[10 + length :]
    kind = rng.randrange(5)
    if kind == 0:
        shape = rng.choice(SHAPES)
        start = header.index("'shape':") + 8
        header = header[:start] + shape + header[header.index("}", start) :]
    elif kind == 1:
        start = header.index("'descr':") + 8
        descr = rng.choice(TYPES)
        header = header[:start] + descr + header[header.index(", 'fortran", start) :]
    elif kind == 2:
        header = header.replace("False", rng.choice(("True", "None", "1", "'x'", "[]")))
    elif kind == 3:
        header = rng.choice(
            ("[" * 3000, "{" * 500, "(" * 9000, "1" * 9000, "{'a':" * 100, "-" * 5000, "lambda: 0", "\0")
        )
    else:
        header = text_mutated(header.encode(), [header.encode()], rng, ODD_TEXTS).decode("latin1")
    text = header.encode("latin1", "replace")
    if rng.random() < 0.2:
        body = bytes_mutated(body or b"x", others, rng)
    version = rng.choice((1, 1, 1, 1, 2, 3, 9))
    size = struct.pack("<H" if version == 1 else "<I", len(text) & 0xFFFF)
    return b"\x93NUMPY" + bytes((version, rng.choice((0, 0, 0, 1)))) + size + text + body


def npz_mutated(members: dict[str, bytes], others: Sequence[bytes], rng: random.Random) -> bytes:
    """Members with odd names, types, sizes and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members.items():
            if rng.random() < 0.3:
                name = rng.choice(
                    ("x.npy", "../x.npy", "/x.npy", "x", "x.npy/", "a/../b.npy", "\u202e.npy", "x" * 3000)
                )
            info = zipfile.ZipInfo(name)
            info.compress_type = rng.choice((0, 8, 8, 8, 12, 14))
            if rng.random() < 0.1:
                info.external_attr = rng.choice((0o120777, 0o010644, 0o060644, 0o040755, 0o100644)) << 16
            if rng.random() < 0.5:
                content = npy_mutated(content, others, rng)
            if rng.random() < 0.01:
                content += bytes(2_000_000)
            archive.writestr(info, content)
    data = bytearray(buffer.getvalue())
    if rng.random() < 0.4:  # the central directory's own sizes, offsets and flags
        start = data.rfind(b"PK\x01\x02")
        at = start + rng.choice((8, 10, 16, 20, 24, 28, 30, 32, 38, 42))
        data[at : at + 4] = struct.pack("<I", rng.choice(INTERESTING) & 0xFFFFFFFF)
    return bytes_mutated(bytes(data), others, rng) if rng.random() < 0.2 else bytes(data)


def png_mutated(seed: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Chunks changed, moved, repeated and made up, with right checksums, so that the decoder sees them."""
    chunks = _png_chunks(seed)
    for _ in range(1 + int(rng.expovariate(0.9))):
        at = rng.randrange(len(chunks))
        kind, content = chunks[at]
        choice = rng.randrange(7)
        if kind == b"IHDR" or choice == 0:
            index = next((i for i, (name, _) in enumerate(chunks) if name == b"IHDR"), None)
            if index is not None:
                header = bytearray(chunks[index][1].ljust(13, b"\0"))
                if rng.random() < 0.6:
                    place = rng.choice((0, 4))
                    header[place : place + 4] = struct.pack(">I", rng.choice((*INTERESTING[:18], 5, 20000)))
                else:
                    header[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
                chunks[index] = (b"IHDR", bytes(header[:13]))
        elif choice == 1:
            chunks[at] = (kind, bytes_mutated(content or b"x", [content or b"x"], rng))
        elif choice == 2:
            del chunks[at]
        elif choice == 3:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
        elif choice == 4:
            chunks.insert(rng.randrange(len(chunks) + 1), _made_up(rng))
        elif choice == 5 and kind == b"IDAT":
            with suppress(zlib.error):
                content = zlib.decompressobj().decompress(content, 1 << 16)
            raw = bytes_mutated(content or b"x", [b"\0" * 64], rng)
            chunks[at] = (kind, zlib.compress(raw + bytes(rng.choice((0, 0, 0, 2_000_000))), 1))
        else:
            rng.shuffle(chunks)
        if not chunks:
            return seed[:8]
    return seed[:8] + b"".join(
        struct.pack(">I", len(content) if rng.random() < 0.98 else rng.choice(INTERESTING) & 0xFFFFFFFF)
        + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )  # fmt: skip


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _made_up(rng: random.Random) -> tuple[bytes, bytes]:
    kind = rng.choice(CHUNKS)
    bomb = b"x\0\0" + zlib.compress(bytes(rng.choice((10, 3_000_000))), 1)
    return kind, rng.choice(
        (b"", rng.randbytes(rng.choice((1, 3, 26, 768))), bomb, struct.pack(">6I", *([2**31 - 1] * 6)))
    )
