# Every target sets up what it needs on a machine with Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
QUICK := .quickstart
# Where `make bench` finds caltech10-images.tar and cifar10-images.tar.gz: archives of <class>/*.jpg.
DATA ?= ../shared/data
# Where `make zoo` keeps shards and runs.
ZOO ?= .zoo

# Some machines ask Python to keep no compiled code: then each of a run's processes would compile all of torch and timm
# anew, seconds of a core every time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: dev quickstart quickstart-digits test test-thorough test-fast check check-quick bench gpu-check zoo methods drawing docs docs-serve image clean
dev: $(READY) ## a virtual environment with eyespot in it, editable

# Threads that wait for each other spin, and on cores with other work that takes eight times the time: let them sleep.
quickstart quickstart-digits: export OMP_WAIT_POLICY ?= passive

quickstart: $(READY) ## pack 2,000 photographs, train SimCLR, probe it, write a report
	$(BIN)/eyespot shards pack caltech10 $(QUICK)/caltech10
	$(BIN)/eyespot pretrain simclr_r10_caltech10 --data.shards $(QUICK)/caltech10 --run-dir $(QUICK)/run --resume auto
	$(BIN)/eyespot eval linear $(QUICK)/run $(QUICK)/caltech10
	$(BIN)/eyespot eval knn $(QUICK)/run $(QUICK)/caltech10
	$(BIN)/eyespot report $(QUICK)/run

quickstart-digits: $(READY) ## the same with 1,797 digits and a very small MAE
	$(BIN)/eyespot shards pack digits $(QUICK)/digits
	$(BIN)/eyespot pretrain mae_tiny --data.shards $(QUICK)/digits --run-dir $(QUICK)/digits-run --resume auto
	$(BIN)/eyespot eval linear $(QUICK)/digits-run $(QUICK)/digits
	$(BIN)/eyespot eval knn $(QUICK)/digits-run $(QUICK)/digits
	$(BIN)/eyespot report $(QUICK)/digits-run

# Three processes on two cores: many tests wait for what they have killed.
test: $(READY) ## the tests, and the 20 slowest of them
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20 -m "not thorough"

test-thorough: $(READY) ## what make test leaves out: more seeds, more ranks, more phases of what it shows on fewer
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20 -m thorough

test-fast: $(READY) ## those of one process, without cluster, browser, slow ones and long files: under three minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not long and not thorough and not cluster and not browser and not ranks"

check: check-quick ## formatting, lint, types, import contracts, the Dockerfile, sizes
	$(BIN)/basedpyright
	$(BIN)/hadolint Dockerfile

check-quick: $(READY) ## of these what takes seconds: all but types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_house.py

bench: $(READY) ## ratios against the usual ways, both sides in one run; writes benchmarks/results
	$(BIN)/python benchmarks/mae_step.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/loader.py --data $(DATA)
	$(BIN)/python benchmarks/contrast_loss.py
	$(BIN)/python benchmarks/two_views.py --data $(DATA)
	$(BIN)/python benchmarks/color_steps.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/checkpoint_stall.py
	$(BIN)/python benchmarks/kill_drill.py
	$(BIN)/python benchmarks/rand_augment.py --data $(DATA)
	$(BIN)/python benchmarks/features.py --data $(DATA)
	$(BIN)/python benchmarks/motion_masks.py --data $(DATA)
	$(BIN)/python benchmarks/track_patches.py --data $(DATA)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/probe.py $(DATA)/cifar10-images.tar.gz

gpu-check: $(READY) ## the first ten minutes on a GPU, one table; DRY=1 runs the same tiny on the CPU
	$(BIN)/python benchmarks/gpu_check.py

zoo: $(READY) ## every method trained for minutes and probed beside random weights; hours; goes on where it was
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/zoo.py --jobs 2 --data $(DATA)/cifar10-images.tar.gz --work $(ZOO)

methods: $(READY) ## docs/methods.md and README's table, pictures from what make zoo has trained
	$(BIN)/python benchmarks/methods_page.py --work $(ZOO)

drawing: $(READY) ## docs/pictures/house.svg, from the imports
	$(BIN)/python docs/drawing.py

docs: export NO_MKDOCS_2_WARNING = 1 # a word of the theme's authors about their next tool
docs: $(READY) ## the documentation site, into build/site; any warning is an error
	$(BIN)/mkdocs build --strict

docs-serve: docs ## the same, to be read at http://127.0.0.1:8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory build/site

image: ## the container, with docker, podman or buildah; BASE=... names another base image
	@for tool in docker podman buildah; do \
	  command -v $$tool >/dev/null && exec $$tool build $(if $(BASE),--build-arg BASE=$(BASE)) -t eyespot .; \
	done; echo "make: no docker, podman or buildah; on Debian: apt-get install buildah" >&2; exit 2

clean:
	rm -rf $(QUICK) build dist *.egg-info

$(READY): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet -c constraints.txt -e '.[dev]'
	@mkdir -p .face && ln -sfn .. .face/eyespot
	@touch $(READY)
