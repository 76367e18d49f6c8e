# Two commands for everybody: `make demo` shows it, `make test` proves it.  Each sets up what it needs.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PARALLEL ?= 3
# uv compiles nothing as it installs: a process that may not keep what it compiles needs three times as long to import pandas, every time.
unexport PYTHONDONTWRITEBYTECODE
# Three tests at a time start servers, kernels and browsers on two cores; one that was too slow there is asked again, alone, and must pass.
# Beside others a test is known by the name of its group too, as in `test_x@engine`; alone by its own.
ALONE = (echo "Once more, alone:" && sed -i.bak 's/@[a-z-]*": true/": true/' .pytest_cache/v/cache/lastfailed \
	&& $(BIN)/python -m pytest --last-failed --last-failed-no-failures none)
# The JupyterLab extension is built into the package as it is installed (extension/build.py): changed sources mean install again.
EXTENSION := $(shell find extension/src extension/style extension/schema -type f) $(wildcard extension/*.json extension/*.js extension/*.lock)
# Trees are walked by compiled code, which is made as the package is installed where there is a C compiler.
COMPILED := mlops_nb/trees/walk.c mlops_nb/trees/walk.h mlops_nb/trees/compiling.py mlops_nb/trees/hatch_build.py

.PHONY: demo test lint bench bench-peers bench-stats dev picture lock down clean packages

demo: .venv/ready-demo
	$(BIN)/python sample_notebooks/run.py

test: packages .venv/ready-dev
	$(BIN)/python -m pytest -n $(PARALLEL) --dist loadgroup || $(ALONE)

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: .venv/ready-dev
	$(BIN)/python -m bench

# How often drift checks and canaries are wrong, by simulation.
bench-stats: .venv/ready-dev
	$(BIN)/python -m bench.stats

# Other servers of models beside ours, each in an environment that this makes below bench/out.
bench-peers: .venv/ready-dev
	$(BIN)/python -m bench.peers

dev: .venv/ready-dev
	@echo "Activate it: source .venv/bin/activate"

# The README's picture of the dashboard, taken by a test.
picture: .venv/ready-dev
	$(BIN)/python -m pytest tests/browser/test_dashboard.py -k picture
	mkdir -p docs/images && cp tests/out/screenshots/readme.png docs/images/dashboard.png

# The versions that demo and test install; a release of somebody else's breaks nobody's morning.
lock: .venv/bin/uv
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header --upgrade -o constraints.txt

down:
	$(BIN)/mlops down

clean:
	rm -rf .venv .mlops bench/out tests/out dist
	rm -rf extension/lib extension/node_modules extension/.built-from mlops_nb/labextension

# Debian packages the tests use, where we may install them; elsewhere say which are missing.
packages:
	@bash tests/packages.sh

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing into .venv; the first time this takes some minutes."

.venv/ready-demo: .venv/bin/uv pyproject.toml constraints.txt $(EXTENSION) $(COMPILED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt -e '.[demo]'
	touch $@

.venv/ready-dev: .venv/bin/uv pyproject.toml constraints.txt $(EXTENSION) $(COMPILED)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt -e '.[dev]'
	touch $@ .venv/ready-demo
