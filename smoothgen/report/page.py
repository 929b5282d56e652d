"""The page itself: everything read, drawn and put into one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smoothgen import __version__
from smoothgen.checkpoint import write_atomically
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError
from smoothgen.report import curves, tables
from smoothgen.report.density_maps import DEPTH, colour_ramp, density_maps
from smoothgen.report.figures import axes_of, image_panels, point_rows
from smoothgen.report.neighbours import neighbours
from smoothgen.report.noise_levels import noise_levels
from smoothgen.report.opened import DATA, PLAIN, SMOOTHED, Opened, open_run
from smoothgen.report.record import RunRecord, read_runs

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 10_000_000
"""Bytes of a page."""
PICTURES = 5_000_000
"""Characters of all pictures of a page together, before its other parts."""
POINTS = 24_000
"""Most points of each set, over all runs together."""
IMAGES, VECTORS = 64, 2000
"""How many examples of each set are shown by default."""


@dataclass(frozen=True)
class View:
    """What one run looks like; `run` is its place among the runs."""

    run: int
    record: RunRecord
    notes: tuple[str, ...]
    facts: dict[str, str]
    figure: dict[str, Any] | None
    maps: list[dict[str, Any]]
    neighbours: dict[str, Any] | None
    levels: list[dict[str, Any]]
    likelihoods: tables.Grid | None
    terms: tables.Grid | None
    measures: list[tables.Grid]


def write_report(
    paths: Sequence[Path],
    out: Path,
    policy: DevicePolicy,
    seed: int | None = None,
    examples: int | None = None,
) -> int:
    """Writes the page of one or several runs, and returns its size in bytes.

    seed: of every draw; by default each run's own. examples: of each set; by default 64 images or 2000 vectors.
    Raises RunDirectoryError where there is no run or the file cannot be written, ConfigError for a page above 10 MB.
    """
    content = render(read_runs(paths), policy, seed, examples).encode()
    if len(content) > LARGEST:
        raise ConfigError(
            f"the report would have {len(content) / 1e6:.1f} MB, above {LARGEST // 10**6}; give fewer runs at once"
            " or a smaller --examples"
        )
    write_atomically(out, content)
    return len(content)


def render(
    runs: Sequence[RunRecord], policy: DevicePolicy, seed: int | None = None, examples: int | None = None
) -> str:
    """The page as one HTML document."""
    import jinja2
    from markupsafe import Markup

    views = [view(number, run, len(runs), policy, seed, examples) for number, run in enumerate(runs)]
    charts = {"stages": curves.stage_charts(runs), "terms": curves.term_charts(runs), "searches": _searches(runs)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    page = environment.get_template("page.html")
    return page.render(
        title=", ".join(str(run.config.get("name", run.label)) for run in runs[:3]),
        runs=runs,
        views=views,
        all_facts=list(dict.fromkeys(what for one in views for what in one.facts)),
        charts=charts,
        page_data={
            "runs": [run.label for run in runs],
            "charts": charts,
            "figures": {one.run: _for_script(one.figure) for one in views if one.figure},
            "levels": {one.run: [_without_picture(level) for level in one.levels] for one in views if one.levels},
        },
        configuration=tables.configuration(runs),
        environment=tables.environment(runs),
        seeds=tables.over_seeds(runs),
        ramp=Markup(colour_ramp()),
        depth=DEPTH,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # the browser runs this script and no other, whatever a run's texts hold
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        names={"data": DATA, "smoothed": SMOOTHED, "plain": PLAIN},
    )


def view(number: int, run: RunRecord, count: int, policy: DevicePolicy, seed: int | None, examples: int | None) -> View:
    """Everything about one run that has to be computed or drawn."""
    own = run.config.get("seed")
    drawn_with = seed if seed is not None else own if isinstance(own, int) else 0
    most = max(1, POINTS // count)
    points = min(examples or VECTORS, most)
    opened, problem = open_run(run, policy, drawn_with, min(examples or IMAGES, IMAGES), points)
    notes = run.notes + ((problem,) if problem else ())
    figure, maps, near, levels = None, [], None, []
    if opened is not None:
        budget = PICTURES // count
        figure = _figure(opened, drawn_with, budget // 2)
        near = neighbours(opened, budget // 4)
        if run.search is not None:
            levels = noise_levels(run.search, opened, figure["axes"], policy, drawn_with, budget // 4)
        if not opened.is_image:
            maps = density_maps(opened, figure["axes"], policy, drawn_with)
    return View(
        run=number,
        record=run,
        notes=notes,
        facts=facts(run),
        figure=figure,
        maps=maps,
        neighbours=near,
        levels=levels,
        likelihoods=tables.likelihoods(run),
        terms=tables.terms(run),
        measures=tables.sample_measures(run),
    )


def _figure(opened: Opened, seed: int, budget: int) -> dict[str, Any]:
    """The samples of every step: pictures, or points with their axes; `inverted`: which sets came from x_tilde."""
    figure: dict[str, Any] = {"kind": "image" if opened.is_image else "points", "seed": seed, "axes": []}
    figure["inverted"] = list(opened.inverted())
    if opened.is_image:
        panels, figure["count"] = image_panels(opened.panels, opened.model.event, budget)
        figure["panels"] = panels
    else:
        figure["axes"] = axes_of(opened.panels, opened.model.event)
        figure["panels"] = {name: point_rows(x, figure["axes"]) for name, x in opened.panels.items()}
        figure["count"] = max(map(len, opened.panels.values()))
        figure["dimensions"] = opened.model.event.dimensions
    figure["fewer"] = min(map(len, opened.panels.values())) < figure["count"]
    return figure


def facts(run: RunRecord) -> dict[str, str]:
    """The few numbers to be seen first, by what they are."""
    found = {"status": run.status}
    likelihoods = run.evaluation.get("likelihoods")
    for name, value in likelihoods.items() if isinstance(likelihoods, dict) else ():
        if not isinstance(value, dict):
            continue
        if "bits_per_dim" in value:
            shown = f"{tables.with_error(value['bits_per_dim'], value.get('bits_per_dim_stderr'), 3)} bits/dim"
        else:
            shown = f"{tables.with_error(value.get('nats'), value.get('stderr'), 3)} nats"
        bounded = value.get("kind") == "lower bound"
        sign = ("≤ " if "bits_per_dim" in value else "≥ ") if bounded else ""
        found[_title(name)] = sign + shown
    entropy = curves.finite(run.evaluation.get("entropy"))
    if entropy is not None:
        found["best possible (−entropy)"] = f"{tables.number(-entropy, 3)} nats"
    sigma = run.evaluation.get("sigma")
    if isinstance(sigma, list) and sigma:
        found["sigma"] = ", ".join(tables.number(value, 3) for value in sigma[:4]) + (" …" * (len(sigma) > 4))
    parameters = run.evaluation.get("parameters")
    if isinstance(parameters, dict):
        total = sum(value for name, value in parameters.items() if isinstance(value, int) and name != "baseline")
        found["parameters"] = f"{total:,}"
    return found


def _title(likelihood: str) -> str:
    """What evaluation.json's name of a likelihood means."""
    draws = likelihood.removeprefix("iw-")
    weighted = f"importance-weighted bound, K = {draws}" if draws != likelihood else likelihood
    return _LIKELIHOODS.get(likelihood, weighted)


_LIKELIHOODS = {"elbo": "bound (ELBO)", "baseline": "plain model", "stage-one": "bound from stage one alone"}


def _searches(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """A chart of bounds over sigma for every run that searched."""
    return [curves.search_chart(run.search, number) for number, run in enumerate(runs) if run.search]


def _for_script(figure: dict[str, Any]) -> dict[str, Any]:
    """The figure without the pictures that the document itself holds."""
    panels = figure["panels"] if figure["kind"] == "points" else {}
    return figure | {"panels": panels, "smoothed": SMOOTHED}


def _without_picture(level: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in level.items() if key != "picture"}
