# Everything happens in .venv; its stamps keep set-up from being done twice.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip
RUN := $(VENV)/bin/python -m
.PHONY: demo test bench docs table clean

# One real trial of forty runs: do ghost batches help a large batch on scikit-learn's digits? A second time, all of them
# are known.
demo: $(VENV)/.installed
	$(VENV)/bin/assay compare digits --with ghost-batchnorm:ghost_batch_size=16 --set batch_size=128 \
		--seeds 20 --budget 40epochs --smallest-effect 0.005 --out .assay/reports/demo.html

test: $(VENV)/.installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports
	$(RUN) pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=25 --jaxtyping-packages=assay,beartype.beartype

bench: $(VENV)/.installed-bench
	set -e; for file in benchmarks/*.py; do $(VENV)/bin/python $$file; done

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"assay needs Python 3.11 or later, $(PYTHON) is {v[0]}.{v[1]}")'
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact version, so that nothing below can choose another
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(PIP) install "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.torch
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.torch
	$(PIP) install -c constraints.txt -e '.[$*]'
	touch $@ $(VENV)/.installed

# The documentation as a site, to dist/docs; `make test` builds it as well
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict
	@echo 'Open dist/docs/index.html; its search needs a server: $(VENV)/bin/python -m http.server -d dist/docs -b 127.0.0.1'

# The README's table of papers, from the cards and the evidence
table: $(VENV)/.installed
	$(VENV)/bin/python -m assay.papers.catalog README.md
