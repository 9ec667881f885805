# `make demo` shows everything on real data; `make test` runs every test. Both make their own environment.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test soak bench bench-search bench-stopping bench-serving lint format protos check-protos lock install chromium clean

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tuner needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV) (about 2.2 GB, a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	@$(BIN)/tuner demo

# Three files at a time: most tests wait for processes to start.
test: install chromium
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Kills workers, servers and PostgreSQL 500 times, and looks for all that was acknowledged; takes a quarter of an hour.
# Then swaps the version of an endpoint under load 20 times, and looks for every answer.
soak: install
	@TUNER_TEST_KILLS=500 $(BIN)/python -m pytest tests/acceptance/test_faults.py
	@TUNER_TEST_SWAPS=20 $(BIN)/python -m pytest tests/integration/test_gateway_endpoints.py -k changes_and_dead

# The study server beside Optuna's storages; BENCH="--quick" for a first look, BENCH="--json" for machines.
bench: install
	@$(BIN)/python tests/benchmarks/study_server.py $(BENCH)

bench-search: install
	@$(BIN)/python tests/benchmarks/search.py $(BENCH)

# How good the best is after few full trainings, with early stopping, beside Optuna's; BENCH="--json" for machines.
bench-stopping: install
	@$(BIN)/python tests/benchmarks/stopping.py $(BENCH)

# The gateway beside servers written by hand, and Ray Serve; BENCH="--ray-python PYTHON" names one with ray[serve].
bench-serving: install
	@$(BIN)/python tests/benchmarks/serving.py $(BENCH)

lint: install
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: install
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The tests of the pages drive a real browser; on Debian and Ubuntu it is installed here if it is missing.
chromium:
	@sh tests/install_chromium.sh

# Generated with an older grpcio-tools than the runtime's: its code loads with every protobuf from 6.31 to 7.
PROTO_VENV ?= .venv-protos
$(PROTO_VENV)/.installed: protos/requirements.lock
	@test -x $(PROTO_VENV)/bin/python || $(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r protos/requirements.lock
	@touch $@

protos: $(PROTO_VENV)/.installed
	@PATH="$(abspath $(PROTO_VENV))/bin:$$PATH" $(PROTO_VENV)/bin/python protos/generate.py .

# Fails if the committed code is not what the protos generate.
check-protos: $(PROTO_VENV)/.installed
	@PATH="$(abspath $(PROTO_VENV))/bin:$$PATH" $(PROTO_VENV)/bin/python protos/generate.py --check .

# Needs uv; pins every dependency with its hashes, naming no registry.
lock:
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --all-extras --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" protos/requirements.in -o protos/requirements.lock

clean:
	rm -rf $(VENV) $(PROTO_VENV) .mypy_cache .ruff_cache .pytest_cache
