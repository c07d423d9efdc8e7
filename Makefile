# One command each; every target makes .venv if it is not there.
# The first Python that is new enough, or `make PYTHON=…`.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test check docs bench clean

quickstart: .venv/ready
	$(BIN)/earthssl quickstart

# Two processes of one thread: the networks of the tests are too small for two threads to help.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build
	$(INSTALL) --no-deps --no-build-isolation --upgrade --target build/installed .
	cd build && MYPYPATH=installed ../$(BIN)/python -m mypy --config-file ../pyproject.toml -p earthssl

# Built from a copy, so that the pages made for the API reference stay out of docs/; a warning is an error.
docs: .venv/ready
	rm -rf build/pages build/site
	mkdir -p build
	cp -r docs build/pages
	$(BIN)/python -m sphinx -q -W --keep-going build/pages build/site
	@echo "build/site/index.html"

bench: .venv/ready
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/probing.py
	$(BIN)/python benchmarks/embed.py --years 10 20 40 --steps 1D
	$(BIN)/python benchmarks/peers.py

# Any pip will do. Where an index of your choice offers torch and torchvision built for CPUs alone (both: one does not load
# beside the other's usual build), PIP_EXTRA_INDEX_URL=… make … takes those, and 5 GB of CUDA stay away.
.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "expected Python 3.11 or later on the PATH, found none; make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(INSTALL) "setuptools>=77" wheel
	@echo "installing torch and the rest: about 6 GB on disk, some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch .venv/ready

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
