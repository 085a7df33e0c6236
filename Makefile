# Everything sets itself up: the first run makes .venv, later ones find it.
.DEFAULT_GOAL := help
.PHONY: help run test check fmt clean

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

help: ## List what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/run.stamp ## Serve on 127.0.0.1:5000 with the embedded defaults (ARGS="serve --port 8000")
	@exec $(BIN)/python backend.py $(ARGS)

test: .venv/dev.stamp mariadb ## Run the tests (ARGS="-k pairing" for some)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: .venv/dev.stamp ## Lint, types and import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

fmt: .venv/dev.stamp ## Format the code
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

clean: ## Remove .venv and caches; var/ stays
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# A .venv is whole when its stamp is there; what a broken or interrupted run left is made anew.
.venv/made.stamp:
	@test -n "$(PYTHON)" || { echo "SEF needs Python 3.11 or newer: sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "SEF needs Python's venv module: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv (the first run only, about half a minute) ..."
	@rm -rf .venv && $(PYTHON) -m venv .venv && touch $@

.venv/run.stamp: requirements.txt .venv/made.stamp
	@$(INSTALL) -r requirements.txt && touch $@

.venv/dev.stamp: requirements-dev.txt .venv/run.stamp
	@$(INSTALL) -r requirements-dev.txt && touch $@

# The tests start a private server of their own. As root it is installed; else they tell what to do.
.PHONY: mariadb
mariadb:
	@PATH="$$PATH:/usr/sbin:/usr/libexec"; command -v mariadbd >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing MariaDB for the tests ..."; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends mariadb-server; } >/dev/null; \
	fi
