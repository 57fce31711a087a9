# `make demo` and `make test` set everything up by themselves; the second time they are quick.

VENV ?= .venv
# The newest Python at hand, whether on the PATH or kept by pyenv: JAX is faster from 3.12 on.
find-python = $(shell for python in python$(1) "$$(pyenv prefix $(1) 2>/dev/null)/bin/python"; do \
  "$$python" -c "" 2>/dev/null && echo "$$python" && break; done)
PYTHON ?= $(firstword $(call find-python,3.13) $(call find-python,3.12) python3)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test test-postgres test-faults test-oldest lint format clean
.DEFAULT_GOAL := test

demo: $(INSTALLED)  ## Train a spatial transformer on embedded digits and draw what it learned.
	$(BIN)/python -m experiments.train demo

# Neighbouring tests share what is compiled, so that each worker starts with a half of its own.
test: $(INSTALLED)  ## The default test suite.
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

test-postgres: $(INSTALLED)  ## The sweep on a PostgreSQL server that the tests start.
	$(BIN)/python -m pytest -m postgres $(PYTEST_ARGS)

# What an older JAX could break: values, derivatives, batching, sharding, modules. Not how arguments
# are refused, nor every size and type of image, which do not depend on it.
OLDEST := tests/transforms tests/nn tests/test_training.py tests/test_population.py \
  tests/test_warping.py tests/test_api.py tests/test_architecture.py \
  $(patsubst %,tests/sampling/test_%.py,onnx_vectors against_oracle identity extreme gradients \
  transformations compiled)

test-oldest:  ## The library's main tests on Python 3.11 and the JAX that it stops at.
	$(MAKE) VENV=.venv-oldest PYTHON=$(call find-python,3.11) test \
	  PYTEST_ARGS="$(OLDEST) -k 'not test_every_size'"

test-faults: $(INSTALLED)  ## A hundred kills, and thousands of files and flags that are nonsense.
	$(BIN)/python -m pytest -m faults $(PYTEST_ARGS)
	$(BIN)/python -m pytest -n 2 --hypothesis-profile faults $(PYTEST_ARGS) tests/experiments \
	  -k "any_command_line or any_bytes or damaged_file or damaged_gzip or damaged_checkpoint_falls"

lint: $(INSTALLED)  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet \
	  --constraint constraints.txt --editable '.[experiments,sweep,test,dev]'
	@touch $@
