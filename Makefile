# Each target makes what it needs, on a machine that has Python 3.11 or 3.12 with pip, and make.
PYTHON ?= python3
GAME ?= fruitbot
VIDEOS ?= data/$(GAME)
EXPERTS ?= ../shared/experts
EPISODES ?= 64
STEPS ?= 100000
# For a GPU: TORCH=torch==2.13.0, PyPI's build with gigabytes of CUDA. The index is asked only where pip's usual sources have no CPU build.
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP = $(PYTHON) -m pip --disable-pip-version-check --python .venv/bin/python install --quiet
RUN = .venv/bin/python

.PHONY: install quickstart procgen test test-learning check clean

install: .venv/installed

.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv --without-pip .venv
	$(PIP) "$(TORCH)" 2>/dev/null || $(PIP) "$(TORCH)" --index-url $(TORCH_INDEX)
	$(PIP) -c constraints.txt -e ".[procgen,dmc,metaworld,onnx,examples,tests]"
	touch $@

quickstart: install  ## learn the foraging world from the videos in examples/videos
	$(RUN) examples/quickstart.py

procgen: install  ## learn a Procgen game from the videos in $(VIDEOS), recorded by $(EXPERTS)/record.py where there are none
	$(RUN) examples/train.py procgen/$(GAME) --videos $(VIDEOS) --experts $(EXPERTS) --episodes $(EPISODES) --steps $(STEPS)

test: install  ## the fast suite
	$(RUN) -m pytest -n 2 --dist worksteal --cov=sb3_bcvlr --cov-report=term-missing --cov-fail-under=90

test-learning: install  ## the tests that learn for minutes
	$(RUN) -m pytest -m expensive

check: install
	$(RUN) -m black --check -q . && $(RUN) -m ruff check -q . && $(RUN) -m mypy sb3_bcvlr

clean:
	rm -rf .venv outputs
