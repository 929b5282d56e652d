"""What a person sees: bars on a terminal, lines elsewhere, nothing where it is switched off."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from smoothgen.progress import Progress, listening, report


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=120), text


def test_a_terminal_shows_a_bar_that_moves():
    screen, text = console(terminal=True)
    with Progress(console=screen).stage("smoothing", 40, completed=10) as bar:
        bar.update(20, "loss 1.25")
        bar.bars.refresh()
        bar.update(30, "loss 0.75")
    assert "smoothing" in text.getvalue() and "eta" in text.getvalue()
    assert "20/40" in text.getvalue() and "loss 1.25" in text.getvalue()
    assert "30/40" in text.getvalue() and "loss 0.75" in text.getvalue()


def test_elsewhere_a_stage_is_a_line_and_so_is_a_note():
    screen, text = console(terminal=False)
    progress = Progress(console=screen)
    with progress.stage("smoothing", 40, completed=10) as bar:
        bar.update(20, "loss 1.25")
    progress.note("step 20 [loss] 1.25")
    assert text.getvalue() == "smoothing: 30 steps\nstep 20 [loss] 1.25\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_switched_off_is_silent(terminal):
    screen, text = console(terminal)
    progress = Progress(enabled=False, console=screen)
    with progress.stage("smoothing", 40) as bar:
        bar.update(20, "loss 1.25")
    progress.note("a note")
    assert text.getvalue() == ""


def test_a_note_needs_no_place_beside_a_bar():
    screen, text = console(terminal=True)
    Progress(console=screen).note("step 20")
    assert text.getvalue() == ""


def test_shares_of_a_long_computation_move_the_bar():
    screen, text = console(terminal=True)
    with Progress(console=screen).shares("sampling"):
        report(0.25)
        report(1.0)
    assert "sampling" in text.getvalue() and "1000/1000" in text.getvalue()
    quiet, nothing = console(terminal=False)
    with Progress(console=quiet).shares("sampling"):
        report(0.5)
    assert nothing.getvalue() == ""


def test_reports_reach_the_innermost_listener_alone():
    outer: list[float] = []
    inner: list[float] = []
    report(0.1)
    with listening(outer.append):
        with pytest.raises(ZeroDivisionError), listening(lambda share: inner.append(1.0 / (share - 0.2))):
            report(0.2)
        report(0.3)
    report(0.4)
    assert (outer, inner) == ([0.3], [])
