"""Docstrings are plain text: shapes such as (batch, *event) and indices such as x_<i must not become markup."""

import re
from typing import Any

import griffe

CODE = re.compile(r"(`[^`]*`)")


def plain(text: str) -> str:
    """The text with asterisks, brackets and angle brackets escaped outside code spans."""
    parts = CODE.split(text)
    return "".join(part if index % 2 else _escape(part) for index, part in enumerate(parts))


def _escape(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([*\[\]|])", r"\\\1", text)


class PlainDocstrings(griffe.Extension):
    """Escapes every docstring once it is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
