# One door for everything: `make demo`, `make test`, `make check`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A machine without an NVIDIA GPU takes the constraints for CPU builds.
CONSTRAINTS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo "-c constraints-cpu.txt")

.PHONY: install demo test check lint types browser chaos faults identity cluster check-kuberay check-docker fullsize goldens gpu clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[dev]'
	touch $@

demo: install
	$(BIN)/evalsuite run --model pixnerd-digits

# Three processes on two cores, because what needs Ray mostly waits; the long groups begin first (tests/conftest.py).
test: install
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup --no-loadscope-reorder

check: lint types test

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

browser: install
	$(BIN)/python -m pytest -q -m browser tests/browser

# More than a hundred faults in real runs, about 40 minutes on two idle cores; CHAOS="--help" says more.
chaos: install
	PYTHONPATH=.:tests $(BIN)/python tests/chaos/campaign.py $(CHAOS)

# Faults that the test command leaves to others of their kind, once each: some minutes on two idle cores.
faults: install
	$(BIN)/python -m pytest -q -m slow tests/chaos tests/runtime tests/cli tests/sweep tests/t2i

identity: install
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/runtime/test_identity.py

# A lost head, several nodes in network namespaces, Slurm's scripts with a stand-in for srun: some minutes, as root.
cluster: install
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/cluster

# CRD is ray.io_rayjobs.yaml of a KubeRay release.
check-kuberay: install
	$(BIN)/python cluster/check_kuberay.py $(CRD)

check-docker: install
	$(BIN)/hadolint cluster/Dockerfile

# More than an hour on two cores; 12 GB of memory and 6 GB of disk.
fullsize: install
	$(BIN)/python -m pytest -q -rP --durations=0 -o faulthandler_timeout=7200 -m slow tests/fullsize

# Every golden, the evaluator's full-width network too, by torch and by TensorFlow: some minutes.
goldens: install
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/golden tests/features/test_tensorflow_parity.py

# On a machine with a GPU.
gpu: install
	$(BIN)/python -m pytest -q -m gpu tests

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache dist
