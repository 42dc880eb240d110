# Two commands set symconv up from nothing: `make demo` and `make test`.
# Needed: Python 3.11 or newer with venv, git, make and a C++ compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

demo: $(VENV)/.ready-demo  ## install, then compare structures on the bundled digits
	@echo "== symconv compare digits: which structure suits these pictures?"
	$(BIN)/symconv compare digits --out $(OUT)

test: $(VENV)/.ready-test  ## install, then run the whole test suite
	@echo "== pytest: laws, layers, audit of imports, doctests, examples, command line"
	$(BIN)/python -m pytest -q -n auto

soak: $(VENV)/.ready-test  ## the property tests with a thousand random cases each (hours)
	SYMCONV_PROFILE=soak $(BIN)/python -m pytest -q -n auto tests/laws tests/lattice tests/nn

lint: $(VENV)/.ready-dev  ## style, types and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist out .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "symconv needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	@echo "== creating the environment $(VENV)"
	$(PYTHON) -m venv $(VENV)

# What the compiled kernels are built from: a change installs anew.
NATIVE := CMakeLists.txt $(wildcard src/symconv/kernels/cpu/*)

# One environment; a stamp per set of extras keeps repeated calls quick.
$(VENV)/.ready-%: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/pip
	@echo "== installing symconv[$*] (some minutes the first time)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@$(BIN)/python -c 'import symconv.kernels as k; print("== compiled kernels:", k.info()["native"])'
	@touch $@
