"""A law that a part must obey, and the report of which laws it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["holds", "broken", "does not apply", "left out"]


class BrokenLawError(AssertionError):
    """A part breaks its contract; the message says which law, on what, and how."""


class DoesNotApply(Exception):
    """Raised by a law that has nothing to say about this part or event; the message says why."""


@dataclass(frozen=True)
class Law:
    """name: short, for command lines. statement: what must be so. check: raises AssertionError where it is not."""

    name: str
    statement: str
    check: Callable[[Any], None]


@dataclass(frozen=True)
class Finding:
    """What one law said on one subject."""

    law: str
    subject: str
    outcome: Outcome
    why: str = ""


@dataclass
class Report:
    """All findings on a part. `str` of it is a table; `broken` is empty if the part keeps its contract."""

    part: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.outcome == "broken"]

    def raise_if_broken(self) -> Report:
        """Raises BrokenLawError naming every law that is broken, and otherwise returns the report."""
        if self.broken:
            lines = [f"{f.law} on {f.subject}: {f.why}" for f in self.broken]
            count = len({f.law for f in self.broken})
            raise BrokenLawError(f"{self.part} breaks {count} of its laws\n  " + "\n  ".join(lines))
        return self

    def __str__(self) -> str:
        lines = [self.part]
        for law in dict.fromkeys(finding.law for finding in self.findings):
            of_law = [finding for finding in self.findings if finding.law == law]
            counts = {o: sum(f.outcome == o for f in of_law) for o in ("holds", "broken", "does not apply", "left out")}
            told = ", ".join(f"{name} on {count}" for name, count in counts.items() if count)
            lines.append(f"  {law}: {told}")
            lines += [f"    {f.subject}: {f.why}" for f in of_law if f.outcome == "broken"]
        return "\n".join(lines)


def judge(part: str, laws: Iterable[Law], subjects: Iterable[Any], leave_out: Mapping[str, str]) -> Report:
    """Every law on every subject. leave_out: names of laws not to be judged, each with the reason."""
    report, laws = Report(part), list(laws)
    refuse_unknown(leave_out, laws)
    for subject in subjects:
        report.findings += [verdict(law, subject, leave_out) for law in laws]
    return report


def refuse_unknown(names: Iterable[str], laws: Iterable[Law]) -> None:
    """Raises ValueError for names that are none of the laws'."""
    known = [law.name for law in laws]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"no such law: {', '.join(unknown)}; there are {', '.join(known)}")


def verdict(law: Law, subject: Any, leave_out: Mapping[str, str] | None = None) -> Finding:
    """One law on one subject. An error other than AssertionError breaks the law too: parts must not fail."""
    if leave_out and law.name in leave_out:
        return Finding(law.name, subject.name, "left out", leave_out[law.name])
    try:
        law.check(subject)
    except DoesNotApply as reason:
        return Finding(law.name, subject.name, "does not apply", str(reason))
    except AssertionError as error:
        return Finding(law.name, subject.name, "broken", _first_line(str(error)) or law.statement)
    except Exception as error:  # a stranger may fail in any way, which the report has to say
        return Finding(law.name, subject.name, "broken", f"{type(error).__name__}: {_first_line(str(error))}")
    return Finding(law.name, subject.name, "holds")


def require(condition: bool, message: str) -> None:
    """An assertion that python -O does not remove."""
    if not condition:
        raise AssertionError(message)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else ""
