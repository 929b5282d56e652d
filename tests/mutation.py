"""Mutation testing of the code that every number rests on: likelihoods, objectives, bounds and noise kernels.

python tests/mutation.py                                        # every target, a table
python tests/mutation.py --out tests/mutation-results.json      # and what became of every mutant
python tests/mutation.py --target smoothgen/bound.py --only _drawn --show

A mutant is the file with one small fault. The faults are mutmut's (its operators on the syntax tree), and four more:
a statement left out, a result replaced by None, an error not raised, a condition negated. mutmut's own runner is not
used: it leaves out functions with a decorator and everything outside functions, and here that is `nats`, `stderr`,
`bits_per_dim`, `sample`, `log_prob`, `posterior_mean` and the constants.

Libraries are imported once; each mutant runs in a fork, which imports the mutated source in place of the file's (the
file stays as it is) and runs the tests that reach the fault's statement, the quickest first, until one fails. POSIX
only.

killed: a test failed, or the module could not be imported. survived: every test passed. equivalent: a survivor that
tests/mutation-equivalents.toml explains; it still counts as not killed in `share`. Exit code 1 for a survivor that it
does not explain, for a mutant that timed out, and for an explanation that fits no survivor.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gc
import importlib.machinery
import importlib.util
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENTS = ROOT / "tests" / "mutation-equivalents.toml"
KERNELS = ("tests/unit/test_noise_kernel.py", "tests/property/test_kernels.py")
TARGETS: dict[str, tuple[str, ...]] = {
    "smoothgen/likelihood.py": ("tests/unit/test_likelihood.py", "tests/unit/test_bounds.py"),
    "smoothgen/objectives.py": ("tests/unit/test_objectives.py", "tests/unit/test_bounds.py"),
    "smoothgen/bound.py": ("tests/unit/test_bound.py", "tests/unit/test_bounds.py"),
    "smoothgen/noise_kernel.py": KERNELS,
    "plugins/smoothgen_kernels/__init__.py": KERNELS,
    "plugins/smoothgen_kernels/gaussian.py": KERNELS,
    "plugins/smoothgen_kernels/laplace.py": KERNELS,
    "plugins/smoothgen_kernels/uniform.py": KERNELS,
}
"""Each file, and the test files that answer for it, tried in this order."""
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "--hypothesis-profile", "quick")
"""Of pytest. Its assertion rewriting would load the target past the mutant; `quick` is a profile of conftest.py."""
PATIENCE = 20.0
"""Seconds that a mutant gets beyond ten times what its tests take without it."""
NOT_IMPORTED = 99
"""Exit code of a fork whose tests never imported the target."""

Outcome = Literal["killed", "survived", "timed out", "equivalent"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


# --- mutants ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One fault: where it is, what it changes, the whole source with it, and the lines of its statement."""

    where: str
    change: str
    source: str = field(repr=False)
    lines: range = field(repr=False)
    outcome: Outcome | None = None
    by: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.where}: {self.change}"


def left_out(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """A call for its effect is left out; so is an error. A docstring is no statement."""
    if len(node.body) == 1 and (
        isinstance(node.body[0], cst.Raise) or (isinstance(node.body[0], cst.Expr) and not is_text(node.body[0].value))
    ):
        yield node.with_changes(body=[cst.Pass()])


def no_result(node: cst.Return) -> Iterator[cst.CSTNode]:
    """None is returned."""
    if node.value is not None and not (isinstance(node.value, cst.Name) and node.value.value == "None"):
        yield node.with_changes(value=cst.Name("None"))


def negated(node: cst.If) -> Iterator[cst.CSTNode]:
    """The other branch is taken."""
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))


def is_text(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.SimpleString | cst.ConcatenatedString | cst.FormattedString)


OPERATORS: Sequence[tuple[type, Callable[[Any], Iterable[cst.CSTNode]]]] = [
    *mutation_operators,
    (cst.SimpleStatementLine, left_out),
    (cst.Return, no_result),
    (cst.If, negated),
]


class Mutations(cst.CSTVisitor):
    """Every fault of a module: the node, what replaces it, the function or class, the lines of the statement."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, str, range]] = []
        self.scope: list[str] = []
        self.statements: list[range] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.scope.append(node.name.value)
        if isinstance(node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
            place = self.get_metadata(PositionProvider, node)
            body = getattr(node, "body", None)
            header_only = isinstance(node, cst.BaseCompoundStatement) and isinstance(body, cst.IndentedBlock)
            end = self.get_metadata(PositionProvider, body.body[0]).start.line if header_only else place.end.line + 1
            self.statements.append(range(place.start.line, end))
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                where = ".".join(self.scope) or "module"
                self.found += [(node, other, where, self.statements[-1]) for other in operator(node)]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.scope.pop()
        if isinstance(original_node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
            self.statements.pop()


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a source, each of its own text; a second one with the same change gets a number."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    mutations = Mutations()
    wrapper.visit(mutations)
    seen, names, mutants = {source}, Counter[str](), []
    for node, other, where, lines in mutations.found:
        changed = wrapper.module.deep_replace(node, other).code
        if changed in seen:
            continue
        seen.add(changed)
        mutant = Mutant(where, change_of(source, changed), changed, lines)
        names[mutant.name] += 1
        again = names[mutant.name]
        mutants.append(mutant if again == 1 else replace(mutant, change=f"{mutant.change} (no. {again})"))
    return mutants


def change_of(source: str, changed: str) -> str:
    """What was -> what it became: the lines that differ."""
    lines = list(difflib.ndiff(source.splitlines(), changed.splitlines()))
    was, became = (" ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return f"{was}  ->  {became}"


# --- one run of the tests in a fork ----------------------------------------------------------------------------------


class MutantLoader(importlib.machinery.SourceFileLoader):
    """Runs a given text in place of the file's."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class MutantFinder:
    """Finds one module, the mutated one."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, str(path), source

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        loader = MutantLoader(fullname, self.path, self.source)
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader)


class Recorder:
    """pytest plugin: which lines of a file each test runs, its seconds, and the first test that fails."""

    def __init__(self, path: Path | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.failed = ""
        self.coverage = None
        if path:
            self.coverage = coverage.Coverage(data_file=None, include=[str(path)], config_file=False)
            self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        start = time.perf_counter()
        if self.coverage:
            self.coverage.switch_context(item.nodeid)
        result = yield
        if self.coverage:
            self.coverage.switch_context("")
        self.seconds[item.nodeid] = time.perf_counter() - start
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def reached(self, path: Path) -> dict[int, list[str]]:
        """The tests that run each line; "" for what runs outside tests, as when the module is imported."""
        assert self.coverage
        self.coverage.stop()
        return self.coverage.get_data().contexts_by_lineno(str(path))


def in_a_fork(target: str, source: str, tests: list[str], answer: Path, record: bool, show: bool) -> None:
    """Runs the tests on the mutated source; writes what it saw to `answer`; exits with pytest's code."""
    if not show:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    path = ROOT / target
    sys.meta_path.insert(0, MutantFinder(module_name(target), path, source))
    recorder = Recorder(path if record else None)
    for _, group in itertools.groupby(tests, file_of):
        code = int(pytest.main([*OPTIONS, *group], plugins=[recorder]))
        if code:
            break
    spec = getattr(sys.modules.get(module_name(target)), "__spec__", None)
    if code == 0 and not isinstance(getattr(spec, "loader", None), MutantLoader):
        code = NOT_IMPORTED
    reached = recorder.reached(path) if record else {}
    seen = {"failed": recorder.failed, "seconds": recorder.seconds, "reached": reached}
    answer.write_text(json.dumps(seen | ({"libraries": libraries()} if record else {})))
    os._exit(code)


def file_of(test: str) -> str:
    return test.split("::")[0]


def module_name(target: str) -> str:
    return ".".join(Path(target.removeprefix("plugins/")).with_suffix("").parts).removesuffix(".__init__")


@dataclass
class Job:
    """A fork at work."""

    process: Any
    answer: Path
    deadline: float
    started: float


class Forks:
    """Runs jobs in forks, so many at a time."""

    def __init__(self, at_once: int, folder: Path) -> None:
        self.at_once, self.folder = at_once, folder
        self.context = multiprocessing.get_context("fork")
        self.count = 0

    def start(self, seconds: float, *arguments: Any, record: bool = False, show: bool = False) -> Job:
        self.count += 1
        answer = self.folder / f"{self.count}.json"
        process = self.context.Process(target=in_a_fork, args=(*arguments, answer, record, show))
        process.start()
        now = time.monotonic()
        return Job(process, answer, now + seconds, now)

    def each(self, waiting: Iterable[tuple[Any, float, tuple[Any, ...]]], show: bool = False) -> Iterator[Any]:
        """Yields (key, exit code or None after the time limit, answer, seconds) of every job as it ends."""
        running: dict[Any, Job] = {}
        queue = iter(waiting)
        while True:
            while len(running) < self.at_once and (item := next(queue, None)):
                key, seconds, arguments = item
                running[key] = self.start(seconds, *arguments, show=show)
            if not running:
                return
            multiprocessing.connection.wait([job.process.sentinel for job in running.values()], timeout=0.5)
            for key, job in list(running.items()):
                late = time.monotonic() > job.deadline
                if job.process.is_alive() and not late:
                    continue
                if job.process.is_alive():
                    job.process.kill()
                job.process.join()
                answer = json.loads(job.answer.read_text()) if job.answer.exists() else {}
                yield key, None if late else job.process.exitcode, answer, time.monotonic() - job.started
                del running[key]


# --- a target --------------------------------------------------------------------------------------------------------


def judge_target(
    target: str, forks: Forks, only: str = "", show: bool = False, tests: Sequence[str] | None = None
) -> list[Mutant]:
    """Every mutant of a file with its outcome. Ends the program if the tests fail without one."""
    source = (ROOT / target).read_text()
    tests = list(TARGETS[target] if tests is None else tests)
    seen = without_a_mutant(target, source, tests, forks, show, record=True)
    import_libraries(seen["libraries"])
    mutants = [mutant for mutant in mutants_of(source) if only in mutant.name]

    def work() -> Iterator[tuple[int, float, tuple[Any, ...]]]:
        for i, mutant in enumerate(mutants):
            chosen = tests_for(mutant, seen)
            if chosen:
                seconds = 10.0 * sum(seen["seconds"][test] for test in chosen) + PATIENCE
                yield i, seconds, (target, mutant.source, chosen)

    mutants = [replace(mutant, outcome="survived") for mutant in mutants]
    for i, code, answer, seconds in forks.each(work(), show):
        outcome: Outcome = "timed out" if code is None else "survived" if code == 0 else "killed"
        by = answer.get("failed") or "import" if outcome == "killed" else ""
        mutants[i] = replace(mutants[i], outcome=outcome, by=by, seconds=round(seconds, 1))
        print("." if outcome == "killed" else f"\n{outcome}: {target}: {mutants[i].name}\n", end="", flush=True)
    without_a_mutant(target, source, tests, forks, show)  # or something else has changed, and killed them
    return mutants


def without_a_mutant(
    target: str, source: str, tests: list[str], forks: Forks, show: bool, record: bool = False
) -> dict[str, Any]:
    """What the tests say of the sound source; `record`: and which lines each reaches. Ends the program if one fails."""
    job = forks.start(3600.0, target, source, tests, record=record, show=show)
    job.process.join()
    if job.process.exitcode != 0:
        why = "did not import it" if job.process.exitcode == NOT_IMPORTED else "fail without a mutant"
        sys.exit(f"mutation: {target}: its tests {why}: {' '.join(tests)}")
    return json.loads(job.answer.read_text())


def libraries() -> list[str]:
    """The modules of installed libraries that are imported."""
    files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
    return sorted(name for name, file in files.items() if "site-packages" in file)


def import_libraries(modules: Iterable[str]) -> None:
    """Imports, before the forks, what the tests import of libraries: nothing of this repository."""
    for name in modules:
        with contextlib.suppress(ImportError):  # made by its package in some other way
            importlib.import_module(name)
    assert "smoothgen" not in sys.modules, "the forks must import smoothgen themselves"
    gc.collect()
    gc.freeze()  # or each fork's collections walk through all of torch


def tests_for(mutant: Mutant, seen: dict[str, Any]) -> list[str]:
    """The tests that run the mutant's statement, file by file, the quickest first; all for what runs at import."""
    reaching = {test for line in mutant.lines for test in seen["reached"].get(str(line), ())}
    if "" in reaching:
        reaching = set(seen["seconds"])
    files = list(dict.fromkeys(map(file_of, seen["seconds"])))  # a later file is not even collected if one kills
    return sorted(reaching, key=lambda test: (files.index(file_of(test)), seen["seconds"][test], test))


def explained(target: str, mutants: list[Mutant], reasons: dict[str, str]) -> tuple[list[Mutant], list[str]]:
    """Survivors with a reason are equivalent; and the explanations that fit no survivor."""
    survivors = {mutant.name for mutant in mutants if mutant.outcome == "survived"}
    marked = [
        replace(mutant, outcome="equivalent", by=reasons[mutant.name])
        if mutant.outcome == "survived" and mutant.name in reasons
        else mutant
        for mutant in mutants
    ]
    return marked, [f"{target}: {name}" for name in reasons if name not in survivors]


def read_equivalents(path: Path) -> dict[str, dict[str, str]]:
    """{target: {mutant: reason}} of the file's entries: target, reason and mutants."""
    reasons: dict[str, dict[str, str]] = {}
    if path.exists():
        for entry in tomllib.loads(path.read_text()).get("equivalent", []):
            reasons.setdefault(entry["target"], {}).update(dict.fromkeys(entry["mutants"], entry["reason"]))
    return reasons


# --- results ---------------------------------------------------------------------------------------------------------


def counts(mutants: Sequence[Mutant]) -> dict[str, float]:
    number = Counter(mutant.outcome for mutant in mutants)
    outcomes = {name: number[name] for name in OUTCOMES}
    return {"mutants": len(mutants), **outcomes, "share": round(number["killed"] / max(1, len(mutants)), 4)}


def table(results: dict[str, list[Mutant]]) -> str:
    names = ("target", "mutants", "killed", "survived", "timed out", "equivalent", "share killed")
    head = f"| {' | '.join(names)} |\n|---|{'--:|' * (len(names) - 1)}"
    rows = [(f"`{target}`", counts(mutants)) for target, mutants in results.items()]
    rows.append(("all", counts([mutant for mutants in results.values() for mutant in mutants])))
    lines = [
        f"| {name} | {' | '.join(str(value) for key, value in row.items() if key != 'share')} | {row['share']:.1%} |"
        for name, row in rows
    ]
    return "\n".join([head, *lines])


def as_json(results: dict[str, list[Mutant]], before: dict[str, Any]) -> dict[str, Any]:
    """What the results file holds: totals, counts and tests of every target, and every mutant not killed.

    before: the file as it was; its targets that did not run now stay.
    """
    targets = before.get("targets", {}) | {
        target: {
            **counts(mutants),
            "tests": list(TARGETS[target]),
            "not killed": [
                {"mutant": m.name, "outcome": m.outcome, "reason": m.by} for m in mutants if m.outcome != "killed"
            ],
        }
        for target, mutants in results.items()
    }
    total: dict[str, float] = {
        name: sum(target[name] for target in targets.values()) for name in (*OUTCOMES, "mutants")
    }
    total["share"] = round(total["killed"] / max(1, total["mutants"]), 4)
    return {
        "command": "python tests/mutation.py --out tests/mutation-results.json",
        "total": total,
        "targets": {target: targets[target] for target in TARGETS if target in targets},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this file; may be repeated")
    parser.add_argument("--only", default="", help="only mutants whose name contains this text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="forks at a time")
    parser.add_argument("--show", action="store_true", help="show what the tests print")
    parser.add_argument("--out", type=Path, help="write the results there, as JSON; with --target, only its part")
    chosen = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
    os.chdir(ROOT)
    reasons = read_equivalents(EQUIVALENTS)
    results, stale = {}, []
    with tempfile.TemporaryDirectory() as folder:
        forks = Forks(chosen.jobs, Path(folder))
        for target in chosen.target or TARGETS:
            mutants = judge_target(target, forks, chosen.only, chosen.show)
            results[target], unused = explained(target, mutants, reasons.get(target, {}))
            stale += unused
    print("\n" + table(results))
    if chosen.out:
        before = json.loads(chosen.out.read_text()) if chosen.out.exists() and chosen.target else {}
        chosen.out.write_text(json.dumps(as_json(results, before), indent=1, ensure_ascii=False) + "\n")
    open_ones = [
        f"{m.outcome}: {target}: {m.name}"
        for target, mutants in results.items()
        for m in mutants
        if m.outcome in ("survived", "timed out")
    ]
    stale = [] if chosen.only else [f"explains no survivor: {name}" for name in stale]
    if open_ones or stale:
        sys.exit("\n".join(["", *open_ones, *stale]))


if __name__ == "__main__":
    main()
