# Everything starts here: `make demo` and `make test` set up the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODELS := whisper-tiny.en
TEST_MODELS := $(MODELS) smollm2-135m-instruct yamnet dinov2-small all-minilm-l6-v2 gpt2-bpe

# The plainest instructions of torch and MKL, and those of most processors in oneDNN; they read this when they start.
PLAIN := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1

.PHONY: install demo test numerics check fix docs bench fuzz clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt 'torch'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[containers,convert,dev,docs,export,metrics]'
	touch $(STAMP)

demo: install
	$(BIN)/ossicle models pull $(MODELS) sample-sounds
	$(BIN)/ossicle demo --out demo

test: install
	$(BIN)/ossicle models pull $(TEST_MODELS) sample-sounds
	$(BIN)/python -m tests.instructions
	$(BIN)/python -m pytest

numerics: install
	$(BIN)/ossicle models pull $(firstword $(MODELS))
	$(PLAIN) $(BIN)/python -m tests.instructions
	$(PLAIN) $(BIN)/python -m pytest -m 'numerics and not slow and not gpu'

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/mkdocs build --strict

bench: install
	$(BIN)/python benchmarks/speed_frontend.py

fuzz: install
	OSSICLE_FUZZ=50 $(BIN)/python -m pytest -m fuzz

clean:
	rm -rf $(VENV) demo site
