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
	$(BIN)/python -m pip install --quiet --editable '.[sample,export,dev]'
	touch $@

demo: $(INSTALLED)
	scripts/demo.sh $(BIN)/python

# One thread a process: the tensors of tests are small, and two processes with two threads each fight over the cores.
# Tests start many processes: where the environment forbids Python to keep what it compiled, each would compile us again.
# worksteal: neighbors stay on one process, so what a file's tests share is made once.
test: $(INSTALLED)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

fast-test: $(INSTALLED)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow and not distributed and not gpu"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist
