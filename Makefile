PYTHON ?= python3
BIN := .venv/bin
# one thread a process and no spinning: two cores are shared by workers, tests and the coordinator
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test fast check lint types mutants install clean support-check options

demo: install            ## from nothing to a report: search, compress, prove, bundle
	$(BIN)/python cli.py search --space cnn

test: install            ## the whole suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

fast: install            ## the quick tests, in under a minute
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

mutants: install         ## plant 400 small faults and count those that the tests catch: hours
	$(BIN)/python benchmarks/mutants.py --sample 400 --jobs 2

check: lint types test   ## what CI runs: lint, types, tests with warnings as errors

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

support-check: install   ## before a release: is docs/support.md of the families as they are?
	PYTHONPATH=. $(BIN)/python benchmarks/support.py docs/support.md --check

options: install         ## write the list of options in docs/configuration.md again
	$(BIN)/python -m searchkit.config.document docs/configuration.md

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
