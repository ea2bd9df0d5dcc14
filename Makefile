# Start with `make demo` and `make test`. `make help` lists all targets.

PYTHON ?= python3

# The demo: its total time, the upper limit of its training in kimg, and the settings of its training.
DEMO_DIR     ?= .demo
DEMO_MINUTES ?= 10
DEMO_KIMG    ?= 10000
DEMO_SETTINGS ?= --fmap-base=512 --fmap-max=64 --latent-size=64 --mapping-layers=2 --resample-kernel=1,1 \
    --g-loss=G_logistic_ns --minibatch-size=8 --minibatch-gpu=8 --lrate=0.004 --gamma=0.5 --g-smoothing-kimg=1

DEMO_METRICS ?= none
DEMO_SNAPSHOT_TICKS ?= 10
DEMO_RESULTS ?= $(DEMO_DIR)/results
DEMO_FLAGS ?=

PY = .venv/bin/python

# pip does not compile the packages to bytecode, which would take 20 seconds per environment: Python compiles the
# modules that are imported, once. It must be allowed to store the result: otherwise each process compiles TensorFlow's
# modules again, which takes 4 seconds, and the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --no-compile

comma = ,

# GPU=1: CUDA and cuDNN too.
INSTALLED = .venv/.installed$(if $(filter-out 0,$(GPU)),-gpu)

.PHONY: help demo demo-train demo-pictures demo-page demo-metrics demo-precision ops
.PHONY: test test-quick nightly test-kernels test-layout test-versions lint fuzz cuda-check gpu-check reference-check bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 25

# ---- The virtual environment, which is set up again only when pyproject.toml has changed ----

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else \
	    "Error: Python 3.10 to 3.13 is needed, $(PYTHON) is %d.%d. Name another, e.g.: make $(MAKECMDGOALS) PYTHON=python3.12" % v)'
	@echo 'Installing TensorFlow and the other packages into .venv (once; several hundred MB to download, a few minutes)'
	@$(PYTHON) -m venv .venv
	@$(PY) $(PIP_INSTALL) --editable '.[dev,demo,offline-metrics]'
	@touch $@

.venv/.installed-gpu: .venv/.installed
	@echo 'Installing CUDA and cuDNN into .venv (once; 2 to 3 GB to download)'
	@$(PY) $(PIP_INSTALL) --editable '.[gpu]'
	@touch $@

# ---- The demo: pictures -> dataset -> trained networks -> pictures ----

# The latest folder of results whose name contains $(1).
latest = $(shell ls -d $(DEMO_DIR)/results/*-$(1)* 2>/dev/null | tail -n 1)

$(DEMO_DIR)/datasets/faces32: | $(INSTALLED)
	$(PY) dataset_tool.py create_from_images $@ demo/faces32.zip

# `make demo` sets DEMO_END (seconds since 1970); without it there is no limit. Training gets the time from its start
# until DEMO_END, minus the time for the pictures, but at least 2 minutes.
DEMO_PICTURES_MINUTES = 0.75
DEMO_LIMIT = $(if $(DEMO_END),--max-minutes=$$(LC_ALL=C awk -v end=$(DEMO_END) -v now=$$(date +%s) \
    'BEGIN { minutes = (end - now) / 60 - $(DEMO_PICTURES_MINUTES); printf "%.2f", minutes < 2 ? 2 : minutes }'))

# The native operations are built before the limit is computed, so that the build does not use up the time for training. If the build fails,
# training uses the reference form.
demo-train: | $(INSTALLED) $(DEMO_DIR)/datasets/faces32
	@$(PY) -m custom_ops.build || echo 'Continuing with the reference form of the operations, which is slower.'
	@limit="$(DEMO_LIMIT)"; set -x; \
	$(PY) run_training.py --data-dir=$(DEMO_DIR)/datasets --dataset=faces32 --result-dir=$(DEMO_RESULTS) \
	    --total-kimg=$(DEMO_KIMG) $$limit --tick-kimg=1 --image-snapshot-ticks=5 \
	    --network-snapshot-ticks=$(DEMO_SNAPSHOT_TICKS) --metrics=$(DEMO_METRICS) $(DEMO_SETTINGS) $(DEMO_FLAGS)

demo-pictures: demo-train
	$(PY) run_generator.py generate-images --network=$(call latest,stylegan2)/network-final.pkl --result-dir=$(DEMO_DIR)/results \
	    --seeds=0-31 --truncation-psi=0.7
	$(PY) run_generator.py style-mixing-example --network=$(call latest,stylegan2)/network-final.pkl --result-dir=$(DEMO_DIR)/results \
	    --row-seeds=0-3 --col-seeds=4-8 --truncation-psi=0.7

demo-page: demo-pictures
	@$(PY) -m demo.page $(DEMO_DIR)/index.html --run=$(call latest,stylegan2) --faces=$(call latest,generate-images) \
	    --mixed=$(call latest,style-mixing-example)
	@echo 'Next steps:'
	@echo '  make demo DEMO_MINUTES=30'
	@echo '  $(PY) run_generator.py generate-images --network=$(call latest,stylegan2)/network-final.pkl --seeds=100-199'
	@echo '  $(PY) dataset_tool.py create_from_images datasets/mine FOLDER_OF_SQUARE_IMAGES'
	@echo '  $(PY) run_training.py --dataset=mine'

demo: DEMO_START := $(shell date +%s)
demo: ## train on 1,000 small faces and draw new ones, in 10 minutes; DEMO_MINUTES=30 draws better faces; GPU=1 uses the GPU
	@echo 'This trains a small StyleGAN2 on 1,000 faces of 32x32 pixels and draws new ones, in about $(DEMO_MINUTES) minutes:'
	@echo '  1. Install TensorFlow and the rest into .venv:   $(if $(wildcard $(INSTALLED)),done before,1 to 3 minutes$(if $(findstring gpu,$(INSTALLED)),$(comma) and CUDA))'
	@echo '  2. Convert the faces to a dataset:               $(if $(wildcard $(DEMO_DIR)/datasets/faces32),done before,a few seconds)'
	@echo '  3. Compile the native operations:                half a minute the first time, later a few seconds'
	@echo '  4. Train:                                        the time that is left, at least 2 minutes'
	@echo '  5. Draw new faces, and write $(DEMO_DIR)/index.html:  half a minute'
	@$(MAKE) --no-print-directory demo-page DEMO_END=$$(LC_ALL=C awk 'BEGIN { printf "%d", $(DEMO_START) + 60 * $(DEMO_MINUTES) }')

demo-metrics: DEMO_KIMG = 35
demo-metrics: DEMO_METRICS = fd_efficientnet1k
demo-metrics: DEMO_SNAPSHOT_TICKS = 3
demo-metrics: demo-train ## the same training, with a metric computed along the way: docs/metrics.svg
	$(PY) docs/plot.py docs/metrics.svg $(call latest,stylegan2) Metrics/$(DEMO_METRICS)

# The runs of both precisions alternate, so that other load on the machine affects both. A stopped run is resumed.
demo-precision: DEMO_KIMG = 35
demo-precision: | .venv/.installed ## the same training in float32 and bfloat16, three seeds each (hours): docs/precision.md
	@for seed in 1 2 3; do for precision in float32 bfloat16; do \
	    results=$(DEMO_DIR)/precision/$$precision-seed$$seed; \
	    ls $$results/*/_finished.txt >/dev/null 2>&1 || $(MAKE) --no-print-directory demo-train DEMO_RESULTS=$$results \
	        DEMO_KIMG=$(DEMO_KIMG) DEMO_METRICS=fd_efficientnet1k DEMO_SNAPSHOT_TICKS=1000 \
	        DEMO_FLAGS="--precision=$$precision --seed=$$seed --resume=latest" || exit 1; \
	done; done
	$(PY) -m bench precision --runs=$(DEMO_DIR)/precision --json .bench/precision.json

# ---- The native operations, which are otherwise built when they are first used ----

ops: $(INSTALLED) ## build the native operations and print the commands
	$(PY) -m custom_ops.build --verbose

# ---- The checks ----

# Processes that share the test files: much of a test is Python, which uses one core.
TEST_WORKERS ?= 2
# In the order of tests/conftest.py, which starts the slowest files first.
PYTEST = -m pytest -q -rs -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test: .venv/.installed ## run all tests
	$(PY) $(PYTEST)

test-quick: .venv/.installed ## run a selection of the tests that takes less than two minutes
	$(PY) $(PYTEST) -m 'quick or inner'

nightly: .venv/.installed ## run the tests that take many minutes, which `make test` leaves out
	$(PY) -m pytest -q -rs -m nightly

# With oneDNN off if it is on by default on this machine, and on if it is off.
test-kernels: .venv/.installed ## run the golden tests with TensorFlow's other CPU kernels (oneDNN off or on)
	other=$$($(PY) -c 'from dnnlib import onednn; print(0 if onednn.is_on() else 1)') && test -n "$$other" && \
	    TF_ENABLE_ONEDNN_OPTS=$$other $(PY) $(PYTEST) -m other_kernels

# What `make gpu-check` runs: full, in ten minutes, quick, in three, or rehearsal, which needs no GPU.
GPU_CHECK ?= full

gpu-check: .venv/.installed$(if $(filter-out rehearsal,$(GPU_CHECK)),-gpu) ## check and measure everything on a GPU, and write a page about it; GPU_CHECK=quick: the most important
	$(PY) -m tests.gpu_check --mode=$(GPU_CHECK)

test-layout: .venv/.installed ## run the golden tests with channels first, the layout of GPUs in float32
	STYLEGAN2_TEST_LAYOUT=NCHW $(PY) $(PYTEST) -m channels_first

# The quick tests on other versions, each in its own environment: PYTHONS lists the Python versions that can run it, of
# which the first that is installed is used; INSTALL lists what is installed into it.
VERSIONS = tf215 tf218 py313
PYTHONS_tf215 = 3.10 3.11
PYTHONS_tf218 = 3.12 3.11 3.10
PYTHONS_py313 = 3.13
INSTALL_tf215 = '.[dev,addons]'
INSTALL_tf218 = '.[dev,offline-metrics]' 'tensorflow==2.18.*'
INSTALL_py313 = '.[dev,offline-metrics]'

find_python = $(shell for v in $(1); do for p in python$$v ~/.pyenv/versions/$$v.*/bin/python; do \
    "$$p" -c '' 2>/dev/null && echo "$$p" && exit; done; done)

test-versions: $(VERSIONS:%=test-%) ## run the quick tests on TensorFlow 2.15 and 2.18, and on Python 3.13

.PHONY: $(VERSIONS:%=test-%)
$(VERSIONS:%=test-%): test-%:
	@if [ -z '$(call find_python,$(PYTHONS_$*))' ]; then \
	    echo 'test-$*: skipped, none of these Python versions is installed: $(PYTHONS_$*)'; else \
	    $(MAKE) --no-print-directory .venv-$*/.installed && .venv-$*/bin/python $(PYTEST) -m quick; fi

$(VERSIONS:%=.venv-%/.installed): .venv-%/.installed: pyproject.toml
	@echo "Installing into .venv-$* (once): $(INSTALL_$*)"
	@$(call find_python,$(PYTHONS_$*)) -m venv .venv-$*
	@.venv-$*/bin/python $(PIP_INSTALL) --editable $(INSTALL_$*)
	@.venv-$*/bin/python -c 'import sys; from importlib.metadata import version as v; \
	    print("Python", sys.version.split()[0], "TensorFlow", v("tensorflow"), "Keras", v("keras"))'
	@touch $@

lint: .venv/.installed ## check the style of the code with ruff, and its types with pyright
	$(PY) -m ruff check .
	$(PY) -m pyright

# FUZZ_SEED: the same files again. Empty = others each time.
FUZZ_MINUTES ?= 10
FUZZ_SEED ?=

fuzz: .venv/.installed ## let every reader of files open damaged and random files (10 minutes): docs/security.md
	$(PY) -m tests.fuzz --minutes=$(FUZZ_MINUTES) $(if $(FUZZ_SEED),--seed=$(FUZZ_SEED))

cuda-check: .venv/.installed ## compile and link everything that has to do with CUDA (no GPU needed)
	@$(PY) $(PIP_INSTALL) --editable '.[cuda-build]'
	$(PY) -m tests.cuda_check

.venv-torch/.installed: tests/reference/requirements.txt
	@echo 'Installing PyTorch and the reference implementations into .venv-torch (once)'
	@$(PYTHON) -m venv .venv-torch
	@.venv-torch/bin/python $(PIP_INSTALL) --requirement $<
	@touch $@

reference-check: .venv/.installed .venv-torch/.installed ## compare the feature networks with PyTorch implementations
	.venv-torch/bin/python tests/reference/torch_outputs.py .reference
	$(PY) -m tests.reference.check .reference
	rm -rf .reference

BENCH_PAGES ?= ops data generator training launches augment startup metrics projector latents

bench: .venv/.installed ## measure the speed, page by page; see also `python -m bench --help`
	@for page in $(BENCH_PAGES); do echo; echo "== $$page"; $(PY) -m bench $$page --json .bench/$$page.json || exit 1; done

clean: ## remove the environments, the demo's results and caches; keep results/ and datasets/
	rm -rf .venv .venv-torch $(VERSIONS:%=.venv-%) .reference .bench $(DEMO_DIR) .pytest_cache .ruff_cache build dist \
	    *.egg-info custom_ops/native/_build
	find . -name __pycache__ -prune -exec rm -rf {} +
