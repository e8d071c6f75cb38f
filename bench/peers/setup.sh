#!/bin/bash
# Makes the environment of the peers, .venv-peers: llama.cpp through its registry package, compiled from source for this
# CPU, and the gguf package. `make bench` runs it; CMAKE_BUILD_PARALLEL_LEVEL sets the number of compilers.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=${1:-.venv-peers}

"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
# GGML_NATIVE: every instruction set of this machine. Its repacked layouts (GGML_CPU_REPACK) are on by default.
CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" \
  "$venv/bin/python" -m pip --disable-pip-version-check install --no-binary llama-cpp-python --group peers
"$venv/bin/python" bench/peers/llama_cpp_worker.py --about
touch "$venv/.ready"
