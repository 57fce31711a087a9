# `make demo` and `make test` set everything up by themselves; the second time they are quick.

VENV ?= .venv
# The newest Python at hand, whether on the PATH or kept by pyenv: JAX is faster from 3.12 on.
find-python = $(shell for python in python$(1) "$$(pyenv prefix $(1) 2>/dev/null)/bin/python"; do \
  "$$python" -c "" 2>/dev/null && echo "$$python" && break; done)
PYTHON ?= $(firstword $(call find-python,3.13) $(call find-python,3.12) python3)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test test-oldest test-faults lint format clean
.DEFAULT_GOAL := test

demo: $(INSTALLED)  ## Train a spatial transformer on embedded digits and draw what it learned.
	$(BIN)/python -m experiments.train demo

test: $(INSTALLED)  ## The default test suite.
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

test-oldest:  ## The library's tests on Python 3.11 and the JAX that it stops at.
	$(MAKE) VENV=.venv-oldest PYTHON=$(call find-python,3.11) test \
	  PYTEST_ARGS="tests --ignore tests/experiments"

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
	  --constraint constraints.txt --editable '.[experiments,test,dev]'
	@touch $@
