# `make path` and `make test` do all the set-up on a fresh machine; see README.md.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: path test mutants lab notebooks bench clean

path: .venv/installed
	$(BIN)/python -m ddpm_path run

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not gpu" --durations 5

# Half an hour of one core; stopped, it goes on where it was. Results in tests/mutants.md.
mutants: .venv/installed-test
	$(BIN)/python tests/mutants.py

lab: .venv/installed
	$(BIN)/jupyter lab notebooks/00_roadmap.ipynb

# Executes every text twin that changed and writes the notebook beside it.
notebooks: $(patsubst notebooks/scripts/%.py,notebooks/%.ipynb,$(wildcard notebooks/scripts/*.py))

notebooks/%.ipynb: notebooks/scripts/%.py | .venv/installed-test
	$(BIN)/jupytext --quiet --set-kernel python3 --to ipynb --output $@ $<
	$(BIN)/python -m ddpm_path run $* || { touch $<; exit 1; }
	cp build/path/$*.ipynb $@

# Measures again all that benchmarks/ says, in an environment that has the peers, too: days, on two cores.
bench: .venv-bench/installed
	for name in unet gpu samplers sde guidance cost waiting; do .venv-bench/bin/python benchmarks/$$name.py || exit 1; done
	.venv-bench/bin/python benchmarks/peers.py --speed --quality

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable '.[test]'
	touch $@

.venv-bench/installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	.venv-bench/bin/python -m pip install --quiet --no-deps --requirement benchmarks/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-bench build
