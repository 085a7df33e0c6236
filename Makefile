# `make run` and `make test` set up all they need; a plain `make` lists the targets.

PYTHON ?=
WORKERS ?= -n 3 --dist worksteal
PY := .venv/bin/python

# The tests start hundreds of processes; where this is set, each would compile all of SEF anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-mysql test-cluster test-crash soak check fmt bench clean \
	.setup-run .setup-dev .setup-bench .mariadb .galera .bench-tools

# A line `#: Name` begins a group of the list, `target: ... ## text` is an entry of it.
help:
	@awk -F ':.*## |#: ' '/^#: / {printf "%s%s\n", gap, $$2; gap = "\n"} \
		/^[a-z-]+:.*## / {printf "  make %-12s  %s\n", $$1, $$2}' Makefile

#: Run
run: .setup-run ## Start SEF on 127.0.0.1:5000 (ARGS="serve --port 8080" for more)
	@exec $(PY) backend.py $(ARGS)

#: Test
test: .setup-dev .mariadb ## The tests on SQLite and MariaDB (ARGS="tests/web -k batch" for some)
	@$(PY) -m pytest $(WORKERS) $(ARGS)

test-mysql: .setup-dev ## The tests that use a database on MySQL 9, unpacked into var/
	@$(PY) -m tests.mysql
	@$(PY) -m pytest $(WORKERS) --mysql tests/db tests/prices tests/failover tests/operators $(ARGS)

test-cluster: .setup-dev .galera ## The tests on three Galera nodes (ARGS="-m short" for the short form)
	@$(PY) -m pytest --cluster tests/cluster $(ARGS)

test-crash: .setup-dev .mariadb ## Kill the backend at each failpoint (DEEP=1: each time, in each story)
	@$(PY) -m pytest -n 6 --dist loadgroup -m $(if $(DEEP),deep,crash) tests/crash $(ARGS)

soak: .setup-dev .mariadb ## Randomized tests (HOURS=8 for a night; SEED=1 DATABASE=sqlite to repeat)
	@exec $(PY) -m tests.soak $(if $(HOURS),--hours $(HOURS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(DATABASE),--database $(DATABASE))

#: Develop
check: .setup-dev ## Lint, format, types and import rules, in seconds
	@$(PY) -m ruff check --quiet
	@$(PY) -m ruff format --check --quiet
	@$(PY) -m mypy
	@$(PY) -c 'from importlinter.cli import lint_imports_command as main; main()' --no-logo

fmt: .setup-dev ## Format the code and sort its imports
	@$(PY) -m ruff check --select I --fix --quiet
	@$(PY) -m ruff format --quiet

bench: .setup-bench .mariadb .bench-tools ## Measure SEF beside its peers (ARGS="--quick reports" for a part)
	@exec $(PY) -m bench $(ARGS)

clean: ## Remove .venv, caches and what a build left; var/ stays
	@rm -rf .venv .*_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +

# .venv keeps a copy of the requirements it was made of, and a mark while its making is unfinished:
# one that was interrupted, moved to another Python or made without pip is made anew.
.setup-run:
	@want() { cat requirements.txt; }; name=run; $(setup)

.setup-dev:
	@want() { cat requirements.txt requirements-dev.txt; }; name=dev; $(setup)

.setup-bench:
	@want() { cat requirements.txt bench/requirements.txt; }; name=bench; $(setup)

define setup
set -e; stop() { echo "$$1" >&2; exit 1; }; \
usable() { "$$@" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
has_pip() { usable $(PY) && $(PY) -c 'import pip' 2>/dev/null; }; \
if [ ! -e .venv/unfinished ] && has_pip && want | cmp -s - .venv/$$name.installed; then exit 0; fi; \
if [ -e .venv/unfinished ] || ! has_pip; then \
	found=; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
		if usable $$python; then \
			found=$${found:-$$python}; \
			if $$python -c 'import ensurepip, venv' 2>/dev/null; then break; fi; \
		fi; \
		python=; \
	done; \
	[ "$$found" ] || stop "SEF needs Python 3.11 or newer: sudo apt install python3 python3-venv"; \
	[ "$$python" ] || stop "SEF needs Python's venv module: sudo apt install $${found##*/}-venv"; \
	echo "Setting up .venv (first run only)…"; \
	rm -rf .venv; mkdir .venv; touch .venv/unfinished; \
	$$python -m venv .venv; \
else \
	echo "Updating .venv…"; \
	touch .venv/unfinished; \
fi; \
pip() { $(PY) -m pip --quiet --no-input --disable-pip-version-check "$$@"; }; \
rm -f .venv/*.installed; \
case $$name in \
	dev) pip install -r requirements-dev.txt;; \
	bench) pip install -r bench/requirements.txt;; \
	*) pip install -r requirements.txt;; \
esac; \
cat requirements.txt > .venv/run.installed; \
want > .venv/$$name.installed; \
rm .venv/unfinished
endef

# The tests start private servers of their own; without the programs, those that need them are skipped.
# The core packages bring the server without a service; some releases only have the whole.
.mariadb:
	@what=MariaDB; packages="mariadb-server-core mariadb-client-core"; whole=mariadb-server; \
	is_there() { has mariadbd && has mariadb-install-db; }; $(install)

.galera: .mariadb
	@what=Galera; packages=galera-4; whole=galera-4; \
	is_there() { [ -e /usr/lib/galera/libgalera_smm.so ]; }; $(install)

# What SEF is measured with, and against. Debian's InfluxDB also starts a server, which is not used.
.bench-tools:
	@what="wrk and InfluxDB"; packages="wrk influxdb"; whole=wrk; \
	is_there() { has wrk && has influxd; }; $(install)

define install
PATH="$$PATH:/usr/sbin:/usr/local/sbin:/usr/libexec"; export PATH DEBIAN_FRONTEND=noninteractive; \
has() { command -v "$$1" >/dev/null; }; \
if is_there || [ "$$(id -u)" != 0 ] || ! has apt-get; then exit 0; fi; \
echo "Installing $$what (first run only)…"; \
install() { apt-get install -qq -y --no-remove --no-install-recommends "$$@"; }; \
log=$$(mktemp); \
{ apt-get update -qq; install $$packages || install $$whole; } \
	</dev/null >"$$log" 2>&1 || { tail -5 "$$log"; echo "$$what could not be installed."; } >&2; \
rm -f "$$log"
endef
