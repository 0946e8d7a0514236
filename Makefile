PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test coverage lint hooks wheel bench clean

# A stamp per extra: pip runs again only when the project's own metadata changed. Those named here have all of `test-all`.
$(VENV)/.installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	touch $@ $(if $(filter coverage lint bench,$*),$(VENV)/.installed-test-all)

demo: $(VENV)/.installed-local
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

# Two workers take half the time: most tests wait for sockets and processes. More than four would only wait for each other.
test: $(VENV)/.installed-test-all
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# The processes that tests start are measured too, so each writes a file of its own; they are put together at the end.
coverage: $(VENV)/.installed-coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

hooks: $(VENV)/.installed-lint
	$(BIN)/pre-commit install

wheel:
	PYTHON="$(PYTHON)" bash .ci/wheel

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo .coverage .coverage.*
