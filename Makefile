# make compare: install into .venv and run the main experiment's quick preset.
# make test: install into .venv and run the tests; make test-deep: those that take long; make lint: format, lint, types.
# make test-newest: the tests of the library on the newest jax that pip finds for the newest Python that is there.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
NEWEST := .venv-newest/bin
# The newest jax wants a newer Python than ours may be: on the path, or where pyenv keeps its own.
VERSIONS := 3.14 3.13 3.12
PYTHONS := $(VERSIONS:%=python%) $(VERSIONS:%=$(HOME)/.pyenv/versions/%*/bin/python3) $(PYTHON)

.PHONY: compare test test-deep test-newest lint benchmark

compare: $(INSTALLED)
	$(BIN)/python -m experiments.compare_optimizers --preset quick --out results/quick --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not deep"

test-deep: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m deep

test-newest: .venv-newest/installed
	$(NEWEST)/python -c "import jax, sys; print('jax', jax.__version__, 'on Python', sys.version.split()[0])"
	$(NEWEST)/python -m pytest --numprocesses auto --dist loadfile segjax tests --ignore tests/experiments --ignore tests/hostile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(INSTALLED)
	$(BIN)/python -m experiments.benchmark --overwrite

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv-newest/installed: pyproject.toml
	for python in $(PYTHONS); do $$python -c "import venv" 2>/dev/null && break; done; $$python -m venv .venv-newest
	$(NEWEST)/python -m pip install --quiet --editable ".[test]"
	touch $@
