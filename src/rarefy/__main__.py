"""`python -m rarefy` is the command line."""

from rarefy.cli import main

main()
