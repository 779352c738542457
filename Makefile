# One command for each thing a developer does. The environment is .venv; a second run reuses it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint types bench docs

PYTHON ?= python3.11
BIN := .venv/bin
FULL := .venv/.full
DEMO := .venv/.demo

help:
	@echo "make setup  environment with everything    make test   lint, types and all tests"
	@echo "make demo   prune a small network          make bench  measure against peers"
	@echo "make docs   build the site in build/site"

setup: $(FULL)
	@echo "Everything is in .venv."

# The smaller environment, unless the full one is there or is asked for: make demo ALL=1.
demo: $(if $(or $(ALL),$(wildcard $(FULL))),$(FULL),$(DEMO))
	$(BIN)/mopruning demo

# One worker a core; frameworks with threads of their own would only get into each other's way.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

lint: $(FULL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# backends/ and ir/ are imported as mopruning.backends and mopruning.ir, which mypy cannot see in a checkout, nor
# through the finder of an editable install. (A strict editable install it would see, but not a file added later.)
# So the package is laid out as in a wheel, afresh each time; kept modification times keep mypy's cache valid.
# sed gives back the paths of the checkout.
types: $(FULL)
	rm -rf build/types
	$(BIN)/python setup.py --quiet build_py --build-lib build/types
	cd build/types && ../../$(BIN)/mypy --config-file ../../setup.cfg --cache-dir ../mypy_cache \
	    | sed -E 's#^mopruning/(backends|ir)/#\1/#'

bench: $(FULL)
	for script in $$(grep -l __main__ benchmarks/*.py); do echo "== $$script"; $(BIN)/python "$$script"; done

docs: $(FULL)
	$(BIN)/mkdocs build

# Plain editable: a new module in a listed package is seen at once; a new package changes setup.cfg, and so comes here.
# setuptools goes in first and builds without isolation, so that it too has the pinned version.
$(FULL): EXTRAS := all,test,docs
$(DEMO): EXTRAS := pytorch,plot,data
$(FULL) $(DEMO): setup.cfg setup.py pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON): install it, or name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	@case "$@" in $(FULL)) $(BIN)/python tests/browser.py || echo "no browser: the tests that need one are skipped" >&2;; esac
	@touch $@
