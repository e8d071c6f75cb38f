# Thin names over the real commands, set-up included: each target works as the first command on a fresh clone.
#
#   make demo      convert the bundled model, check it, let it talk          make lint      style, types, layers, stubs
#   make test      C++ and Python tests, once per kernel level of this CPU   make parity    remake the reference logits
#   make sanitize  C++ tests under ASan, UBSan, TSan                         make bench     speed, and that of llama.cpp
#   make fuzz      libFuzzer, SECONDS=15 a target                            make arm       C++ tests under qemu-aarch64
#   make stubs     regenerate python/jang_tools/_core.pyi                    make packages  build and try sdist and wheel
#   make tidy      clang-tidy, slow                                          make gates     instructions that kernels take
#   make families  measure every family, for docs/families.md                make kills     kill conversions, KILLS=200
#   make damage    damaged directories, ROUNDS=1000                          make parity-full  random models, SEEDS=8 a family
#   make clean     remove what these made
#
# PYTHON=python3.12 chooses the interpreter; VENV=DIR another place for the environment.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
SECONDS ?= 15
SEEDS ?= 8
FIRST ?= 0
KILLS ?= 200
ROUNDS ?= 1000
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export PYTHON

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check
# As an activated environment: CMake and Ninja come from it, and CMake looks for headers in it.
in_venv := VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(abspath $(bin)):$$PATH"

sources := $(shell find cmake cpp kernels python/jang_tools -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.inl' \
  -o -name '*.cmake' -o -name CMakeLists.txt -o -name '*.py' -o -name '*.pyi' -o -name py.typed \)) \
  CMakeLists.txt README.md LICENSE NOTICE

.PHONY: help demo test lint tidy parity parity-full families gates bench packages sanitize fuzz kills damage arm stubs clean setup
help:
	@sed -n '3,14s/^# \{0,1\}//p' Makefile

# --- Environments: a stamp a step, so that the second run starts at once -------------------------------------------

$(VENV)/.created:
	@tools/setup.sh build
	@echo "==> Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(pip) install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.build: pyproject.toml | $(VENV)/.created
	@tools/setup.sh build
	@echo "==> build tools"
	@$(pip) install --group build
	@touch $@

$(VENV)/.package: pyproject.toml $(sources) | $(VENV)/.build
	@echo "==> jang-tools itself: compiling the core takes a minute or two the first time"
	@$(in_venv) CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(pip) install --no-build-isolation --verbose . 2>&1 \
	  | tools/build_progress.sh
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.created
	@echo "==> test tools"
	@$(pip) install --group test
	@touch $@

$(VENV)/.lint: pyproject.toml | $(VENV)/.created
	@echo "==> lint tools"
	@$(pip) install --group lint
	@touch $@

$(VENV)/.fuzz: pyproject.toml | $(VENV)/.created
	@echo "==> fuzzing tools"
	@$(pip) install --group fuzz
	@touch $@

# torch stays out of the environment of the tests: the package must not need it.
.venv-parity/.ready: pyproject.toml
	@tools/setup.sh build
	@echo "==> reference environment in .venv-parity (torch, transformers)"
	@$(PYTHON) -m venv .venv-parity
	@.venv-parity/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@.venv-parity/bin/python -m pip --disable-pip-version-check install --group parity
	@touch $@

.venv-peers/.ready: pyproject.toml bench/peers/setup.sh
	@tools/setup.sh build
	@echo "==> peers in .venv-peers: llama.cpp from source, some minutes the first time"
	@CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) bench/peers/setup.sh .venv-peers

setup: $(VENV)/.package $(VENV)/.test $(VENV)/.lint

# --- Targets --------------------------------------------------------------------------------------------------------

demo: $(VENV)/.package
	@$(in_venv) examples/demo.sh

test: $(VENV)/.package $(VENV)/.test
	@tools/setup.sh build test
	@$(in_venv) python tools/run_tests.py

lint: $(VENV)/.package $(VENV)/.lint
	@tools/setup.sh build lint
	@$(in_venv) tools/lint.sh

tidy: $(VENV)/.build
	@tools/setup.sh build test lint
	@$(in_venv) cmake --preset tidy
	@$(in_venv) cmake --build --preset tidy --parallel $(JOBS)

stubs: $(VENV)/.package $(VENV)/.lint
	@$(in_venv) python tools/make_stubs.py --write

parity: .venv-parity/.ready
	@.venv-parity/bin/python tests/python/parity/make_logits.py --check

# Ten minutes. FIRST=N begins with another seed.
parity-full: .venv-parity/.ready $(VENV)/.package $(VENV)/.test
	@rm -rf build/random-models
	@.venv-parity/bin/python tests/python/parity/random_models.py build/random-models --seeds $(SEEDS) --first $(FIRST)
	@$(in_venv) python tests/python/parity/compare_models.py build/random-models

# Half an hour, on an idle machine: docs/families.md.
families: $(VENV)/.package $(VENV)/.test
	@$(in_venv) python tests/python/parity/family_table.py

gates: $(VENV)/.build
	@tools/setup.sh build test gates
	@$(in_venv) cmake --preset release
	@$(in_venv) cmake --build --preset release --parallel $(JOBS) --target kernel_counts
	@$(in_venv) python tools/instruction_gate.py build/release

# An idle machine, and twenty minutes; BENCH=--quick tries all of it on a tiny model.
bench: $(VENV)/.package .venv-peers/.ready
	@$(in_venv) python bench/python/tables.py $(BENCH)

packages: $(VENV)/.package
	@$(in_venv) tools/check_packages.sh

sanitize: $(VENV)/.build
	@tools/setup.sh build test
	@$(in_venv) tools/sanitize.sh

fuzz: $(VENV)/.package $(VENV)/.fuzz
	@tools/setup.sh build fuzz
	@$(in_venv) tools/fuzz.sh $(SECONDS)

kills: $(VENV)/.package
	@$(in_venv) python tools/random_kills.py --kills $(KILLS)

damage: $(VENV)/.package
	@$(in_venv) python tools/random_damage.py --rounds $(ROUNDS)

# What an architecture can change; planning and conversions are portable code over it. Emulation takes 30 to 50 times as
# long, so that large sizes stay out, and calibrations that run a model many times; and what the emulator's own mappings
# change: its addresses are shifted against the system's, whose page tables decide what a fault brings along.
ARM_FOLDERS = kernels base io quant arch model eval calibrate
NOT_UNDER_EMULATION = *RealSizes* Layers/Oracle*Medium* Layers/Oracle*Strong* Layers/Oracle*Mild3 \
	MeasureLossesTest.EveryMatrix* HostileStatistics.* LockStepTest.PiecesThreads* Gptq.EveryFormat* SearchSnr.* \
	MappedFileTest.NothingStays*
empty :=
space := $(empty) $(empty)

arm: $(VENV)/.build
	@tools/setup.sh build test arm
	@tools/arm_zlib.sh
	@$(in_venv) cmake --preset arm
	@$(in_venv) cmake --build --preset arm --parallel $(JOBS) --target $(ARM_FOLDERS:%=%_tests)
	@$(in_venv) GTEST_FILTER='-$(subst $(space),:,$(NOT_UNDER_EMULATION))' ctest --preset arm --parallel $(JOBS) \
	  --no-tests=error -R '^($(subst $(space),|,$(ARM_FOLDERS)))[.]'
	@$(in_venv) python tools/check_symbols.py build/arm --nm aarch64-linux-gnu-nm

clean:
	rm -rf build dist $(VENV) .venv-parity .venv-peers
