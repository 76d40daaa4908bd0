# Each target does everything on a machine that has only python3 (3.11 or newer) and make.
# VENV, PYTHON and CONSTRAINTS may be set on the command line.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
RUN = $(VENV)/bin/python
CONSTRAINTS ?= constraints.txt
comma := ,
NEWEST = $(shell for p in python3.13 python3.12 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$p && break; done)

.PHONY: install quickstart test test-fast nightly test-latest aot aot-gpu gpu gpu-session gpu-wheels growth lint types figures clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; none was found on the PATH."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

quickstart: install  ## Train a first model, draw samples beside the true renders, print the attribute accuracy.
	$(RUN) train.py quickstart

test: install  ## The whole suite, warnings as errors; two files at a time, in the order of `tests/conftest.py`.
	$(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-fast: install  ## Without the tests that take more than about ten seconds.
	$(RUN) -m pytest -q -m "not slow and not nightly"

nightly: install  ## The wide variants of claims that the suite checks once: more processes, sizes, kills, nonsense.
	$(RUN) -m pytest -q -n 2 --dist loadfile -m nightly
	UNIFIED_JAX_FUZZ=3 $(RUN) -m pytest -q -n 2 --dist loadfile tests/fuzz tests/faults/test_checkpoints.py

test-latest:  ## The suite on the newest jax, where a Python 3.12 or later is found.
	@if [ -z "$(NEWEST)" ]; then echo "not verified: no Python 3.12 or later was found"; else \
	  $(NEWEST) -m venv .venv-latest && .venv-latest/bin/python -m pip install --quiet --upgrade pip && \
	  .venv-latest/bin/python -m pip install --quiet --upgrade --editable ".[dev]" && \
	  .venv-latest/bin/python -c "import jax; print('jax', jax.__version__)" && \
	  .venv-latest/bin/python -m pytest -q; fi

SESSION ?= $(if $(wildcard $(RUN)),$(RUN),python3)

AOT = JAX_PLATFORMS=cpu $(1)/bin/python -m pytest -q -n 2 --maxschedchunk 1 $(if $(ONLY),-m "$(ONLY)")
SITE = -c "import sysconfig; print(sysconfig.get_path('purelib'))"

aot: $(VENV)/.installed  ## Our kernels through the real TPU compilers, and plans for TPU pods; libtpu lies beside the environment.
	$(RUN) -m venv .venv-aot
	$(RUN) $(SITE) > "$$(.venv-aot/bin/python $(SITE))/installed.pth"
	.venv-aot/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) "jax[tpu]"
	$(call AOT,.venv-aot) tests/aot/test_tpu.py tests/planning/test_plan.py::test_a_pod_that_is_not_there

aot-gpu:  ## The same through the real Hopper compilers, and the simulator of a GPU; needs Python 3.12, no GPU.
	@if [ -z "$(NEWEST)" ]; then echo "not verified: no Python 3.12 or later was found"; else \
	  $(NEWEST) -m venv .venv-aot-gpu && \
	  .venv-aot-gpu/bin/python -m pip install --quiet --upgrade pip && \
	  .venv-aot-gpu/bin/python -m pip install --quiet "jax[cuda13]>=0.11$(comma)<0.12" --editable ".[dev]" && \
	  $(call AOT,.venv-aot-gpu) tests/aot/test_gpu.py tests/kernels/test_hopper.py; fi

gpu:  ## On a machine with a Hopper GPU: what our kernels, train step and samples compute there; Python 3.12.
	@if [ -z "$(NEWEST)" ]; then echo "not verified: no Python 3.12 or later was found"; else \
	  $(NEWEST) -m venv .venv-gpu && .venv-gpu/bin/python -m pip install --quiet --upgrade pip && \
	  .venv-gpu/bin/python -m pip install --quiet "jax[cuda13]>=0.11$(comma)<0.12" --editable ".[dev]" && \
	  TEST_PLATFORMS=cuda,cpu XLA_FLAGS=--xla_gpu_enable_triton_gemm=false XLA_PYTHON_CLIENT_PREALLOCATE=false .venv-gpu/bin/python -m pytest -q tests/gpu; fi

gpu-session:  ## On a borrowed Hopper GPU, within nine minutes, with the jax, flax, optax and torch that it has; tiny sizes elsewhere.
	$(SESSION) benchmarks/gpu_session.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(OUT),--out $(OUT)) $(if $(LONGEST),--longest $(LONGEST)) $(if $(TINY),--tiny)

growth: install  ## How cost grows with tokens, width, batch, modalities, steps, length and records: slopes and a plot.
	$(RUN) benchmarks/growth.py

gpu-wheels: install  ## What such a machine lacks, as pure-Python wheels in build/wheels: carry the folder along.
	$(RUN) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest build/wheels \
	  jaxtyping wadler-lindig beartype pytest pluggy iniconfig packaging pygments

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: install
	$(RUN) -m pyright --pythonpath $(RUN)

figures: install  ## Writes docs/figures/ and docs/measurements.json from finished runs.
	$(RUN) benchmarks/figures.py

clean:
	rm -rf $(VENV) .venv-latest .venv-aot .venv-aot-gpu .pytest_cache .ruff_cache

.PHONY: docs notebooks clean-docs
DOCS = .venv-docs

$(DOCS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[docs]"
	touch $@

docs: $(DOCS)/.installed  ## The site in build/site, without network once its environment stands; a broken link is an error.
	$(DOCS)/bin/python -m mkdocs build --strict --quiet

notebooks: $(DOCS)/.installed  ## Executes docs/notebooks in place, in about three minutes on two cores.
	JAX_PLATFORMS=cpu $(DOCS)/bin/python -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False docs/notebooks/*.ipynb

clean: clean-docs
clean-docs:
	rm -rf $(DOCS) build/site
