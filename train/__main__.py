"""`python -m highmmt.train` is `highmmt train`, for `accelerate launch -m highmmt.train`."""

import sys

from ..cli import main

main(["train", *sys.argv[1:]])
