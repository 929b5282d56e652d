"""`python -m smoothgen`: the command line."""

from smoothgen.cli import main

main()
