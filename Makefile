# Everything happens in .venv; `make` targets set it up by themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs bench soak fuzz clean

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  echo "make: '$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The stock Mercurials that the tests speak with; what is there already costs nothing.
.venv/hg/installed: .venv/installed tests/hg/install.py tests/hg/versions.py
	$(BIN)/python -m tests.hg.install
	@touch $@

# To look at the page and go on cloning until Ctrl-C: ARGS=--stay.
demo: .venv/installed
	$(BIN)/offramp demo --page build/demo/status.html $(ARGS)

# A test waits for other programs about a third of its time, hence half as many workers again as
# cores; who looks for work takes it from whom most is left, so what is made once a session is made
# in few of them. For one test ARGS='-n0 PATH::TEST', or pytest itself, starts none.
WORKERS ?= $(shell expr $$(nproc) '*' 3 / 2)
# Hundreds of tests start the program, which should be compiled but once, whatever PYTHON* says.
test: .venv/installed .venv/hg/installed
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site, in build/site; asks no network.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "See build/site/index.html"

bench: .venv/installed .venv/hg/installed
	$(BIN)/python -m benchmarks.compare $(ARGS)

# Real clients for some minutes while all that can go wrong does: docs/benchmarks.md.
MINUTES ?= 10
soak: .venv/installed .venv/hg/installed
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

# Looks for bytes that a parser cannot stand: tests/fuzz/README.md.
SECONDS ?= 60
fuzz: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info
