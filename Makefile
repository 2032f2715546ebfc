# Two commands do everything on a fresh machine: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
STAMPS := $(VENV)/.stamps

# llama.cpp is built from source: without its image encoder and its downloader, on all cores.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: setup demo test check lint types bench docs clean

setup: $(STAMPS)/dev ## the development environment, with every role

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("edgeops needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.12 ..." % sys.version_info[:2]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(STAMPS)/demo: pyproject.toml constraints.txt | $(BIN)/python
	@mkdir -p $(STAMPS)
	@sh deploy/system-packages.sh mosquitto
	@echo "Installing the pinned packages of the agent, hub and build roles into $(VENV) ..."
	$(PIP) install -c constraints.txt -e '.[agent,hub,build]'
	@touch $@

$(STAMPS)/dev: pyproject.toml constraints.txt | $(BIN)/python
	@mkdir -p $(STAMPS)
	@sh deploy/system-packages.sh mosquitto mosquitto-clients chromium prometheus systemd-container softhsm2 git || true
	@echo "Installing the pinned packages of every role into $(VENV) ..."
	$(PIP) install -c constraints.txt -e '.[agent,hub,build,text,gguf,mlx,ray,mlflow,pkcs11,dev]'
	@touch $@ $(STAMPS)/demo

demo: $(STAMPS)/demo ## builds, deploys, rolls out, rolls back, detects drift: the whole loop on this machine
	$(BIN)/edgeops demo $(ARGS)

lint: $(STAMPS)/dev
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	@$(BIN)/lint-imports --no-cache > $(STAMPS)/layers.log || { cat $(STAMPS)/layers.log; exit 1; }

types: $(STAMPS)/dev
	$(BIN)/mypy --no-error-summary

check: lint types ## lint, types and the fast tests: under a minute
	@# On a file system in memory, where there is one: the tests of durable writes wait for no disk.
	@scratch=$$(mktemp -d /dev/shm/edgeops.XXXXXX 2>/dev/null || mktemp -d); \
	$(BIN)/pytest -q -m "not slow and not browser and not chaos and not install" -n 2 \
		--basetemp=$$scratch/tests; status=$$?; rm -rf $$scratch; exit $$status

test: lint types ## everything
	$(BIN)/pytest -q -n 2 $(ARGS)

bench: $(STAMPS)/dev ## writes benchmarks/README.md and benchmarks/results.json
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(STAMPS)/dev ## makes the generated pages again
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
