# make demo    compress a network on the embedded digits; about two minutes after the installation, offline
# make test    the tests
# make check   lint, format, types
# make docs    the documentation, into site/
# make wheel   the wheel, into dist/
# make clean   remove all that was made here
#
# Everything goes into .venv. Needed: Python 3.11 or newer with venv (on Debian: apt install python3-venv).

.POSIX:
.SUFFIXES:
.PHONY: demo test check docs wheel clean

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/demo
WORKERS ?= 2
TORCH ?= torch==2.13.*

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

# one thread: the network is so small that threads only wait for each other
demo: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/rarefy demo --out $(OUT)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(VENV)/.installed
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rarefy needs Python 3.11 or newer; say which with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "$(PYTHON) has no venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=26'
	touch $@

$(VENV)/.torch: $(VENV)/.created
	@echo "installing PyTorch and the libraries into $(VENV), some 300 MB, more where pip's torch is the build for GPUs"
	$(PIP) install --quiet --no-deps '$(TORCH)'
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml hatch_build.py src/rarefy/kernels/*.cpp src/rarefy/kernels/*.h
	$(PIP) install --quiet '$(TORCH)' -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(PIP) install --quiet --group dev
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed pyproject.toml
	$(PIP) install --quiet --group docs
	touch $@
