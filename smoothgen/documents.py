"""The one reader of YAML and JSON: plain values, each size bounded, nothing reached outside the document."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from smoothgen.errors import DocumentError
from smoothgen.limits import DOCUMENT_DEPTH, DOCUMENT_VALUES, JSON_BYTES, LOG_BYTES, YAML_BYTES, YAML_VALUES, Limit
from smoothgen.references import expand
from smoothgen.regular_file import open_regular, read_bytes

INTEGERS = range(-(1 << 63), 1 << 64)
"""What a 64-bit integer can hold, signed or not: longer ones overflow somewhere later."""
TAG = "tag:yaml.org,2002:"
INTEGER = re.compile(r"^[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)$")
FLOAT = re.compile(
    r"^[-+]?(?:(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
"""As in YAML 1.2, where 1e-3 is a number; sexagesimal numbers and dates are text."""


def read_yaml(path: Path) -> Any:
    """The plain values in a YAML file; ${a.b} stands for another key's value, and for nothing outside the file.

    Raises DocumentError, OSError.
    """
    return parse_yaml(_text(read_bytes(path, YAML_BYTES)))


def parse_yaml(text: str) -> Any:
    """The plain values of one YAML document, references expanded. NaN and infinity are left to who reads the keys, and
    can name them. Raises DocumentError."""
    _refuse_length(text, YAML_BYTES)
    try:
        document = _Loader(text).get_single_data()
    except DocumentError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an escape beyond the last character
        raise DocumentError(" ".join(str(error).split())) from error
    return _checked(expand(_checked(document, finite=False)), finite=False)


def to_yaml(value: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads back, keys in their order."""
    return yaml.dump(_escaped(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_json(path: Path) -> Any:
    """The plain values in a JSON file. Raises DocumentError, OSError."""
    return parse_json(_text(read_bytes(path, JSON_BYTES)))


def parse_json(text: str, finite: bool = True) -> Any:
    """The plain values of one JSON document. finite: refuse NaN and infinity, which JSON proper has not.

    Raises DocumentError; also for a key given twice, integers of more than 64 bits and lone surrogates.
    """
    _refuse_length(text, JSON_BYTES)
    try:
        document = json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_int=_integer,
            parse_constant=_no_constant if finite else None,
        )
    except DocumentError:
        raise
    except RecursionError:
        raise DocumentError(f"is nested more than {DOCUMENT_DEPTH.value} levels deep") from None
    except ValueError as error:
        raise DocumentError(str(error)) from error
    return _checked(document, finite)


def read_json_lines(path: Path) -> list[Any]:
    """The values of a log, one a line; NaN and infinity are kept. What a kill left of the last line is dropped.

    Raises DocumentError naming the line, OSError.
    """
    values, read = [], 0
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            read += len(line)
            if excess := LOG_BYTES.excess(read):
                raise DocumentError(f"has {excess}")
            try:
                values.append(parse_json(_text(line), finite=False))
            except DocumentError as error:
                if line.endswith(b"\n"):
                    raise DocumentError(f"line {number}: {error}") from error
    return values


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not text in UTF-8 ({error.reason} at byte {error.start})") from error


def _refuse_length(text: str, limit: Limit) -> None:
    if excess := limit.excess(len(text)):
        raise DocumentError(f"has {excess}")


def _no_constant(constant: str) -> Any:
    raise DocumentError(f"{constant} is no finite number")


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else None
    if number is None or number not in INTEGERS:
        raise DocumentError(f"{digits:.20}{'...' if len(digits) > 20 else ''} has more than 64 bits")
    return number


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys: set[str] = set()
        repeated = next(key for key, _ in pairs if key in keys or keys.add(key))  # type: ignore[func-returns-value]
        raise DocumentError(f"the key {repeated!r:.60} is given twice")
    return found


def _checked(document: Any, finite: bool = True) -> Any:
    """The document itself, once it is neither too deep nor too large and every value is plain."""
    deepest, left = DOCUMENT_DEPTH.value, DOCUMENT_VALUES.value
    pending: list[tuple[int, Iterator[Any]]] = [(0, iter((document,)))]
    while pending:
        depth, values = pending[-1]
        value = next(values, pending)
        if value is pending:
            pending.pop()
            continue
        left -= 1
        if left < 0:
            raise DocumentError(f"holds {DOCUMENT_VALUES.excess(DOCUMENT_VALUES.value + 1)}")
        if isinstance(value, (dict, list)):
            if depth >= deepest:
                raise DocumentError(f"is nested more than {deepest} levels deep")
            for key in value if isinstance(value, dict) else ():
                _refuse_odd(key, finite, is_key=True)
            pending.append((depth + 1, iter(value.values() if isinstance(value, dict) else value)))
        else:
            _refuse_odd(value, finite)
    return document


def _refuse_odd(value: Any, finite: bool, is_key: bool = False) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise DocumentError(f"{value!r:.60} holds half a surrogate pair, which is no character")
    elif is_key:
        raise DocumentError(f"the key {value!r:.60} is no text; write it in quotes")
    elif isinstance(value, float) and finite and not math.isfinite(value):
        raise DocumentError(f"{value} is no finite number")


class _Loader(yaml.SafeLoader):
    """YAML's plain values alone; depth, aliases and repeated keys are checked while the nodes are composed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._size = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(event.anchor)
            if size is None and event.anchor in self.anchors:
                raise DocumentError(f"the alias *{event.anchor:.40} lies inside of what it stands for")
            self._grow(size or 0)
            return super().compose_node(parent, index)
        if self._depth >= DOCUMENT_DEPTH.value:
            raise DocumentError(f"is nested more than {DOCUMENT_DEPTH.value} levels deep")
        before = self._size
        self._grow(1)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._size - before
        return node

    def _grow(self, size: int) -> None:
        self._size += size
        if excess := YAML_VALUES.excess(self._size):
            raise DocumentError(f"holds {excess}")

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise DocumentError(f"line {key.start_mark.line + 1}: the key {key.value!r:.60} is given twice")
                keys.add(key.value)
        return node

    def plain_integer(self, node: Any) -> int:
        text = self._digits(node)
        if len(text) > 80:
            raise DocumentError(f"{text:.20}... has more than 64 bits")
        base = {"0x": 16, "0o": 8, "0b": 2}.get(text.lstrip("+-")[:2], 10)
        try:
            number = int(text, base)
        except ValueError:
            raise DocumentError(f"{text!r:.40} is no whole number") from None
        if number not in INTEGERS:
            raise DocumentError(f"{text:.20}{'...' if len(text) > 20 else ''} has more than 64 bits")
        return number

    def plain_float(self, node: Any) -> float:
        text = self._digits(node)
        try:
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise DocumentError(f"{text!r:.40} is no number") from None

    def _digits(self, node: Any) -> str:
        return str(self.construct_scalar(node)).replace("_", "").lower()

    def plain_boolean(self, node: Any) -> bool:
        text = str(self.construct_scalar(node)).lower()
        if text not in self.bool_values:
            raise DocumentError(f"{text!r:.40} is neither true nor false")
        return bool(self.bool_values[text])


def _resolvers(base: dict[Any, Any]) -> dict[Any, Any]:
    """PyYAML's rules for which plain scalars are no text, without its integers, floats and dates."""
    ours = (f"{TAG}int", f"{TAG}float", f"{TAG}timestamp")
    return {first: [(tag, rule) for tag, rule in rules if tag not in ours] for first, rules in base.items()}


_Loader.yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.yaml_constructors = {
    f"{TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{TAG}bool": _Loader.plain_boolean,
    f"{TAG}int": _Loader.plain_integer,
    f"{TAG}float": _Loader.plain_float,
    f"{TAG}str": yaml.SafeLoader.construct_yaml_str,
    f"{TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{TAG}map": yaml.SafeLoader.construct_yaml_map,
    None: yaml.SafeLoader.construct_undefined,
}


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: text that looks like a number to it is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{TAG}int", INTEGER, list("-+0123456789"))
    _class.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+.0123456789"))


def _escaped(value: Any) -> Any:
    """The value with every "${" in its texts marked as text."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
