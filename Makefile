# The commands of the house. `make help` lists them.

HOST ?= 127.0.0.1
PORT ?= 8000
WORKERS ?= 4
PYTHON ?=
SECONDS ?= 600
SEED ?= 0
VENV ?= .venv

RUFF := ruff==0.17.6
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

RUST_SOURCES := Cargo.toml Cargo.lock .cargo/config.toml \
	$(shell find src crates -type f \( -name '*.rs' -o -name '*.py' -o -name 'Cargo.toml' \))
PYTHON_SOURCES := pyproject.toml setup.py $(shell find python -type f \( -name '*.py' -o -name '*.pyi' -o -name py.typed \))


.DEFAULT_GOAL := help
.PHONY: help build run test lint lint-rust lint-python test-rust test-python format deny \
	autobahn conformance soak chaos-table figures check-all bench wheel clean cargo-present
.DELETE_ON_ERROR:

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

build: $(VENV)/.installed $(VENV)/.example ## build everything and install it into .venv, with FastAPI and uvloop

run: build ## build, then serve examples/fastapi on HOST:PORT with WORKERS workers
	exec $(BIN)/rsgun --host $(HOST) --port $(PORT) -w $(WORKERS) --app-dir examples/fastapi main:app

test: lint test-rust test-python ## everything that is checked before a change goes in

lint: lint-rust lint-python ## formatting and lints, Rust and Python

lint-rust: cargo-present
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@! grep -rl unsafe_code --include='*.rs' src crates tests | \
		grep -vxE 'crates/(rsgun-core/src/sys/mod|rsgun-worker/src/ffi)\.rs' || \
		{ echo "Error: unsafe code is allowed in these, outside its two modules" >&2; exit 1; }

lint-python: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/check_versions.py

test-rust: cargo-present
	scripts/test-rust

test-python: $(VENV)/.installed $(VENV)/.example $(VENV)/.test $(VENV)/.browser
	RSGUN_BIN="$${RSGUN_BIN:-$(BIN)/rsgun}" $(BIN)/python -m pytest -n auto tests/python

format: cargo-present $(VENV)/.lint ## format all sources
	cargo fmt --all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

deny: cargo-present ## licences, advisories and sources of the dependencies (needs the network)
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny check

autobahn: $(VENV)/.installed $(VENV)/.test ## every case of Autobahn against WebSocket (needs CPython 2.7; ten minutes)
	RSGUN_AUTOBAHN='$(or $(CASES),*)' $(BIN)/python -m pytest -rsA tests/python/test_autobahn.py

soak: $(VENV)/.installed $(VENV)/.example $(VENV)/.test ## the chaos test for long: make soak SECONDS=600 SEED=1
	RSGUN_CHAOS_SECONDS=$(SECONDS) RSGUN_CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -n 0 -s tests/python/test_chaos.py

chaos-table: $(VENV)/.installed ## the chaos test on rsgun, gunicorn, and granian; ARGS="--seconds 60 --seed 1"
	$(PIP) install -r bench/chaos-requirements.txt
	$(BIN)/python bench/chaos.py $(ARGS)

figures: $(VENV)/.installed $(VENV)/.test ## latency of a reload, time of a respawn, and memory with --preload
	$(BIN)/python bench/figures.py $(ARGS)

conformance: $(VENV)/.installed $(VENV)/.test ## the tests of starlette, asgiref, and requests against rsgun
	RSGUN_CONFORMANCE=1 $(BIN)/python -m pytest -rA tests/python/test_conformance.py

check-all: test deny ## `test` and `deny`

bench: $(VENV)/.installed ## rsgun beside uvicorn and granian; options: make bench ARGS="--quick"
	$(BIN)/python bench/bench.py $(ARGS)

wheel: cargo-present $(VENV)/.created ## build the wheel into dist/
	$(PIP) wheel --no-deps --wheel-dir dist .

clean: ## remove what the build made
	rm -rf target build dist $(VENV) python/rsgun.egg-info

cargo-present:
	@command -v cargo >/dev/null 2>&1 || { \
		echo "Error: cargo is not on PATH: install Rust (https://rustup.rs) and open a new shell" >&2; exit 1; }

# The stamps: each file stands for a finished step, its prerequisites for what the
# step depends on, so that a second run does nothing.

# Another PYTHON than last time makes another environment.
ifneq ($(PYTHON),)
ifneq ($(PYTHON),$(shell cat $(VENV)/.created 2>/dev/null))
.PHONY: $(VENV)/.created
endif
endif

$(VENV)/.created: scripts/find-python
	python=$$(scripts/find-python) && rm -rf $(VENV) && "$$python" -m venv $(VENV)
	@echo '$(PYTHON)' > $@

$(VENV)/.packaging: pyproject.toml $(VENV)/.created
	$(PIP) install 'setuptools>=77' 'setuptools-rust>=1.11'
	@touch $@

$(VENV)/.installed: $(RUST_SOURCES) $(PYTHON_SOURCES) $(VENV)/.packaging | cargo-present
	cargo build --release --locked
	$(PIP) install --no-deps --no-build-isolation .
	@touch $@

$(VENV)/.example: examples/fastapi/requirements.txt $(VENV)/.created
	$(PIP) install -r $<
	@touch $@

$(VENV)/.test: tests/python/requirements.txt $(VENV)/.created
	$(PIP) install -r $<
	@touch $@

$(VENV)/.browser: scripts/install-browser $(VENV)/.created
	scripts/install-browser
	@touch $@

$(VENV)/.lint: Makefile $(VENV)/.created
	$(PIP) install '$(RUFF)'
	@touch $@
