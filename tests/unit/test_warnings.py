"""Warnings have categories below SmoothgenWarning; deprecated things say when they go, and go when they said."""

from __future__ import annotations

import ast
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

import smoothgen
from smoothgen.deprecation import deprecated, warn_deprecated
from smoothgen.errors import SmoothgenDeprecationWarning, SmoothgenWarning

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "smoothgen").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])


def module_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "plugins" else parts).removesuffix(".__init__")


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    """Every call of a function of this name in the tree."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
                yield path, node


def test_every_warning_has_a_category_of_smoothgen() -> None:
    found = list(calls("warnings.warn"))
    assert len(found) >= 6
    for path, call in found:
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        category = call.args[1] if len(call.args) > 1 else named.get("category")
        where = f"{path.relative_to(ROOT)}:{call.lineno}"
        assert isinstance(category, ast.Name), f"{where}: name a category below SmoothgenWarning"
        cls = getattr(importlib.import_module(module_of(path)), category.id)
        assert issubclass(cls, SmoothgenWarning), f"{where}: {category.id} is not below SmoothgenWarning"
        assert "stacklevel" in named, f"{where}: without a stacklevel the line shown is smoothgen's own"


def test_every_class_of_warning_is_below_the_base() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Warning"):
                cls = getattr(importlib.import_module(module_of(path)), node.name)
                assert issubclass(cls, SmoothgenWarning), f"{path.relative_to(ROOT)}: {node.name}"


def overdue(removals: list[tuple[str, str]], version: str) -> list[str]:
    """What says that it will be gone in a version that is not after this one."""
    return [where for where, removal in removals if Version(removal) <= Version(version)]


def test_what_is_deprecated_goes_when_it_said() -> None:
    removals = []
    for name in ("deprecated", "warn_deprecated"):
        for path, call in calls(name):
            value = next(keyword.value for keyword in call.keywords if keyword.arg == "removal")
            if isinstance(value, ast.Constant):
                removals.append((f"{path.relative_to(ROOT)}:{call.lineno}", str(value.value)))
    assert not overdue(removals, smoothgen.__version__)


def test_the_check_of_removals_can_fail() -> None:
    removals = [("a", "0.3"), ("b", "0.2.1"), ("c", "0.10")]
    assert overdue(removals, "0.2.0") == []
    assert overdue(removals, "0.3.0") == ["a", "b"]


@deprecated(removal="9.0", instead="new_name")
def old_name(value: int) -> int:
    """Doubles."""
    return 2 * value


@deprecated(removal="9.0", instead="NewClass")
class OldClass:
    """Something."""


def old_argument(value: int | None = None) -> None:
    if value is not None:
        warn_deprecated("the argument value", removal="9.0", instead="nothing")


def test_a_deprecated_function_works_and_warns_at_the_callers_line() -> None:
    with pytest.warns(SmoothgenDeprecationWarning) as caught:
        assert old_name(3) == 6
    (warning,) = caught
    assert str(warning.message) == "old_name is deprecated and will be gone in smoothgen 9.0; use new_name"
    assert warning.filename == __file__
    assert old_name.__doc__ == "Doubles." and old_name.__name__ == "old_name"


def test_deprecated_classes_and_arguments_warn_too() -> None:
    with pytest.warns(SmoothgenDeprecationWarning, match="OldClass is deprecated"):
        OldClass()
    with pytest.warns(SmoothgenDeprecationWarning, match="the argument value is deprecated") as caught:
        old_argument(1)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        old_argument()


def test_a_deprecation_is_shown_to_users_by_default() -> None:
    """Python hides DeprecationWarning outside __main__; users of a library would never see it."""
    assert not issubclass(SmoothgenDeprecationWarning, DeprecationWarning)
    assert issubclass(SmoothgenDeprecationWarning, FutureWarning)
