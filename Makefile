# Each target sets up what it needs first: a .venv with the pinned requirements and this package in editable mode.
# The README has the plain commands behind each of them.

PYTHON ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.set-up
PYTEST := $(PY) -m pytest
# one thread a process: two processes with two threads each would fight over two cores
SERIAL := OMP_NUM_THREADS=1 TQDM_DISABLE=1
# those that take longest come first: at the end one process would be busy with them alone
LONGEST := $(patsubst %,book/%.ipynb,debugging data training own_data head_construction weights)
NOTEBOOKS := $(wildcard $(LONGEST)) $(filter-out $(LONGEST),$(wildcard book/*.ipynb))
# where node is installed: the types in the comments of book/_static/lab
TSC := npx --yes --package typescript@5.9.3 tsc
STRIP := --keep-output --keep-count --keep-id --extra-keys metadata.language_info.version

.DEFAULT_GOAL := help
.PHONY: help set-up book serve test test-all lint unit compiled slow notebooks parity parity-short bench check-site everywhere train refresh clean

help:
	@echo "make book        build the book strictly into _build/html"
	@echo "make test        lint, types, unit tests, doctests and every notebook"
	@echo "make test-all    the same, and the tests that take longer: killed runs, torchrun"
	@echo "make train       train the small detector on the embedded scenes; options: make train ARGS='--epochs 12'"
	@echo "make parity      compare with MMDetection itself on fresh cases; needs Python 3.11 or 3.12; ARGS='--seed 7' repeats a run"
	@echo "make parity-short  the same with few cases of each kind"
	@echo "make bench       time the head against MMDetection's on the CPU; needs what parity needs; ARGS='--only assign'"
	@echo "make serve       show the built book on http://127.0.0.1:8000"
	@echo "make check-site  look at every built page with a browser, wide and narrow, light and dark"
	@echo "make everywhere  notebooks and tests under each instruction set, with one and two threads and two seeds:"
	@echo "                 some hours, before a release; ARGS='book/data.ipynb --sets default' chooses"
	@echo "make refresh     run every notebook and store its outputs"
	@echo "make clean       remove what was built; .venv, runs and data sets stay"

# The stamp holds what the set-up was made from.  It is removed first and written last, so that a set-up
# that was interrupted, moved to another folder, or made from other files, is done again.
set-up:
	@want="$$(cat requirements.txt pyproject.toml | cksum) $(CURDIR)"; \
	if [ -f $(STAMP) ] && [ "$$(cat $(STAMP))" = "$$want" ] && $(PY) -c pass 2>/dev/null; then exit 0; fi; \
	rm -f $(STAMP); \
	fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'; \
	if ! { $(PY) -c "$$fits" && $(VENV)/bin/pip --version | grep -qF "$(CURDIR)/$(VENV)/"; } >/dev/null 2>&1; then \
		python=; \
		for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
			if $$candidate -c "$$fits" >/dev/null 2>&1; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "Python 3.11 to 3.14 is needed and none was found as $(or $(PYTHON),python3, python3.14, python3.13, python3.12 or python3.11)." >&2; \
			echo "Install one, or name it: make $(or $(firstword $(MAKECMDGOALS)),test) PYTHON=/path/to/python3.12" >&2; \
			exit 1; \
		fi; \
		echo "Setting up: a virtual environment in $(VENV) with $$($$python --version)"; \
		if ! $$python -m venv --clear $(VENV); then \
			echo "The virtual environment could not be made. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
		fi; \
	fi && \
	echo "Setting up: the packages in requirements.txt (the first time takes some minutes)" && \
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt && \
	echo "Setting up: this package, in editable mode" && \
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . && \
	echo "$$want" > $(STAMP)

book: set-up
	@echo "Building the book strictly: every warning is an error"
	@rm -rf _build/html _build/.doctrees
	@$(VENV)/bin/jupyter-book build . --all -W -n --keep-going
	@echo
	@echo "The book is built. Read it with: make serve"
	@echo "(Opened as a file, $(CURDIR)/_build/html/index.html lacks symbols and the lab.)"

serve: set-up
	@test -f _build/html/index.html || { echo "There is no built book yet: make book" >&2; exit 1; }
	@echo "Serving the book on http://127.0.0.1:8000 until Ctrl-C"
	@$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

# one after the other even under make -j: two steps at a time would print into each other
test: set-up
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory compiled
	@$(MAKE) --no-print-directory notebooks
	@echo "All passed: lint, types, arrows, unit tests, doctests, compiled tests, $(words $(NOTEBOOKS)) notebook(s)."

test-all: set-up
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory slow

lint: set-up
	@echo "== lint, format, types, arrows between modules, clean notebooks"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/zizmor --offline --quiet .github/workflows
	@$(if $(NOTEBOOKS),$(PY) -m nbstripout --verify $(STRIP) $(NOTEBOOKS),:)
	@if $(TSC) --version >/dev/null 2>&1; then $(TSC) --project book/_static/lab/jsconfig.json; \
		else echo "The types of the lab's JavaScript are not checked: npx is missing, or cannot fetch TypeScript"; fi

unit: set-up
	@echo "== unit tests and doctests, with every shape in a signature checked"
	@$(SERIAL) $(PYTEST) -n 2 --dist worksteal --jaxtyping-packages=minirtmdet,shape_checks.checked

# without the shape checks: their import hook breaks torch.compile; the compiler needs no processes of its own
compiled: set-up
	@echo "== tests of compiled code"
	@$(SERIAL) TORCHINDUCTOR_COMPILE_THREADS=1 $(PYTEST) -n 2 -m compile tests || [ $$? -eq 5 ]

slow: set-up
	@echo "== tests that take longer"
	@$(SERIAL) $(PYTEST) -m slow --jaxtyping-packages=minirtmdet,shape_checks.checked tests

notebooks: set-up
	@echo "== notebooks, two at a time, outputs compared with the stored ones"
	@$(if $(NOTEBOOKS),$(SERIAL) $(PYTEST) --nbval --nbval-current-env --nbval-cell-timeout 900 \
		--nbval-sanitize-with tests/book/nbval_sanitize.cfg -n 2 --dist loadscope --no-loadscope-reorder $(NOTEBOOKS),echo "there is no notebook yet")

parity: set-up
	@bash tests/parity/reference_env/setup.sh .venv-reference
	@$(SERIAL) PYTHONPATH=tests $(PY) -m parity.live --reference .venv-reference/bin/python $(ARGS)

# every kind of case, few of each
parity-short:
	@$(MAKE) --no-print-directory parity ARGS="--scale 0.04 $(ARGS)"

# each side in its own environment, taking turns; the threads are set by the benchmark
bench: set-up
	@bash tests/parity/reference_env/setup.sh .venv-reference
	@$(PY) benchmarks/head.py --reference .venv-reference/bin/python $(ARGS)

check-site: set-up
	@echo "== the built site"
	@$(PYTEST) -n 2 -m site tests/book tests/benchmarks

everywhere: set-up
	@$(PY) tests/everywhere.py $(ARGS)

train: set-up
	@echo "Training mini-160 into runs/mini-160; an earlier run there is replaced (ARGS=--resume continues it)"
	@$(PY) -m minirtmdet train mini-160 $(if $(findstring --resume,$(ARGS)),,--overwrite) $(ARGS)

refresh: set-up
	@$(PY) book/_ext/install_cell.py $(NOTEBOOKS)
	@$(SERIAL) $(VENV)/bin/jupyter-execute --inplace $(NOTEBOOKS)
	@$(PY) -m nbstripout $(STRIP) $(NOTEBOOKS)
	@$(PY) book/_ext/readme_figure.py

clean:
	rm -rf _build .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache .coverage book/_static/vendor book/api/*/
	find src tests book -name __pycache__ -type d -prune -exec rm -rf {} +
