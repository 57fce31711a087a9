# Targets create the virtual environment if it is missing or out of date.

VENV ?= .venv
# The newest available Python, on the PATH or from pyenv. JAX is faster from 3.12 on.
find-python = $(shell for python in python$(1) "$$(pyenv prefix $(1) 2>/dev/null)/bin/python"; do \
  "$$python" -c "" 2>/dev/null && echo "$$python" && break; done)
PYTHON ?= $(firstword $(call find-python,3.13) $(call find-python,3.12) python3)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
EXTRAS ?= experiments,sweep,test,dev,docs

.PHONY: demo test test-all test-trackers test-postgres test-faults test-oldest docs figures lint format clean
.DEFAULT_GOAL := test

demo: $(INSTALLED)  ## Train a spatial transformer on embedded digits and draw its figures.
	$(BIN)/python -m experiments.train demo

# Neighbouring tests share compiled programs, so each worker starts with its own half of the tests.
test: $(INSTALLED)  ## Run the default test suite.
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

test-all: test  ## Run the default suite, then the slow end-to-end tests.
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not postgres and not faults" $(PYTEST_ARGS)

test-trackers:  ## Test the trackers with their real packages, offline.
	$(MAKE) VENV=.venv-trackers EXTRAS=$(EXTRAS),wandb,mlflow test \
	  PYTEST_ARGS="-m slow tests/experiments/runs/test_trackers.py"

test-postgres: $(INSTALLED)  ## Test sweeps on a PostgreSQL server that the tests start.
	$(BIN)/python -m pytest -m postgres $(PYTEST_ARGS)

# Tests of what an older JAX could break: values, derivatives, batching, sharding and modules.
# Argument errors and the many sizes and dtypes of images do not depend on the version of JAX.
OLDEST := tests/transforms tests/nn tests/linen tests/nnx tests/training \
  tests/warping tests/test_api.py tests/test_architecture.py tests/test_modes.py \
  $(patsubst %,tests/sampling/test_%.py,onnx_vectors against_oracle identity extreme gradients \
  transformations compiled)

test-oldest:  ## Run the library's main tests on Python 3.11, with the last JAX that supports it.
	$(MAKE) VENV=.venv-oldest PYTHON=$(call find-python,3.11) EXTRAS=experiments,sweep,test test \
	  PYTEST_ARGS="$(OLDEST) -k 'not exact_at_every_size'"

test-faults: $(INSTALLED)  ## Test a hundred kills, and thousands of damaged files and invalid flags.
	$(BIN)/python -m pytest -m faults $(PYTEST_ARGS)
	$(BIN)/python -m pytest -n 2 --hypothesis-profile faults $(PYTEST_ARGS) tests/experiments \
	  -k "any_command_line or any_bytes or damaged_file or damaged_gzip or damaged_checkpoint_falls"

# Two processes read pages and execute notebooks. The build needs no network, and every warning is an
# error. SPHINXFLAGS replaces all of these options.
SPHINXFLAGS ?= -W -j 2 -q
docs: $(INSTALLED)  ## Build the documentation site in docs/_build/html.
	rm -rf docs/_build/html
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -b html -d docs/_build/doctrees $(SPHINXFLAGS) docs docs/_build/html

figures: $(INSTALLED)  ## Draw the figures of the site and the README again.
	JAX_PLATFORMS=cpu $(BIN)/python docs/draw_figures.py

lint: $(INSTALLED)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(INSTALLED)  ## Format the code and apply ruff's fixes.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .jax_cache docs/_build

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet \
	  --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
