"""Tables: digits, errors, what is bold, goals; and the page around them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smoothgen.errors import ConfigError
from smoothgen.reproduction.components import _finding as components_finding
from smoothgen.reproduction.goals import goals_met, goals_of, is_met
from smoothgen.reproduction.page import duration
from smoothgen.reproduction.pictures import save_curves, save_scatters
from smoothgen.reproduction.plane import finding, table
from smoothgen.reproduction.row_jobs import row_jobs
from smoothgen.reproduction.rows import FOLDER, Goal, Row, load_rows, read_rows, replaced
from smoothgen.reproduction.studies import chosen, studies
from smoothgen.reproduction.tables import Column, Estimate, TableRow, best_row, cell, difference, doubt, markdown_table

NLL = Column("nll", "NLL", "lower")


def test_an_estimate_is_the_mean_over_seeds_with_its_standard_error():
    value = Estimate.over([1.0, 2.0, None, 6.0])
    assert value == Estimate(3.0, pytest.approx(math.sqrt(7.0 / 3.0)), 3)  # variance of 1, 2, 6 is 7
    assert math.isnan(Estimate.over([1.0]).stderr)
    assert Estimate.over([None]) is None


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (2.66341, 0.00123, "2.6634 ± 0.0012"),
        (2.66341, 0.0123, "2.663 ± 0.012"),
        (2.66341, 0.000001, "2.6634 ± 0.0000"),
        (267.341, 12.3, "267 ± 12"),
        (2.66341, math.nan, "2.6634"),
        (-0.00001, math.nan, "0.0000"),
        (0.5, 0.0, "0.5000"),
        (math.inf, math.nan, "inf"),
    ],
)
def test_digits_follow_the_error(mean, error, shown):
    assert cell(Estimate(mean, error, 3), NLL) == shown


def test_scales_counts_and_missing_numbers():
    assert cell(Estimate(4.1e-5, 0.2e-5, 3), Column("mmd", "", scale=1e4, digits=2)) == "0.41 ± 0.02"
    assert cell(Estimate(41234.0, 0.0, 3), Column("n", "", form="count")) == "41,234"
    assert cell(None, NLL) == ""


def rows(**values: tuple[float, float]) -> list[TableRow]:
    return [TableRow(name, {"nll": Estimate(*value, 3)}) for name, value in values.items()]


def test_the_best_is_bold_only_where_it_surely_is():
    # standard error of a difference of two 0.03s is 0.042: two of them are 0.085
    sure, unsure = rows(a=(1.0, 0.03), b=(1.09, 0.03)), rows(a=(1.0, 0.03), b=(1.08, 0.03))
    assert best_row(NLL, sure) is sure[0] and best_row(NLL, unsure) is None
    assert best_row(Column("nll", "", "higher"), sure) is sure[1]
    assert best_row(NLL, rows(a=(1.0, math.nan), b=(2.0, math.nan))) is None  # a single seed proves nothing
    assert best_row(NLL, rows(a=(1.0, 0.01))) is None and best_row(Column("nll", ""), sure) is None
    floor = TableRow("floor", {"nll": Estimate(0.5, 0.0, 3)}, competes=False)
    assert best_row(NLL, [floor, *sure]) is sure[0]
    assert best_row(NLL, rows(a=(1.0, 0.01), b=(1.01, 0.01), c=(5.0, 0.01))) is None


def test_a_table_in_markdown():
    columns = (NLL, Column("iw", "IW"), Column("n", "n", form="count"))
    lines = [
        TableRow("p(x|x̃)", {"nll": Estimate(1.0, 0.01, 3), "n": Estimate(1000.0, 0.0, 3)}, ("met",)),
        TableRow("b", {"nll": Estimate(2.0, 0.01, 3)}),
    ]
    assert markdown_table(columns, lines, "model", ("goal",)).splitlines() == [
        "| model | NLL | n | goal |",  # no row has an IW
        "|---|---:|---:|---|",
        "| p(x\\|x̃) | **1.000 ± 0.010** | 1,000 | met |",
        "| b | 2.000 ± 0.010 |  |  |",
    ]


def test_differences_have_the_errors_of_both():
    assert difference(Estimate(1.0, 0.03, 3), Estimate(1.09, 0.04, 3)) == ("0.090 ± 0.050", False)
    assert difference(Estimate(1.3, 0.03, 3), Estimate(1.1, 0.04, 3)) == ("0.200 ± 0.050", True)
    assert difference(Estimate(1.3, math.nan, 1), Estimate(1.1, math.nan, 1)) == ("0.2", False)


def test_why_a_difference_may_be_chance():
    three, one = Estimate(1.0, 0.03, 3), Estimate(1.1, math.nan, 1)
    assert [doubt(True, three), doubt(False, three, three)] == ["", "within two standard errors"]
    assert doubt(False, three, one) == "from a single seed"


def test_numbers_of_fewer_seeds_say_so():
    found = [TableRow("a", {"nll": Estimate(1.0, 0.1, 3)}), TableRow("b", {"nll": Estimate(2.0, 0.1, 2)})]
    assert markdown_table((NLL,), [*found, TableRow("c", {})]).splitlines()[2:] == [
        "| a | **1.00 ± 0.10** |",
        "| b | 2.00 ± 0.10 (2 of 3 seeds) |",
        "| c |  |",
    ]


def test_rows_without_goals_have_no_cell_for_them():
    made = Row.model_validate({"name": "a", "density": {"type": "made"}})
    lines = table([made], {"a": {"nll": Estimate(1.0, 0.1, 3)}}).splitlines()
    assert lines == ["| model | −ELBO or NLL |", "|---|---:|", "| a | 1.00 ± 0.10 |"]


def test_components_without_a_pair_say_so():
    assert components_finding({2: {"plain nll": Estimate(1.0, 0.1, 3)}}) == "no pair of models to compare."


def goal_rows() -> list[Row]:
    made = {"type": "made"}
    smooth = {"kernel": {"type": "gaussian", "sigma": 0.3}, "inverter": "gradient"}
    goals = [{"measure": "nll", "at_most": 2.0}, {"measure": "nll", "beats": "plain", "by": 0.5}]
    return [
        Row.model_validate({"name": "smooth", "density": made, "goals": goals, **smooth}),
        Row.model_validate({"name": "plain", "density": made}),
    ]


def test_goals_are_judged_on_means():
    listed = goal_rows()
    numbers = {"smooth": {"nll": Estimate(1.95, 0.01, 3)}, "plain": {"nll": Estimate(2.4, 0.02, 3)}}
    assert is_met(listed[0].goals[0], "smooth", numbers) and not is_met(listed[0].goals[1], "smooth", numbers)
    assert goals_of(listed[0], numbers) == (
        "−ELBO or NLL ≤ 2: met (1.95); −ELBO or NLL below plain by 0.5: not met (1.95)"
    )
    assert goals_met(listed, numbers).startswith("Goals: 1 of 2 met; not −ELBO or NLL below plain by 0.5")
    assert not is_met(Goal(measure="iw_100", at_most=9.0), "smooth", numbers)  # not measured
    close = {"smooth": {"nll": Estimate(2.0004, 0.01, 3)}, "plain": numbers["plain"]}
    assert "≤ 2: not met (2.0004)" in goals_of(listed[0], close)
    shown = table(listed, numbers)
    assert "**1.950 ± 0.010**" in shown and "| goal |" in shown
    said = finding(listed, numbers)
    assert "best smoothed (smooth) 0.450 ± 0.022 nats below best plain (plain)." in said


ROW = "rows:\n  - {{name: a, density: {{type: made{made}}}{more}}}\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("data: {type: rings}\n" + ROW.format(made=", hiden: [3]", more=""), r"row a: density.hiden: .*hidden"),
        ("data: {type: rings}\n" + ROW.format(made="", more=", inverter: gradient"), "a kernel and an inverter"),
        ("data: {type: rings}\n" + ROW.format(made="", more=", goals: [{measure: nll}]"), "either at_most"),
        (
            "data: {type: rings}\n" + ROW.format(made="", more=", goals: [{measure: nll, beats: b}]"),
            'no row is called "b"',
        ),
        ("data: {type: rings}\nrows: [{name: a, density: made}, {name: a, density: made}]", 'two rows are called "a"'),
        (ROW.format(made="", more=""), "expected the keys data"),
        ("data: {type: rings}\nrow: []\nrows: []", "expected the keys data"),
    ],
)
def test_rows_are_checked_at_load(tmp_path, text, match):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"^mine\.yaml: .*{match}"):
        read_rows(path)


def test_optional_rows_may_be_missing_and_others_may_not(tmp_path):
    path = tmp_path / "mine.yaml"
    text = "data: {type: rings}\nrows:\n  - {name: peer, optional: OPTIONAL, density: {type: no_such_density}}\n"
    path.write_text(text.replace("OPTIONAL", "true"))
    found = read_rows(path)
    assert found.rows == () and 'unknown type "no_such_density"' in found.skipped["peer"]
    path.write_text(text.replace("OPTIONAL", "false"))
    with pytest.raises(ConfigError, match="no_such_density"):
        read_rows(path)


def test_settings_of_a_row_can_be_changed_at_any_depth():
    nested = {"a": {"type": "made", "components": 3}, "b": {"type": "x", "density": {"type": "made"}}, "c": [1]}
    assert replaced(nested, "made", components=5) == {
        "a": {"type": "made", "components": 5},
        "b": {"type": "x", "density": {"type": "made", "components": 5}},
        "c": [1],
    }
    assert nested["a"]["components"] == 3


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_of_rows_is_valid(path):
    found = load_rows(path.stem)
    assert found.rows
    assert set(found.skipped) <= {"auto", "smoothed MADE, 6 components, σ found (auto)", "neural spline flow (zuko)"}
    for full, short in zip(row_jobs("s", found, [0], False), row_jobs("s", found, [0], True), strict=True):
        assert full.name == short.name and full.settings != short.settings
        if short.settings["row"] is not None:
            trainer = short.settings["row"]["trainer"]
            steps = [trainer["max_steps"], *(trainer[stage]["max_steps"] for stage in ("density", "inverter"))]
            assert [step for step in steps if step] == [10]


def test_studies_have_names_of_their_own_and_jobs_for_every_seed():
    every = studies()
    assert len({study.name for study in every}) == len(every)
    for study in every:
        jobs = study.jobs([0, 1], True)
        seeds: dict[tuple[str, str], list[int]] = {}
        for job in jobs:
            seeds.setdefault((job.study, job.name), []).append(job.seed)
        assert all(sorted(found) in ([0, 1], [0]) for found in seeds.values())  # what is exact needs no second seed
        assert len(study.jobs([0, 1], False)) >= len(jobs)
        assert study.title and study.source
    assert [study.name for study in chosen("rings")] == ["rings"] and len(chosen("all")) == 1 + len(every)
    with pytest.raises(ConfigError, match=r'unknown study "ring"; did you mean "rings"'):
        chosen("ring")


def test_pictures_are_written_and_small(tmp_path):
    points = np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32)
    save_scatters(tmp_path / "a.png", {f"panel {index}": points for index in range(9)})
    curve = [(0.1, 1.0, 0.1), (0.2, 1.1, math.nan)]
    save_curves(tmp_path / "b.png", {"p": {"c": curve, "point": curve[:1]}}, "x", "y", {"floor": 0.9}, log_x=True)
    for name in ("a.png", "b.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG") and 1_000 < len(content) < 400_000


def test_durations_read_well():
    assert [duration(seconds) for seconds in (42.4, 720.0, 8280.0)] == ["42 s", "12 min", "2.3 h"]
