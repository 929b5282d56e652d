"""`python -m smoothgen` and the command `smoothgen`: the command line, with signals answered from the first moment."""

from __future__ import annotations

import signal

from smoothgen.signals import one_line_for_signals


def main() -> None:
    """Runs the command line. Once it has ended, Ctrl-C finds no code that could show a traceback."""
    try:
        with one_line_for_signals():
            from smoothgen import cli

            cli.main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
