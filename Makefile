# make demo   trains a small generator with and without the loss and writes out/demo/report.html
# make test   runs the tests
# make lint   ruff and mypy
# make clean  removes .venv, out and what builds leave
# Both set up their own .venv on the first run; `make demo PYTHON=python3.12` chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint clean help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(READY)
	$(BIN)/unisync demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy adapters
	$(BIN)/mypy research
	$(BIN)/mypy tools

clean:
	rm -rf .venv out build dist *.egg-info

# the stamp comes last: an interrupted installation is begun again
$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "unisync_loss needs Python 3.10 or newer, got %d.%d" % sys.version_info[:2])'
	@echo "setting up $(VENV): about 5 GB, some minutes, once"
	$(PYTHON) -m venv "$(VENV)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[video,train,report,metrics,dev]'
	@touch $(READY)
