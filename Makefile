# The programs of .venv come first if it is there (bootstrap.py makes it); else those of the active environment.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup run test slow style quality house layers types check
help:    ; @echo "make setup | run | test | slow | style | quality | layers | types | check"
# HIGHMMT_TORCH names the torch for this machine, as it does for bootstrap.py.
setup:   ; python3 -m venv .venv $(if $(HIGHMMT_TORCH),&& pip install $(HIGHMMT_TORCH)) && pip install -e ".[dev]"
run:     ; python3 bootstrap.py run
test:    ; pytest
slow:    ; pytest -m "slow and not gpu and not paper"
style:   ; ruff check --fix . && ruff format .
quality: ; ruff check . && ruff format --check .
# import-linter and mypy follow folders, not package_dir, so both look at a real installed copy, from inside it.
# Starting from an empty build/ matters: setuptools keeps modules there that have been deleted.
house:   ; rm -rf build && pip install -q --no-deps --no-build-isolation --target build/house .
layers:  house ; cd build/house && PYTHONPATH=. lint-imports --config ../../setup.cfg --no-cache
types:   house ; cd build/house && mypy --config-file ../../setup.cfg -p highmmt
check:   quality layers types test
