"""The page: what it computes, and a person's way through it in a real browser where gradio and Chromium are."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

import smoothgen
from smoothgen.device import DevicePolicy
from smoothgen.errors import ConfigError, DependencyError
from smoothgen.ui.page import _told, gradio, serve
from smoothgen.ui.workbench import Workbench, open_run

TRAINING = {
    "kernel": {"type": "gaussian", "sigma": 0.3},
    "density": {"type": "made", "hidden": [16]},
    "inverter": {"type": "conditional", "density": {"type": "made", "hidden": [16]}},
    "trainer": {"max_steps": 30, "warmup_steps": 1},
    "evaluate": {"metrics": []},
    "device": {"threads": 1},
}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """$SMOOTHGEN_UI_RUN, to look at a run of one's own, or a short one."""
    if "SMOOTHGEN_UI_RUN" in os.environ:
        return Path(os.environ["SMOOTHGEN_UI_RUN"])
    folder = tmp_path_factory.mktemp("ui") / "digits"
    smoothgen.fit(TRAINING | {"data": "digits"}, folder)
    return folder


@pytest.fixture(scope="module")
def images(digits):
    return open_run(digits, DevicePolicy())


@pytest.fixture(scope="module")
def points():
    config = smoothgen.load_config(TRAINING | {"data": {"type": "rings", "train_size": 100}})
    return Workbench(smoothgen.build(config), config.data.build(), DevicePolicy())


def test_a_seed_gives_the_same_samples_again(images):
    first, second, other = (images.samples(4, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])


def test_noise_comes_in_multiples_of_the_kernels(images):
    rows = images.x[:50]
    assert torch.equal(images.noisy(rows, 0.0, 0), rows)
    once = images.noisy(rows, 1.0, 0) - rows
    assert torch.allclose(images.noisy(rows, 2.0, 0) - rows, 2 * once, atol=1e-6)
    assert abs(float(once.std()) - images.sigma) < 0.02
    assert set(images.denoised(rows, 0)) == {"mean E[x|x̃]", "a draw from p(x|x̃)"}


def test_a_stroke_becomes_the_pixels_it_covers(images):
    side = 8 * images.enlargement
    painted = np.zeros((side, side), dtype=np.uint8)
    painted[: side // 2] = 255
    unknown = images.unknown_of(painted)
    assert unknown[0, :4].all()
    assert not unknown[0, 4:].any()
    example = images.x[0]
    drawn = images.completed(example, unknown, 3, 4, 0)
    assert torch.equal(drawn[:, :, 4:], example.expand(3, 1, 8, 8)[:, :, 4:])
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(ConfigError, match="nothing is painted"):
        images.unknown_of(None)
    painted[:] = 0
    painted[0, 0] = 255
    with pytest.raises(ConfigError, match="thinner than a pixel"):
        images.unknown_of(painted)


def test_pictures_are_as_large_as_the_page_needs(images, points):
    assert images.picture(images.x[0]).shape == (320, 320, 3)
    assert images.pictures(images.x[:16]).shape == (17 * 8, 71 * 8, 3)
    assert images.pictures(images.x[:3]).shape == (8 * 23, 26 * 23, 3)
    assert points.plot({"data": points.x[:10]}).shape == (600, 640, 3)
    assert points.plot({"data": points.x[:10], "noisy": points.noisy(points.x[:10], 1.0, 0)}, joined=True).std() > 0


def test_columns_are_filled_by_name(points):
    unknown = points.columns_of(["x2"])
    assert unknown.tolist() == [False, True]
    drawn = points.completed(points.x[0], unknown, 5, 2, 0)
    assert torch.equal(drawn[:, 0], points.x[0, 0].expand(5))
    assert drawn[:, 1].unique().numel() == 5
    with pytest.raises(ConfigError, match="at least one column"):
        points.columns_of([])


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(DependencyError, match=r"smoothgen\[ui\]"):
        gradio()


@pytest.fixture
def address(digits):
    """The page as a person starts it, on a free port."""
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "smoothgen", "ui", str(digits), "--port", str(port), "--no-browser"],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5)
            break
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.2)
    yield port, process
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


@pytest.mark.slow
def test_a_person_draws_denoises_and_paints_in_a_browser(address, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    port, process = address
    assert listening_addresses(process.pid) == {"127.0.0.1"}
    errors: list[str] = []
    foreign: list[str] = []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        tab.on("pageerror", lambda error: errors.append(f"{tab.url} {error} {error.stack}"))
        tab.on("request", lambda request: foreign.append(request.url) if "127.0.0.1" not in request.url else None)
        tab.goto(f"http://127.0.0.1:{port}")
        tab.get_by_role("button", name="Draw samples").click()
        images = tab.locator("[role=tabpanel]:visible img[src*='/file=']")
        images.nth(1).wait_for(timeout=30000)
        assert (
            tab.get_by_role("button", name="Download").count() and not tab.get_by_role("button", name="Share").count()
        )
        screenshot(tab, "samples", tmp_path)
        tab.get_by_role("tab", name="Denoise").click()
        tab.get_by_role("button", name="Denoise", exact=True).click()
        tab.get_by_text("Mean squared distance").wait_for(timeout=30000)
        before = tab.get_by_text("Mean squared distance").inner_text()
        noise = tab.locator("input[type=range][max='2']:visible")
        noise.fill("0.25")
        tab.wait_for_function(f"() => !document.body.innerText.includes({before!r})", timeout=30000)
        after = tab.get_by_text("Mean squared distance").inner_text()
        assert error_of(after, "noisy x̃") < 0.2 * error_of(before, "noisy x̃")
        screenshot(tab, "denoise", tmp_path)
        tab.get_by_role("tab", name="Inpaint").click()
        canvas = tab.locator("#inpaint-editor canvas").first
        canvas.wait_for(timeout=30000)
        tab.wait_for_timeout(1500)
        box = canvas.bounding_box()
        middle = box["y"] + box["height"] / 2
        tab.mouse.move(box["x"] + box["width"] / 2 - 60, middle)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] / 2 + 60, middle, steps=12)
        tab.mouse.up()
        tab.wait_for_timeout(1000)
        tab.get_by_role("button", name="Fill").click()
        tab.locator("[role=tabpanel]:visible img[src*='/file=']").last.wait_for(timeout=30000)
        tab.wait_for_timeout(500)
        screenshot(tab, "inpaint", tmp_path)
        browser.close()
    # gradio's own bundle reports this one, whatever is on the page
    assert not [error for error in errors if "svelte.dev/e/props_invalid_value" not in error]
    assert not [url for url in foreign if not url.startswith(("data:", "blob:"))], foreign


def screenshot(tab, name: str, tmp_path: Path) -> None:
    """Kept in $SMOOTHGEN_SCREENSHOTS for a person to look at."""
    tab.screenshot(path=Path(os.environ.get("SMOOTHGEN_SCREENSHOTS", tmp_path)) / f"ui-{name}.png")


def error_of(text: str, name: str) -> float:
    return float(re.search(rf"{re.escape(name)}: ([\d.e+-]+?)(?:,|$|\s)", text)[1])


def listening_addresses(pid: int) -> set[str]:
    """Where the process itself listens, from the kernel's own table."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
        except OSError:
            continue
        if found:
            inodes.add(found[1])
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                packed = bytes.fromhex(fields[1].partition(":")[0])
                addresses.add(".".join(map(str, packed[::-1])) if len(packed) == 4 else fields[1])
    return addresses


def test_what_a_person_leaves_out_is_told(points, monkeypatch):
    gr = pytest.importorskip("gradio", reason="the extra ui is not installed")

    def draw(count: float, seed: float, drawing: dict[str, str]) -> list[int]:
        return list(range(int(count)))[int(seed) : int(seed) + 1] or [[][0]]

    draw.__annotations__ = {"count": "float", "seed": "float", "drawing": "dict[str, str]"}
    told = _told(gr, draw)
    assert told(3, 1, None) == [1]
    with pytest.raises(gr.Error, match="a number is missing"):
        told(3, None, None)
    with pytest.raises(gr.Error, match="no such example"):
        told(3, 5, None)


def test_a_port_that_is_taken_is_one_line(points):
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot be served: .*choose another --port"):
            serve(points, "taken", taken.getsockname()[1], browser=False)
