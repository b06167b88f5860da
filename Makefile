# Every target is a line that a person could type; the stamps under .venv only save typing it twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := CMakeLists.txt $(shell find native -type f 2>/dev/null)
PROGRAMS := $(wildcard recipes/results/*.dovetail)
SHEETS := $(wildcard benchmarks/networks/*.yaml)
COLD := fc_4096x9216/permdnn_p10 fc_4096x9216/permdnn_p10_4bit fc_4096x4096/permdnn_p8 fc_2048x2048/permdnn_p8

.PHONY: help demo test test-all soak bench bench-all lint docs
.DEFAULT_GOAL := help

help:
	@echo "make demo      train, compress, pack and race a small network; writes report.html"
	@echo "make test      the tests that need no GPU and no patience"
	@echo "make test-all  every test that this machine can run"
	@echo "make soak      networks on several threads for twenty minutes; memory and outputs stay the same"
	@echo "make bench     race the committed networks against their dense originals; the table of all results"
	@echo "make bench-all the same, and the networks of random weights in benchmarks/networks: hours"
	@echo "make lint      ruff and mypy"
	@echo "make docs      the documentation site, into site/"

demo: $(VENV)/.installed
	$(BIN)/dovetail demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2

soak: $(VENV)/.installed
	DOVETAIL_SOAK=1200 $(BIN)/python -m pytest -s tests/e2e/test_soak.py

bench: $(VENV)/.installed
	$(BIN)/dovetail bench $(PROGRAMS)
	$(BIN)/dovetail speed --out docs/speed.md

bench-all: $(VENV)/.installed
	$(BIN)/dovetail bench $(PROGRAMS) $(SHEETS)
	$(BIN)/dovetail bench --cold $(COLD)
	$(BIN)/dovetail speed --out docs/speed.md

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Dovetail needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.tools: $(VENV)/.python constraints.txt
	$(PIP) install -q -c constraints.txt scikit-build-core nanobind ninja cmake
	$(PIP) install -q -c constraints.txt torch
	touch $@

# Editable: Python sources are used where they lie; the native module is built again when its sources change.
$(VENV)/.installed: $(VENV)/.tools pyproject.toml $(NATIVE)
	$(PIP) install -q --no-build-isolation -c constraints.txt -e '.[test,lint,data,export,peers]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) install -q --no-build-isolation -c constraints.txt -e '.[docs]'
	touch $@
