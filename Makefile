# make compare: install into .venv and run the main experiment's quick preset.
# make test: install into .venv and run the tests.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: compare test lint benchmark

compare: $(INSTALLED)
	$(BIN)/python -m experiments.compare_optimizers --preset quick --out results/quick --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

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
