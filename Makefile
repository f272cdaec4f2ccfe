# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin
# Each process has a run of neighbouring tests, which share what they set up; an idle one takes over.
PARALLEL := -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo test test-lowest test-newest lint docs package bench

demo: $(INSTALLED)
	$(BIN)/semisam bench --method fixmatch --labels 1,2 --iterations 20 --sam synthsam,none --jobs 2 --out runs/demo

# A library that the tests load may change the locale, and with it the encoding of files.
test test-lowest test-newest: export PYTHONUTF8 := 1
test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(INSTALLED) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/prose.py

# The documentation site, in the folder site.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict --quiet

# The quick tests with the lowest versions that pyproject.toml states, and with the newest ones.
# torch comes from the constraints in both: its own lower bound is not tested.
test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest: FRESH = .venv-$(@:test-%=%)
test-lowest test-newest:
	$(PYTHON) -m venv --clear $(FRESH)
	$(FRESH)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps torch uv
	grep '^torch==' constraints.txt > $(FRESH)/torch.txt
	$(FRESH)/bin/uv pip install --quiet --python $(FRESH)/bin/python --resolution $(RESOLUTION) --override $(FRESH)/torch.txt --requirements pyproject.toml --extra test --extra tensorboard --editable .
	$(FRESH)/bin/python -m pytest $(PARALLEL) -m 'not slow'

# The distributions, and a check that the wheel holds all that it must.
package: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python tools/wheel.py dist/*.whl

# Speed as ratios, and the structure of the code. Slower studies: benchmarks/README.md.
bench: $(INSTALLED)
	mkdir -p runs/speed
	$(BIN)/python benchmarks/speed.py --out runs/speed/speed.csv
	$(BIN)/python benchmarks/house.py now=.

# The constraints pin every version; the package itself pins no version.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is required, got " + sys.version.split()[0] + ": run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[tensorboard,dev]'
	touch $(INSTALLED)
