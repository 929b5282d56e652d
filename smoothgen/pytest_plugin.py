"""pytest --smoothgen mypackage:MyConfig: every law on every event and context as a test of its own.

The part is a configuration, a class that needs no keys, or a list of them. Options of the contract that one line cannot
say (events, laws left out) are for `smoothgen.testing.check` in a test of yours.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from smoothgen.component import ComponentConfig
    from smoothgen.testing import Law


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("smoothgen", "the contract of smoothgen's parts")
    group.addoption(
        "--smoothgen",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="judge this configuration (or class, or list of them) by every law of its interface; repeatable",
    )
    group.addoption(
        "--smoothgen-leave-out", action="append", default=[], metavar="LAW", help="a law not to judge; repeatable"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Where no paths are given, the contract is all that runs."""
    if config.getoption("--smoothgen") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    names = session.config.getoption("--smoothgen")
    if not names:
        return
    left_out = set(session.config.getoption("--smoothgen-leave-out"))
    for name in names:
        items += Contract.from_parent(session, name=name, left_out=left_out).collect()


class Contract(pytest.Collector):
    """The laws of the parts that one name stands for."""

    def __init__(self, left_out: set[str], **rest: Any) -> None:
        super().__init__(**rest)
        self.left_out = left_out

    def collect(self) -> Iterator[pytest.Item]:
        from smoothgen.testing import laws_of, subjects_of
        from smoothgen.testing.law import refuse_unknown

        for number, config in enumerate(found(self.name)):
            laws = laws_of(config)
            try:
                refuse_unknown(self.left_out, laws)
            except ValueError as error:
                raise pytest.UsageError(f"--smoothgen-leave-out: {error}") from error
            for subject in subjects_of(config):
                for law in laws:
                    if law.name not in self.left_out:
                        label = f"{number}: {law.name} on {subject.name}"
                        yield LawItem.from_parent(self, name=label, law=law, subject=subject)


class LawItem(pytest.Item):
    """One law on one event and context."""

    def __init__(self, law: Law, subject: Any, **rest: Any) -> None:
        super().__init__(**rest)
        self.law, self.subject = law, subject

    def runtest(self) -> None:
        from smoothgen.testing import verdict

        finding = verdict(self.law, self.subject)
        if finding.outcome == "does not apply":
            pytest.skip(finding.why)
        if finding.outcome == "broken":
            pytest.fail(f"{self.law.statement}: {finding.why}", pytrace=False)

    def reportinfo(self) -> tuple[Any, None, str]:
        return self.path, None, f"{self.parent.name if self.parent else ''} {self.name}"


def found(name: str) -> list[ComponentConfig]:
    """The configurations that MODULE:NAME stands for. Raises pytest.UsageError for anything else."""
    from smoothgen.component import ComponentConfig

    module, _, attribute = name.partition(":")
    try:
        value = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise pytest.UsageError(f"--smoothgen {name}: {error}; give MODULE:NAME of a configuration") from error
    configs = []
    for part in value if isinstance(value, list | tuple) else [value]:
        try:
            config = part() if isinstance(part, type) else part
        except ValueError as error:
            raise pytest.UsageError(f"--smoothgen {name}: it needs keys; name an instance of it: {error}") from error
        if not isinstance(config, ComponentConfig):
            raise pytest.UsageError(f"--smoothgen {name}: {type(config).__name__} is no configuration of a part")
        configs.append(config)
    return configs
