# Every verb that people and CI use. `make` alone lists them.

VENV := .venv
BIN := $(VENV)/bin
OUT := out
# The first Python that is new enough and can make virtual environments; `make PYTHON=...` says another.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell $(name) -c \
	'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu lint type format dev mini pin wheel-check clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.installed-cpu  ## make a video with the engines that are shipped (no torch)
	@mkdir -p $(OUT)
	$(BIN)/stt2v generate --prompt "a panda bouncing on grass" --output $(OUT)/demo.mp4
	@echo "The video is $(CURDIR)/$(OUT)/demo.mp4"

test: $(VENV)/.installed-dev  ## run the tests
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev  ## run the tests that take minutes or gigabytes
	$(BIN)/pytest -m "slow and not gpu" $(PYTEST_ARGS)

test-gpu: $(VENV)/.installed-dev  ## run the tests that need a CUDA device, and those of the kernels on it
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(BIN)/pytest -m gpu $(PYTEST_ARGS)
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(BIN)/pytest tests/kernels $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.installed-dev  ## check types
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dev: $(VENV)/.installed-dev  ## set up what the other verbs need

mini: $(VENV)/.installed-dev  ## train `mini` from scratch on a GPU (an hour), and build its engine set
	export/mini/train.sh $(BIN)/python
	$(BIN)/stt2v build-engines --model mini --out engine/sets/mini
	$(MAKE) pin

pin: $(VENV)/.installed-dev  ## pin the engine sets of the package, after one of them was built anew
	$(BIN)/python -m stt2v.export.pin

wheel-check: $(VENV)/.installed-dev  ## build wheel and sdist, install the wheel elsewhere, run it there
	tests/wheel_check.sh $(BIN)/python

clean:  ## remove what was built (the virtual environment too)
	rm -rf $(VENV) .dev build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# What is installed depends on these files alone: the stamps spare every later call the installation.
$(VENV)/.installed-cpu: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[cpu]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml tests/constraints.txt | $(BIN)/python .dev/stt2v
	$(BIN)/pip install --quiet --constraint tests/constraints.txt --editable '.[cpu,export,tensorrt-rtx,serve,cluster,dev]'
	@touch $@ $(VENV)/.installed-cpu

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 with venv found; install one or say make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# mypy and pyright cannot see through the import finder of an editable install; they follow this link instead.
.dev/stt2v:
	@mkdir -p .dev
	ln -sfn .. $@
