"""`python -m highmmt` is the command line."""

from .cli import main

main()
