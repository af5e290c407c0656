# make demo    the whole comparison on real imagery, in minutes
# make test    every test
# make check   format, lint and types
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check fast-test install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here. Name a Python from 3.11 to 3.13: make $(MAKECMDGOALS) PYTHON=python3"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[sample,dev]'
	touch $@

demo: $(INSTALLED)
	scripts/demo.sh $(BIN)/python

test: $(INSTALLED)
	$(BIN)/python -m pytest

fast-test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow and not distributed and not gpu"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist
