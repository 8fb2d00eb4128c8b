# make demo: the whole way on a small synthetic dataset. make test: lint, types and tests. Both set everything up first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types viewer clean

# The constraints pin every dependency; torch goes first, so that nothing else draws in another build of it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,dicom,batchgenerators,onnx,openvino]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/autoseg3d demo demo_run

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The 3D viewer of reports, from npm with its lock file; without it reports have pictures only.
viewer:
	cd autoseg3d/report/viewer && npm ci --ignore-scripts --no-audit --no-fund && npm run bundle

clean:
	rm -rf $(VENV) demo_run .mypy_cache .ruff_cache .pytest_cache
