# make compare: install into .venv and run the main experiment's quick preset.
# make check: lint, types and the quick tests, after each change.
# make test: all tests but the deep ones; make test-deep: those, and the promises about bits as users compile.
# make coverage: the lines and branches of segjax that its own tests run.
# make test-newest: the tests of the library on the newest jax that pip finds for the newest Python that is there.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
NEWEST := .venv-newest/bin
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(PARALLEL)
LIBRARY := segjax tests --ignore tests/experiments --ignore tests/hostile
# The newest jax wants a newer Python than ours may be: on the path, or where pyenv keeps its own.
VERSIONS := 3.14 3.13 3.12
PYTHONS := $(VERSIONS:%=python%) $(VERSIONS:%=$(HOME)/.pyenv/versions/%*/bin/python3) $(PYTHON)

.PHONY: compare check test test-deep coverage test-newest lint benchmark

compare: $(INSTALLED)
	$(BIN)/python -m experiments.compare_optimizers --preset quick --out results/quick --overwrite

# Compiled programs are kept between runs: it saves a third. Nothing else is in that folder, delete it as you like.
check: lint
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.venv/programs $(PYTEST) -m "not slow and not deep"

test: $(INSTALLED)
	$(PYTEST) -m "not deep"

test-deep: $(INSTALLED)
	$(PYTEST) -m "deep or hypothesis" --hypothesis-profile wide
	XLA_FLAGS= $(PYTEST) -m "not deep" tests/test_training.py tests/test_sweeps.py

coverage: $(INSTALLED)
	$(BIN)/coverage run -m pytest $(PARALLEL) -m "not deep" $(LIBRARY)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-newest: .venv-newest/installed
	$(NEWEST)/python -c "import jax, sys; print('jax', jax.__version__, 'on Python', sys.version.split()[0])"
	$(NEWEST)/python -m pytest $(PARALLEL) -m "not deep" $(LIBRARY)

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
