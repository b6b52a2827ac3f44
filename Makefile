# make demo   trains a small generator with and without the loss and writes out/demo/report.html
# make test   runs the tests
# make test-oldest  runs the tests that need no video, with Python 3.10 and each set of tests/constraints (9 GB)
# make test-newest  the same with the newest versions there are, without the pins of constraints.txt (5 GB)
# make faults runs thousands of damaged inputs and disturbed commands, see docs/reliability.md
# make lint   ruff, mypy, and the workflows
# make docs   builds the documentation site in out/site
# make dist   builds and checks the wheel and the source archive
# make clean  removes .venv, out and what builds leave
# Both set up their own .venv on the first run; `make demo PYTHON=python3.12` chooses the interpreter.

PYTHON ?= python3
OLDEST_PYTHON ?= python3.10
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-oldest test-newest faults lint docs dist clean help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(READY)
	$(BIN)/unisync demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

WITHOUT_VIDEO := $(addprefix tests/,inputs models representations adapters utils contracts/test_core.py \
	test_config.py test_functional.py test_loss.py test_metrics.py)

test-oldest: $(VENV)-oldest/.ready $(VENV)-latentsync/.ready
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest -n 2 $(WITHOUT_VIDEO)
	OMP_NUM_THREADS=1 $(VENV)-latentsync/bin/python -m pytest -n 2 $(WITHOUT_VIDEO)

test-newest: $(VENV)-newest/.ready
	OMP_NUM_THREADS=1 $(VENV)-newest/bin/python -m pytest -n 2 $(WITHOUT_VIDEO)

$(VENV)-newest/.ready: OLDEST_PYTHON = $(PYTHON)

$(VENV)-%/.ready: tests/constraints/%.txt setup.cfg
	$(OLDEST_PYTHON) -m venv --clear "$(VENV)-$*"
	$(VENV)-$*/bin/python -m pip install --quiet --constraint $< --editable '.[train,report,metrics]' \
		'pytest>=8' 'pytest-xdist>=3' 'pytest-timeout>=2' 'hypothesis>=6'
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy adapters
	$(BIN)/mypy research
	$(BIN)/mypy tools
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

docs: $(VENV)-docs/.ready
	$(VENV)-docs/bin/python -m tools.site out/site-source
	NO_MKDOCS_2_WARNING=1 PATH="$(abspath $(VENV)-docs/bin):$$PATH" $(VENV)-docs/bin/mkdocs build --quiet
	@echo "out/site/index.html"

$(VENV)-docs/.ready: docs/requirements.txt
	$(PYTHON) -m venv --clear "$(VENV)-docs"
	$(VENV)-docs/bin/python -m pip install --quiet --requirement $<
	@touch $@

dist: $(VENV)-dist/.ready
	rm -rf dist build
	$(VENV)-dist/bin/python -m build --outdir dist
	$(VENV)-dist/bin/twine check --strict dist/*

$(VENV)-dist/.ready:
	$(PYTHON) -m venv --clear "$(VENV)-dist"
	$(VENV)-dist/bin/python -m pip install --quiet build twine
	@touch $@

clean:
	rm -rf .venv .venv-oldest .venv-latentsync .venv-newest .venv-docs .venv-dist out build dist *.egg-info

# the stamp comes last: an interrupted installation is begun again
$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "unisync_loss needs Python 3.10 or newer, got %d.%d" % sys.version_info[:2])'
	@echo "setting up $(VENV): about 6 GB, some minutes, once"
	$(PYTHON) -m venv "$(VENV)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[video,train,report,metrics,export,dev]'
	@touch $(READY)
