# make compare: install into .venv and run the main experiment's quick preset.
# make check: lint, types and the quick tests, after each change.
# make test: all tests but the deep ones; make test-deep: those, and the promises about bits as users compile.
# make coverage: the lines and branches of segjax that its own tests run, with XLA's convolution.
# make docs: one site of README, lab, docs/ and API, build/docs/index.html, which opens without a network.
# make lab: executes docs/lab.ipynb and keeps its outputs.
# make gpu: tests and times on a GPU, at most 8 minutes, by PYTHON, whose jax has CUDA; docs/gpu.md says what it prints.
# make test-newest: the tests of the library on the newest jax that pip finds for the newest Python that is there.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
NEWEST := .venv-newest/bin
# The optional convolution in C++. Where it cannot be built, all goes on without, and the next run tries again.
NATIVE := .venv/native
BUILDERS := scikit-build-core nanobind cmake ninja
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(PARALLEL)
LIBRARY := segjax tests --ignore tests/experiments --ignore tests/hostile --ignore tests/gpu.py
# The newest jax wants a newer Python than ours may be: on the path, or where pyenv keeps its own.
VERSIONS := 3.14 3.13 3.12
PYTHONS := $(VERSIONS:%=python%) $(VERSIONS:%=$(HOME)/.pyenv/versions/%*/bin/python3) $(PYTHON)

.PHONY: compare check test test-deep coverage test-newest lint docs lab benchmark gpu

compare: $(INSTALLED) $(NATIVE)
	$(BIN)/python -m experiments.compare_optimizers quick --out results/quick --overwrite

# Compiled programs are kept between runs: it saves a third. Nothing else is in that folder, delete it as you like.
check: lint
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.venv/programs $(PYTEST) -m "not slow and not deep"

test: $(INSTALLED) $(NATIVE)
	$(PYTEST) -m "not deep"

test-deep: $(INSTALLED) $(NATIVE)
	$(PYTEST) -m "deep or hypothesis" --hypothesis-profile wide
	XLA_FLAGS= $(PYTEST) -m "not deep" tests/test_training.py tests/test_sweeps.py

coverage: $(INSTALLED)
	SEGJAX_NATIVE=0 $(BIN)/coverage run -m pytest $(PARALLEL) -m "not deep" $(LIBRARY)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-newest: .venv-newest/installed
	$(NEWEST)/python -c "import jax, sys; print('jax', jax.__version__, 'on Python', sys.version.split()[0])"
	$(NEWEST)/python -m pytest $(PARALLEL) -m "not deep" $(LIBRARY)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)
	rm -rf build/docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env -c docs --doctree-dir build/doctrees . build/docs
	cp build/docs/README.html build/docs/index.html

lab: $(INSTALLED) $(NATIVE)
	$(BIN)/python -m tests.run_lab

benchmark: $(INSTALLED) $(NATIVE)
	$(BIN)/python -m experiments.benchmark --overwrite

gpu:
	$(PYTHON) -m tests.gpu

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(NATIVE): $(INSTALLED) native/pyproject.toml native/CMakeLists.txt native/README.md native/src/* native/segjax_native/*.py
	@if ! echo | $(CXX) -std=c++17 -fsyntax-only -x c++ - 2>$@.log; then \
		echo "No C++17 compiler was found: native/, the faster convolution, is not built."; \
	elif echo "Building native/, the faster convolution in C++: half a minute." \
		&& $(BIN)/python -m pip install --quiet --constraint constraints.txt $(BUILDERS) >$@.log 2>&1 \
		&& $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --force-reinstall ./native >>$@.log 2>&1; then \
		touch $@; \
	else \
		echo "native/, the faster convolution, could not be built: $@.log says why."; \
	fi

.venv-newest/installed: pyproject.toml
	for python in $(PYTHONS); do $$python -c "import venv" 2>/dev/null && break; done; $$python -m venv .venv-newest
	$(NEWEST)/python -m pip install --quiet --editable ".[test]"
	touch $@
