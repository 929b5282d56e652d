"""${a.b} in a document stands for the value of another of its keys, and for nothing else."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from smoothgen.errors import DocumentError
from smoothgen.limits import DOCUMENT_DEPTH, YAML_VALUES

MARK = re.compile(r"\\\$\{|\$\{([^${}]*)(\}?)")
PATH = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
CHARACTERS = 16
"""So many characters of a text count as one more value."""


def expand(document: Any) -> Any:
    """The document with every ${a.b} replaced by the value at that path; \\${ is a plain ${.

    A text that is one reference alone becomes the value itself, of any type; within a text it must be a text or a
    number. What several references multiply counts as often as it appears. Raises DocumentError for a path that is not
    there, a circle, and anything but a path: no environment variables, no functions.
    """
    return _Expansion(document).value((), document).value if _mentioned(document) else document


class _Sized(NamedTuple):
    value: Any
    size: int


class _Expansion:
    def __init__(self, root: Any) -> None:
        self.root = root
        self.active: set[tuple[str, ...]] = set()
        self.done: dict[tuple[str, ...], _Sized] = {}

    def value(self, path: tuple[str, ...], node: Any) -> _Sized:
        """What stands at the path in the end."""
        if path in self.done:
            return self.done[path]
        if path in self.active:
            raise DocumentError(f"${{{'.'.join(path)}}} refers to itself")
        if len(self.active) > 2 * DOCUMENT_DEPTH.value:
            raise DocumentError(f"references are nested more than {2 * DOCUMENT_DEPTH.value} levels deep")
        self.active.add(path)
        if isinstance(node, dict):
            items = {key: self.value((*path, key), item) for key, item in node.items()}
            found = _Sized({key: item.value for key, item in items.items()}, _total(items.values()))
        elif isinstance(node, list):
            parts = [self.value((*path, str(index)), item) for index, item in enumerate(node)]
            found = _Sized([item.value for item in parts], _total(parts))
        else:
            found = self.text(node) if isinstance(node, str) and "${" in node else _Sized(node, _cost(node))
        self.active.remove(path)
        self.done[path] = found
        return found

    def text(self, text: str) -> _Sized:
        marks = list(MARK.finditer(text))
        if len(marks) == 1 and marks[0].group() == text and not text.startswith("\\"):
            return self.referred(marks[0])
        pieces: list[_Sized] = []
        end = 0
        for mark in marks:
            pieces.append(_literal(text[end : mark.start()]))
            pieces.append(_literal("${") if mark.group().startswith("\\") else self.referred(mark))
            end = mark.end()
        pieces.append(_literal(text[end:]))
        size = _total(pieces)
        for piece in pieces:
            if isinstance(piece.value, bool) or not isinstance(piece.value, (str, int, float)):
                raise DocumentError(f"{text!r:.60}: only texts and numbers can be put into a text")
        return _Sized("".join(str(piece.value) for piece in pieces), size)

    def referred(self, mark: re.Match[str]) -> _Sized:
        """The value that one reference stands for."""
        reference = mark.group(1)
        if not mark.group(2) or not PATH.fullmatch(reference):
            raise DocumentError(
                f"{mark.group():.60}: only ${{a.b}}, another key's value, is available, no environment variables and "
                "no resolvers; write the value itself, or \\${ for the characters"
            )
        path: tuple[str, ...] = ()
        node = self.root
        for key in reference.split("."):
            path = (*path, key)
            node = _below(node, key, reference)
        return self.value(path, node)


def _mentioned(node: Any) -> bool:
    """Whether there is a reference, or what looks like one, anywhere."""
    if isinstance(node, (dict, list)):
        return any(map(_mentioned, node.values() if isinstance(node, dict) else node))
    return isinstance(node, str) and "${" in node


def _below(node: Any, key: str, reference: str) -> Any:
    if isinstance(node, dict) and key in node:
        return node[key]
    if isinstance(node, list) and key.isdigit() and len(key) < 8 and int(key) < len(node):
        return node[int(key)]
    raise DocumentError(f"${{{reference:.60}}}: there is no {key:.40}")


def _literal(text: str) -> _Sized:
    return _Sized(text, _cost(text))


def _cost(value: Any) -> int:
    return 1 + len(value) // CHARACTERS if isinstance(value, str) else 1


def _total(parts: Any) -> int:
    total = 1 + sum(part.size for part in parts)
    if excess := YAML_VALUES.excess(total):
        raise DocumentError(f"its references hold {excess}")
    return total
