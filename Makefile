# Each target is one entry for people, CI and pre-commit alike.
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-html test check format screenshots paper bench clean

PYTHON ?=
export PYTHON

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

setup: ## make .venv, build the front end, install in place; does only what is out of date
	@bash scripts/setup.sh

demo: setup ## open the first tutorial in JupyterLab
	@bash scripts/demo.sh

demo-html: setup ## run the first tutorial and leave its explanation as a web page in build/
	@bash scripts/demo_html.sh

test: setup ## Python, front end, notebooks and browser
	@bash scripts/test.sh

check: setup ## format, lint, types, arrows between modules, stripped notebooks
	@bash scripts/check.sh

format: setup ## put code and notebooks in order
	@bash scripts/format.sh

screenshots: setup ## draw the README's pictures anew, into docs/
	@RELATIF_SCREENSHOTS="$(CURDIR)/docs" .venv/bin/python -m pytest -q tests/browser -k "screenshots or axe"

paper: setup ## every experiment of the paper at full size, hours, resumable; writes docs/paper.md
	@RELATIF_SIZE=full .venv/bin/python scripts/paper.py

bench: setup ## fit, prepare, slide, batch and memory, beside other libraries, about an hour; writes docs/benchmarks.md
	@bash scripts/bench.sh

clean: ## remove what was built, not .venv
	rm -rf build dist relatif_widgets/static js/node_modules js/lib .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
