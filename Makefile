# Everything happens in .venv, made here; nothing outside this folder is changed. `make help` lists the targets.

PYTHON ?= python3
TORCH_INDEX ?=

PIP := .venv/bin/python -m pip --disable-pip-version-check install -c constraints.txt
VERSION := $(PYTHON) -c 'import platform; print("Python " + platform.python_version())'
PYTEST := .venv/bin/python -m pytest -q --durations=10
# For the slow tests: a Chromium that is there, or can be installed at once (root on Debian or Ubuntu, as in CI).
HAVE_BROWSER := [ -n "$$PELLUCID_CHROMIUM" ] || command -v chromium chromium-browser google-chrome >/dev/null
BROWSER := { $(HAVE_BROWSER); } || { [ "$$(id -u)" = 0 ] && [ -n "$$CI" ] && command -v apt-get >/dev/null && \
  apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null; }

.PHONY: help install demo test test-slow lint format docs clean

help:
	@echo "make demo       train a Chinese-English model and translate with it (about 4 minutes after the installs)"
	@echo "make install    make .venv with the command .venv/bin/pellucid"
	@echo "make test       the test suite"
	@echo "make test-slow  the slow tests: kills, sweeps, several processes"
	@echo "make lint       ruff and mypy"
	@echo "make format     let ruff format the code"
	@echo "make docs       write the generated pages in docs/"
	@echo "make clean      remove .venv and caches (runs/ stays)"
	@echo
	@echo "PYTHON=python3.12   the Python (3.10 or newer) to make .venv with; default: python3"
	@echo "TORCH_INDEX=URL     one more package index to look for torch in; builds there win over PyPI's, e.g."
	@echo "                    make install TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	@echo "                    (on Linux, PyPI's torch is built for CUDA: about 3 GB to download; the CPU build: 200 MB)"

install: .venv/.installed

demo: .venv/.installed-demo
	.venv/bin/pellucid demo --output runs/demo

# A process for each core, one thread each; the slow tests count on having the machine to themselves.
test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist loadfile

test-slow: .venv/.installed-dev
	@$(BROWSER) || echo "The tests of the explorer's page will be skipped: they need Chromium" \
	  "(Debian, Ubuntu: sudo apt install chromium; or PELLUCID_CHROMIUM=/path/to/a/browser)"
	$(PYTEST) -m slow

lint: .venv/.installed-dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: .venv/.installed-dev
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

docs: .venv/.installed-dev
	.venv/bin/python scripts/docs.py

clean:
	rm -rf .venv build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment; each stamp says what is in it. A second `make` does nothing until pyproject.toml or constraints.txt
# changes. torch comes by itself and first, so that its long download is seen; pip is quiet about the rest.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing torch and what it needs (200 MB to download; about 3 GB if it is a build for CUDA) ..."
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@echo "Installing pellucid and its other dependencies (about 40 MB) ..."
	@$(PIP) -q -e .
	@touch $@

.venv/.installed-demo: .venv/.installed
	@echo "Installing the demo's sentences, hsk-sentences-audio (about 2 MB) ..."
	@$(PIP) -q -e '.[demo]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "Installing the test suite's tools (about 80 MB) ..."
	@$(PIP) -q -e '.[dev]'
	@touch $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "pellucid needs Python 3.10 or newer, but $(PYTHON) is `$(VERSION) 2>/dev/null || echo missing`." \
	    "Install one (Debian, Ubuntu: sudo apt install python3 python3-venv; macOS: brew install python;" \
	    "others: https://www.python.org/downloads), or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make an environment: its module venv or ensurepip is missing." \
	    "Install it (Debian, Ubuntu: sudo apt install python3-venv), or name another Python: make PYTHON=python3.12" \
	    >&2; exit 1; }
	@echo "Making .venv with `$(VERSION)` ..."
	@$(PYTHON) -m venv .venv
