# The Python that makes the environment in .venv.
PYTHON ?= python3

BIN := .venv/bin
INSTALLED := .venv/.installed

# The lowest versions that pyproject.toml allows are in .venv-min.
MIN := .venv-min/bin

.PHONY: quickstart check test test-avx2 test-min lint docs

# Train on the embedded sample data, export to OpenVINO, look at an image, and write a report of all.
quickstart: $(INSTALLED)
	$(BIN)/anomalib train -c configs/quickstart.yaml
	$(BIN)/python examples/quickstart.py

# What is quick enough to run before each commit: the linters, and the tests that are not marked as slow.
check: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# In two processes: the tests with Ray, which often wait, beside the others.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The fast tests of what computes, as on a processor with no more than AVX2, whose sums are rounded otherwise.
test-avx2: $(INSTALLED)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \
		$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow" \
		$(wildcard $(addprefix tests/,export integration model networks teacher)) reproduction/tests

# The fast tests with the lowest versions: without those that train for long or start Ray.
test-min: .venv-min/.installed
	$(MIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow" \
		--ignore tests/ray_jobs --ignore tests/integration

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The documentation as a website in site; its notebooks are executed.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev,ray]'
	touch $@

.venv/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --editable '.[dev,docs,ray]'
	touch $@

.venv-min/.installed: pyproject.toml
	test -x $(MIN)/python || $(PYTHON) -m venv .venv-min
	$(MIN)/python -m pip install uv
	$(MIN)/python -m uv pip install --python $(MIN)/python --resolution lowest-direct --editable '.[dev,ray]'
	touch $@
