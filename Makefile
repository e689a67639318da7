# A new machine needs Python 3.10 to 3.13 with its venv module, and make. Nothing else.

PYTHON ?= python3
VENV ?= .venv
CPU ?=
ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip -qq --disable-pip-version-check install
# the pinned setuptools builds what comes as source, this project included: no build fetches its own
INSTALL := $(PIP_INSTALL) --constraint constraints.txt --no-build-isolation --use-pep517
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help install run test lint

help:
	@echo 'make run    one run; ARGS="model=gateloop data=wt103 seed=1" changes it, ARGS=--help explains it'
	@echo 'make test   the tests: the fast ones, then those that start real processes'
	@echo 'make lint   ruff and mypy'
	@echo 'make install   what make run needs, and no run'
	@echo
	@echo 'Each installs what it needs into .venv, once: about 0.4 GB to fetch with a CPU build of'
	@echo 'torch, 3 GB with the CUDA build that Linux gets by default.'
	@echo 'PYTHON=python3.12   the interpreter .venv is made from      VENV=folder   in place of .venv'
	@echo 'CPU=1   take a CPU build of torch where the package index has one (before the first install)'

install: $(VENV)/installed

run: $(VENV)/installed
	@$(BIN)/python -m gateloop.run $(ARGS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

lint: $(VENV)/installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

$(VENV)/installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	    echo "gateloop needs Python 3.10 to 3.13; $(PYTHON) is not one. Name one: make PYTHON=python3.12 …"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV). Where it is new: about 0.4 GB to fetch with a CPU build of torch,"
	@echo "3 GB with the CUDA build that Linux gets by default. Minutes; pip is quiet meanwhile."
	@$(PIP_INSTALL) --constraint constraints.txt setuptools
	@if [ -n "$(CPU)" ] && ! said=$$($(PIP_INSTALL) --no-deps "torch==$(TORCH)+cpu" 2>&1); then \
	    case "$$said" in \
	    *"No matching distribution"*) \
	        echo "CPU=1: the package index has no CPU build of torch $(TORCH) for this Python; taking its default build."; \
	        echo "       PyTorch's own CPU index can be named in PIP_EXTRA_INDEX_URL (see pytorch.org/get-started)." ;; \
	    *) echo "$$said"; exit 1 ;; \
	    esac; \
	fi
	@$(INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what the tests and checks need into $(VENV): about 35 MB more to fetch."
	@$(INSTALL) --editable '.[all,dev]'
	@touch $@
