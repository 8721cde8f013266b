# The Python that makes the environment in .venv.
PYTHON ?= python3

BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test lint

# Train on the embedded sample data, export to OpenVINO and look at an image.
quickstart: $(INSTALLED)
	$(BIN)/anomalib train -c configs/quickstart.yaml
	$(BIN)/python -m anomalib_students.quickstart

# In two processes: the tests with Ray, which often wait, beside the others.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev,ray]'
	touch $@
