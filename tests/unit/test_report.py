"""The report: one page that is whole, says what is missing, needs no network, and runs nobody's code but its own."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import smoothgen
from smoothgen import cli
from smoothgen.errors import ConfigError, RunDirectoryError
from smoothgen.event import EventSpec
from smoothgen.report import curves, tables
from smoothgen.report.density_maps import SIDE
from smoothgen.report.figures import axes_of, data_uri, image_panels, point_rows, shrunk
from smoothgen.report.page import LARGEST, render, write_report
from smoothgen.report.record import RunRecord, read_run, read_runs

POLICY = smoothgen.DevicePolicy()
MADE = {"type": "made", "hidden": [8], "components": 2}
TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"type": "rings", "train_size": 200, "validation_size": 50, "test_size": 60},
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": MADE,
    "inverter": {"type": "conditional", "density": MADE},
    "trainer": {"max_steps": 6, "batch_size": 16, "log_every": 2, "validate_every": 3},
    "evaluate": {"max_examples": 40, "importance_samples": [3], "importance_examples": 20, "samples": 30},
    "device": {"device": "cpu", "threads": 1},
}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\"'&\u2028"
SMALL = 60
"""Examples of each set: enough to see that they are there."""


class Page(HTMLParser):
    """Tags with their attributes, and the content of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._stack.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._stack:
            while self._stack.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._stack and self._stack[-1] == "script":
            self.scripts[-1] += data
        elif not self._stack or self._stack[-1] != "style":
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    @property
    def sections(self) -> list[str | None]:
        return [attributes.get("id") for attributes in self.of("section")]


def page_of(*runs: Path, examples: int = SMALL) -> Page:
    return Page(render(read_runs(runs), POLICY, examples=examples))


def trained(directory: Path, **changes: Any) -> Path:
    smoothgen.fit(TINY | changes, directory)
    return directory


@pytest.fixture(scope="module")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("report") / "rings", baseline=MADE)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    rows = np.random.default_rng(0).normal(size=(200, 5))
    with (folder / "table.csv").open("w") as file:
        file.write('height,weight,<img src=x onerror=alert(3)>,"{{ 7*7 }}",e\n')
        np.savetxt(file, rows, delimiter=",")
    data = {"type": "array", "path": str(folder / "table.csv")}
    return trained(folder / "table", data=data, description=EVIL)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("report") / "digits", data="digits")


def test_a_run_of_the_plane_has_every_section(rings):
    page = page_of(rings)
    expected = "summary samples inversion densities likelihood curves neighbours configuration environment"
    assert page.sections == expected.split()
    panels = page.data["figures"]["0"]["panels"]
    names = ["data", "x̃ ~ p(x̃)", "two-step: x ~ p(x|x̃)", "single-step: E[x|x̃]", "plain model"]
    assert list(panels) == names
    assert all(len(panels[name][0]) == len(panels[name][1]) == SMALL for name in names)
    assert "exact density" in page.text and "importance-weighted lower bound" in page.text
    evaluation = json.loads((rings / "evaluation.json").read_text())
    elbo = evaluation["likelihoods"]["elbo"]
    assert tables.with_error(elbo["nats"], elbo["stderr"]) in page.text
    assert [group["title"][:7] for group in page.data["charts"]["stages"]] == ["Stage 1", "Stage 2", "Plain b"]


def test_images_are_shown_as_pictures_with_a_text_each(digits):
    page = page_of(digits)
    images = page.of("img")
    assert len([image for image in images if (image.get("id") or "").startswith("panel-0-")]) == 4
    assert all(image.get("alt") for image in images)
    assert "In every row a sample" in page.text
    assert page.data["figures"]["0"]["panels"] == {}  # the pictures are in the document once
    assert "bits per dim" in page.text
    assert "densities" not in page.sections


def test_vectors_are_shown_by_pairs_of_their_first_coordinates(table):
    figure = page_of(table).data["figures"]["0"]
    assert [axis["name"] for axis in figure["axes"]][:2] == ["height", "weight"]
    assert figure["dimensions"] == 5
    assert all(len(rows) == 4 for rows in figure["panels"].values())


def test_texts_of_a_run_stay_texts(table, tmp_path):
    """Every text that a foreign run brings: configuration, names of columns, metrics, evaluation, environment."""
    run = tmp_path / EVIL.replace("/", "")
    shutil.copytree(table, run)
    for name in ("evaluation.json", "environment.json"):
        content = json.loads((run / name).read_text()) | {EVIL: {EVIL: EVIL}}
        if name == "evaluation.json":
            content["likelihoods"][EVIL] = {"nats": EVIL, "kind": EVIL, "terms": {EVIL: {"nats": 1.0}}}
            content["sigma"] = [EVIL]
        (run / name).write_text(json.dumps(content))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": EVIL, "step": 1, "loss": 2.0, "validation_loss": EVIL}) + "\n")
    text = render(read_runs([run]), POLICY, examples=SMALL)
    page = Page(text)
    assert len(page.scripts) == 2
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert all((image.get("src") or "data:").startswith("data:") for image in page.of("img"))
    assert "alert(1)" in page.text and "{{ 7 * 7 }}" in page.text and "49" not in page.data["runs"][0]
    assert page.data["figures"]["0"]["axes"][2]["name"] == "<img src=x onerror=alert(3)>"
    raw = text[text.index('id="page-data"') :]
    assert "<" not in raw[raw.index(">") + 1 : raw.index("</script>")]


def test_only_the_pages_own_script_may_run(rings):
    page = page_of(rings)
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)


def test_the_page_loads_nothing_and_is_small(rings, digits, table, tmp_path):
    size = write_report([rings, digits, table], tmp_path / "page.html", POLICY)
    text = (tmp_path / "page.html").read_text()
    assert size == len(text.encode()) < LARGEST == 10_000_000
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]!r}>"
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", page.scripts[1])


def test_a_page_that_grows_too_large_is_refused(rings, tmp_path, monkeypatch):
    monkeypatch.setattr("smoothgen.report.page.LARGEST", 50_000)
    with pytest.raises(ConfigError, match="smaller --examples"):
        write_report([rings], tmp_path / "page.html", POLICY, examples=SMALL)
    assert not (tmp_path / "page.html").exists()


def test_every_control_can_be_reached_and_has_a_name(rings):
    page = page_of(rings)
    labelled = {attributes.get("for") for attributes in page.of("label")}
    for control in page.of("input"):
        wrapped = control.get("type") == "radio" and str(control.get("name", "")).startswith("target-")
        assert wrapped or control.get("aria-label") or control.get("id") in labelled, control
    assert all(canvas.get("role") == "img" and canvas.get("aria-label") for canvas in page.of("canvas"))
    assert all(region.get("tabindex") == "0" for region in page.of("div") if region.get("class") == "scroll")
    links = {attributes["href"] for attributes in page.of("a")}
    assert links == {f"#{section}" for section in page.sections}
    assert page.of("html")[0].get("lang") == "en"


def unfinished(finished: Path, directory: Path) -> Path:
    """The run as a kill in its first stage leaves it."""
    directory.mkdir()
    for name in ("experiment.yaml", "environment.json"):
        shutil.copy(finished / name, directory / name)
    lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (directory / "metrics.jsonl").write_text("".join(lines[:3]) + '{"stage": "dens')
    return directory


def test_an_unfinished_run_shows_its_curves_and_says_what_is_missing(rings, tmp_path):
    page = page_of(unfinished(rings, tmp_path / "cut"))
    assert page.sections == ["summary", "curves", "configuration", "environment"]
    assert re.search(r"unfinished: stage density, step \d of 6", page.text)
    assert "there is no model yet" in page.text
    assert "1 lines of metrics.jsonl cannot be read" in page.text


def test_a_run_that_was_not_measured_shows_its_samples(rings, tmp_path):
    shutil.copytree(rings, tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink()
    page = page_of(tmp_path / "run")
    assert "samples" in page.sections and "likelihood" not in page.sections
    assert "the run was not measured" in page.text


def test_a_run_whose_data_are_gone_shows_its_samples_and_says_so(table, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(table, run)
    (run / "experiment.yaml").write_text((run / "experiment.yaml").read_text().replace("table.csv", "gone.csv"))
    page = page_of(run)
    assert "data" not in page.data["figures"]["0"]["panels"]
    assert "x̃ ~ p(x̃)" in page.data["figures"]["0"]["panels"]
    assert "The data cannot be read" in page.text
    assert "neighbours" not in page.sections or "Nearest training examples" not in page.text


def test_a_damaged_or_foreign_model_is_a_note_and_no_end(rings, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(rings, run)
    (run / "model.safetensors").write_bytes(b"nothing")
    (run / "environment.json").write_text("[1")
    page = page_of(run)
    assert "The model cannot be loaded" in page.text
    assert "environment.json cannot be read" in page.text
    assert "likelihood" in page.sections


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="holds no run"):
        read_runs([tmp_path])


def test_a_model_without_a_density_of_x_has_its_single_step(tmp_path):
    page = page_of(trained(tmp_path / "run", inverter="gradient"))
    panels = page.data["figures"]["0"]["panels"]
    assert list(panels) == ["data", "x̃ ~ p(x̃)", "single-step: E[x|x̃]"]
    assert "likelihood" not in page.sections


def test_a_joint_run_has_curves_of_all_three_terms(tmp_path):
    run = trained(tmp_path / "run", kernel={"type": "gaussian", "sigma": 0.3, "learnable": True})
    terms = {chart["title"]: chart["series"][0]["points"] for chart in page_of(run).data["charts"]["terms"]}
    assert list(terms) == ["E log p(x̃)", "−E log q(x̃|x)", "E log p(x|x̃)"]
    losses = [r["validation_loss"] for r in read_run(run).metrics if "validation_loss" in r]
    sums = [sum(points[i][1] for points in terms.values()) for i in range(len(losses))]
    assert sums == pytest.approx([-loss for loss in losses], abs=1e-5)


def test_a_search_for_sigma_shows_every_candidate(tmp_path):
    trainer = TINY["trainer"] | {"sigma_search": {"candidates": 3, "steps": 2}}
    run = trained(tmp_path / "run", kernel={"type": "gaussian", "sigma": "auto"}, trainer=trainer)
    page = page_of(run)
    assert "sigma" in page.sections
    levels = page.data["levels"]["0"]
    search = json.loads((run / "sigma_search.json").read_text())
    assert [level["sigma"] for level in levels] == pytest.approx(sorted(search["candidates"]))
    assert all(level["bound"] is not None for level in levels)
    spread = [np.std(level["points"][0]) for level in levels]
    assert spread == sorted(spread)
    assert len(page.data["charts"]["searches"][0]["series"]) == len(search["rungs"])


def test_runs_side_by_side_show_what_differs_and_the_error_over_seeds(rings, tmp_path):
    second, third = trained(tmp_path / "seed-1", seed=1), trained(tmp_path / "seed-2", seed=2)
    page = page_of(rings, tmp_path)  # a directory of `compare`
    assert page.data["runs"] == ["rings", "seed-1", "seed-2"]
    assert page.text.count("Over seeds") >= 1
    values = [
        json.loads((run / "evaluation.json").read_text())["likelihoods"]["elbo"]["nats"] for run in (second, third)
    ]
    mean, error = sum(values) / 2, abs(values[0] - values[1]) / 2
    assert tables.with_error(mean, error) in page.text
    rows = {row.key: row for row in tables.configuration(read_runs([rings, second]))}
    assert rows["seed"].differs and rows["seed"].values == ("0", "1")
    assert rows["baseline.type"].values[0] == "made"
    assert not rows["kernel.sigma"].differs


def test_runs_of_one_name_get_labels_that_tell_them_apart(tmp_path):
    for parent in "ab":
        (tmp_path / parent / "run").mkdir(parents=True)
        (tmp_path / parent / "run" / "experiment.yaml").write_text("name: x\n")
    runs = read_runs([tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "a" / "run"])
    assert [run.label for run in runs] == ["a/run", "b/run"]


@pytest.mark.parametrize("chrome", [shutil.which("chromium") or shutil.which("google-chrome")])
def test_the_script_draws_in_a_browser(rings, tmp_path, chrome):
    if chrome is None:
        pytest.skip("no chromium here")
    write_report([rings], tmp_path / "page.html", POLICY, examples=SMALL)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--virtual-time-budget=3000", "--window-size=1400,900", "--dump-dom"]
    shown = subprocess.run([chrome, *flags, f"file://{tmp_path / 'page.html'}"], capture_output=True, timeout=120)
    page = Page(shown.stdout.decode())
    charts = page.data["charts"]
    series = sum(len(chart["series"]) for group in charts["stages"] for chart in group["charts"])
    series += sum(len(chart["series"]) for chart in charts["terms"])
    drawn = [path.get("d") or "" for path in page.of("path")]
    assert len(drawn) == series and all("NaN" not in path for path in drawn)
    assert all(int(canvas.get("width") or 0) > 150 for canvas in page.of("canvas"))
    assert {output.get("for") for output in page.of("output")} == {"move-0"}


def test_long_curves_are_averaged_and_gaps_stay():
    points = [[float(i), float(i % 2)] for i in range(1200)]
    points[600][1] = None
    thin = curves.thinned(points, most=100)
    assert len(thin) == 100
    assert [point[1] for point in thin if point[1] is not None] == pytest.approx([0.5] * 99)
    assert thin[50][1] is None
    assert curves.thinned(points[:50], most=100) == points[:50]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1", True])
def test_what_is_no_finite_number_is_a_gap(value):
    assert curves.finite(value) is None


def test_points_can_be_read_back_to_a_thousandth_of_their_axis():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    axes = axes_of({"a": x}, EventSpec(shape=(3,)))
    rows = np.array(point_rows(x, axes)).T
    low, high = (np.array([axis[key] for axis in axes]) for key in ("low", "high"))
    back = low + rows * (high - low) / 2000
    assert np.abs(back - x.numpy()).max() <= (high - low).max() / 4000 * 1.01
    assert point_rows(torch.full((1, 3), math.nan), axes) == [[10**6]] * 3


def test_pictures_keep_to_their_budget():
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    event = EventSpec(shape=(3, 32, 32), low=0.0, high=1.0)
    uris, count = image_panels({"a": images, "b": images}, event, 100_000)
    assert sum(map(len, uris.values())) <= 100_000
    assert 1 <= count < 64
    assert shrunk(torch.ones(1, 1, 512, 256)).shape == (1, 1, 128, 64)


def test_a_data_uri_is_the_picture():
    import io

    from PIL import Image

    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    uri = data_uri(pixels)
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


def test_the_maps_of_a_density_hold_its_mass(rings):
    from smoothgen.report.density_maps import density_maps
    from smoothgen.report.opened import open_run

    opened, problem = open_run(read_run(rings), POLICY, 0, SMALL, 500)
    assert opened is not None and problem == ""
    axes = [{"name": name, "low": -6.0, "high": 6.0} for name in "ab"]
    maps = {one["name"]: one for one in density_maps(opened, axes, POLICY, 0)}
    assert list(maps) == ["smoothed density p(x̃)", "model p(x)", "plain model p(x)", "data"]
    assert maps["data"]["mass"] == pytest.approx(1.0, abs=0.02)  # the rings are about as wide as a cell
    assert maps["smoothed density p(x̃)"]["mass"] == pytest.approx(1.0, abs=0.05)
    assert 0.5 < maps["model p(x)"]["mass"] <= 1.05  # a bound: at most all of it
    assert maps["model p(x)"]["top"] == maps["data"]["top"] == maps["plain model p(x)"]["top"]
    import io

    from PIL import Image

    content = base64.b64decode(maps["data"]["linear"].partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=float)
    middle = SIDE // 2
    ring = round((0.75 + 6.0) / 12.0 * (SIDE - 1))
    assert pixels.shape == (SIDE, SIDE)
    assert pixels[middle, ring - 1 : ring + 2].max() > 10 * max(pixels[middle, middle], 1.0)  # a ring, and its centre


def test_the_command_writes_the_page(rings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["smoothgen", "report", str(rings), "--examples", "30", "--device", "cpu"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 0
    assert str(rings / "report.html") in capsys.readouterr().out
    assert (rings / "report.html").stat().st_size > 10_000
    (rings / "report.html").unlink()


def test_a_seed_fixes_the_page(rings):
    def panels(seed: int) -> Any:
        return Page(render(read_runs([rings]), POLICY, seed=seed, examples=20)).data["figures"]["0"]["panels"]

    assert panels(3) == panels(3)
    assert panels(3)["x̃ ~ p(x̃)"] != panels(4)["x̃ ~ p(x̃)"]


def test_the_status_follows_the_stages():
    def status(**changes: Any) -> str:
        empty: dict[str, Any] = {"config": {}, "environment": {}, "metrics": (), "evaluation": {}, "search": None}
        return RunRecord(path=Path("x"), label="x", **(empty | {"trained": False} | changes)).status

    assert status() == "not begun"
    assert status(search={"finished": False}) == "searching for sigma"
    step = ({"stage": "inverter", "step": 5},)
    trainer = {"max_steps": 9, "inverter": {"max_steps": 7}}
    assert status(metrics=step, config={"trainer": trainer}) == "unfinished: stage inverter, step 5 of 7"
    assert status(metrics=step, config={"trainer": {"max_steps": 9}}) == "unfinished: stage inverter, step 5 of 9"
    assert status(metrics=step) == "unfinished: stage inverter, step 5"
    assert status(metrics=step, trained=True) == "trained, not measured"
    assert status(evaluation={"seed": 0}, trained=True) == "finished"
