# The few commands that a developer and the CI share. `make` alone lists them.
PYTHON ?= python3
# Test files at a time.
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
# pip before 23.1 would otherwise build the packages that come as source (deepspeed) without an isolated environment.
export PIP_USE_PEP517 = 1

.DEFAULT_GOAL := help
.PHONY: help train test parity resume-matrix launch disk-access check format wheel clean
.NOTPARALLEL:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

train: .venv/.train-ready ## train the default experiment
	$(BIN)/distmlp train

test: .venv/.dev-ready ## run all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q

# `make test` has a part of these three.
parity: .venv/.dev-ready ## compare every strategy with the others, write docs/parity.md
	rm -rf build/parity
	DISTMLP_PARITY=$(CURDIR)/build/parity $(BIN)/python -m pytest -q tests/distributed/test_parity.py
	PYTHONPATH=tests/distributed $(BIN)/python -m parity.report build/parity docs/parity.md

resume-matrix: .venv/.dev-ready ## resume from every strategy under every other, write docs/resume-matrix.md
	rm -rf build/resume-matrix
	DISTMLP_RESUME_MATRIX=$(CURDIR)/build/resume-matrix $(BIN)/python -m pytest -q tests/distributed/test_resume_matrix.py
	PYTHONPATH=tests/distributed $(BIN)/python -m parity.resume_report build/resume-matrix docs/resume-matrix.md

launch: .venv/.dev-ready ## start ranks and lose them in every way: SLURM, ssh, DeepSpeed, MPI
	DISTMLP_LAUNCH=all $(BIN)/python -m pytest -q tests/slurm tests/e2e/test_launch_scripts.py

COMPILE := from distmlp.strategy import deepspeed_io, deepspeed_process as p; \
    p.import_deepspeed("cpu"); deepspeed_io.load_disk_access("cpu")

disk-access: .venv/.dev-ready ## compile what strategy=deepspeed_zero3_nvme and its tests need; takes minutes
	$(BIN)/python -c '$(COMPILE)'

check: .venv/.dev-ready ## format, lint, types and layers, without changing a file
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy distmlp
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

format: .venv/.dev-ready ## format the code and repair what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

wheel: .venv/.dev-ready ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## remove builds and caches; the environment and the runs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than the files that decide what is installed, so an unchanged environment is left alone.
.venv/.train-ready: pyproject.toml constraints.txt
	$(call install,plot)

# The tests need everything that training needs.
.venv/.dev-ready: pyproject.toml constraints.txt
	$(call install,dev)
	@touch .venv/.train-ready

# torch comes first and by itself, so that the index or folder configured for pip decides between its CPU and CUDA builds.
define install
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: distmlp needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing distmlp and its dependencies into .venv; this takes a few minutes."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -e ".[$(1)]"
	@touch $@
endef
