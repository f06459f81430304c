# The two commands of the README, and what continuous integration runs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

NATIVE := $(shell find quant/native -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)

.PHONY: chat test test-slow test-gpu lint check-native clean

chat: .venv/.ready ## set up if needed, then talk to the demo model
	@$(BIN)/k2lite chat

test: .venv/.ready-test ## set up if needed, then run the tests
	$(BIN)/python -m pytest

test-slow: .venv/.ready-test ## the long tests that `make test` leaves out
	$(BIN)/python -m pytest -m slow --timeout 1800

# On a machine with a card, by its own Python: torch for CUDA, triton, numpy, safetensors, gguf and pytest are enough.
test-gpu: ## kernels and layers on a card: tests, then a benchmark with one JSON line for each figure
	$(PYTHON) -m pytest --confcutdir=tests/gpu tests/gpu
	$(PYTHON) -m benchmarks.gpu

lint: .venv/.ready-test ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

check-native: ## the native code under the address, undefined-behaviour and thread sanitizers
	cmake -S quant/native -B build/memory -DK2QUANT_SANITIZE=address,undefined
	cmake --build build/memory --parallel 2 --target check
	cmake -S quant/native -B build/threads -DK2QUANT_SANITIZE=thread
	cmake --build build/threads --parallel 2 --target check

clean: ## remove the environment and everything that was built
	rm -rf .venv build quant/native/*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps appear only after a complete installation, so an interrupted one is taken up again.
.venv/.ready: pyproject.toml constraints.txt setup.py $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "k2lite needs Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .venv \
		|| { echo "no virtual environment: on Debian, apt install python3-venv" >&2; exit 1; }
	@echo "Installing; llama.cpp is compiled once, which takes about five minutes on two cores."
	$(PIP) install --progress-bar off -c constraints.txt -e .
	@touch $@

.venv/.ready-test: .venv/.ready
	$(PIP) install --progress-bar off -c constraints.txt -e '.[test]'
	@touch $@
