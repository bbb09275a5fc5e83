# Every target sets up its own environment first. `make demo` and `make test` are all that a fresh machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
N ?= 8

.PHONY: demo test test-all faults bench bench-full lint format clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[train,dev]" torch==2.13.0
	touch $(READY)

demo: $(READY)  ## build a manifest from the embedded sample, query it, train on it, draw the curves
	$(BIN)/curate warmup
	$(BIN)/curate build --domain medical --root demo
	$(BIN)/curate sql "SELECT split, coalesce(reason, 'kept') AS reason, count(*) AS rows FROM manifest GROUP BY ALL ORDER BY rows DESC" --root demo
	$(BIN)/python -c "import duckdb; print(duckdb.sql(\"SELECT component, count(*) AS rows, sum(n_tokens) AS tokens FROM 'demo/manifests/v1/*/*.parquet' WHERE split = 'train' GROUP BY component ORDER BY tokens DESC\"))"
	$(BIN)/train run --manifest v1 --model tiny --root demo --out demo --resume
	$(BIN)/train report demo --root demo

test: $(READY)  ## the tests that need nothing but this repository
	$(BIN)/pytest -n auto --dist worksteal

test-all: $(READY)  ## also the tests on real text (../shared/corpora) and the slow ones
	THOROUGH=1 $(BIN)/pytest -n auto --dist loadscope -m "not gpu"

faults: $(READY)  ## kill builds and runs at N seeded moments each, run again, compare digests
	FAULTS=$(N) $(BIN)/pytest -m slow tests/test_faults.py

bench: $(READY)  ## every bench on a small input; fails on a wrong result, never on a time
	for file in bench/*.py; do $(BIN)/python $$file || exit 1; done

bench-full: $(READY)  ## one bench at its full size: make bench-full NAME=rules [ARGS=...]
	$(BIN)/python bench/$(NAME).py --full $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache
