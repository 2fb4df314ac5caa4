# Each target makes .venv when it is missing or when a lock changed; any order, any number of times.
VENV := .venv
GPU_VENV := .venv-gpu
CONFIG ?= cluster/presets/local.yaml
ARGS ?=
# Test files that start Ray, vLLM or DeepSpeed run in this many processes at once; each takes up to 6 GiB.
SLOW_WORKERS ?= 2

INSTALL_INPUTS := requirements/torch.txt requirements/cpu.txt requirements/dev.txt requirements/install.sh setup.cfg pyproject.toml
# The stamp carries a hash of the inputs' contents: `git checkout` and `touch` change times, not contents.
STAMP := $(VENV)/.bonrl-$(shell cat $(INSTALL_INPUTS) | sha256sum | cut -c1-16)

GPU_INPUTS := requirements/gpu.txt requirements/dev.txt requirements/install.sh setup.cfg pyproject.toml
GPU_STAMP := $(GPU_VENV)/.bonrl-$(shell cat $(GPU_INPUTS) | sha256sum | cut -c1-16)

.PHONY: help install install-gpu train test test-fast test-gpu lint reference docs clean

help:
	@echo "make install    set up .venv (PYTHON=python3.12 to choose one; VENV=DIRECTORY for another place)"
	@echo "make train      set up .venv and run the main job (CONFIG=$(CONFIG), ARGS='objective.k=4 ...')"
	@echo "make test       set up .venv and run the whole suite (real Ray, vLLM, DeepSpeed; less than an hour on 2 cores)"
	@echo "make test-fast  the tests that start none of those (a little over a minute on 2 cores)"
	@echo "make install-gpu  set up $(GPU_VENV) for NVIDIA GPUs (PYTHON=python3.12 to choose one; GPU_VENV=DIRECTORY)"
	@echo "make test-gpu   set up $(GPU_VENV) and run the tests that need an NVIDIA GPU"
	@echo "make lint       ruff (rules and format) and mypy"
	@echo "make reference  write docs/configuration.md from the settings' schema"
	@echo "make docs       build the pages of docs/ as a site in site/ (links checked)"
	@echo "make clean      remove .venv and caches; runs/ stays"

install: $(STAMP)

$(STAMP):
	requirements/install.sh $(VENV)
	@rm -f $(VENV)/.bonrl-*
	@touch $@

install-gpu: $(GPU_STAMP)

$(GPU_STAMP):
	requirements/install.sh $(GPU_VENV) gpu
	@rm -f $(GPU_VENV)/.bonrl-*
	@touch $@

train: $(STAMP)
	$(VENV)/bin/bonrl train --config $(CONFIG) $(ARGS)

# The fast tests run on every core. The slow ones spend much of their time waiting for processes to start, so two files
# run side by side; tests that inject faults need the machine alone. Status 5 of pytest: ARGS selected none.
test: $(STAMP)
	@passed=0; failed=0; \
	run() { $(VENV)/bin/python -m pytest "$$@" $(ARGS); case $$? in 0) passed=1 ;; 5) ;; *) failed=1 ;; esac; }; \
	run -m "not slow" -n auto --dist worksteal; \
	run -m "slow and not alone" -n $(SLOW_WORKERS) --dist loadfile --no-loadscope-reorder; \
	run -m alone; \
	[ $$failed = 0 ] && [ $$passed = 1 ]

test-fast: $(STAMP)
	$(VENV)/bin/python -m pytest -m "not slow" -n auto --dist worksteal $(ARGS)

test-gpu: $(GPU_STAMP)
	$(GPU_VENV)/bin/python -m pytest -m gpu -rs $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

reference: $(STAMP)
	$(VENV)/bin/python -m cluster.config.reference docs/configuration.md

docs:
	test -x site-venv/bin/mkdocs || python3 -m venv site-venv
	site-venv/bin/python -m pip install -qq --disable-pip-version-check -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 site-venv/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) $(GPU_VENV) site site-venv *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
