#!/bin/bash
# Everything that is checked without running the program. All checks run; the exit code says whether all passed.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=()

check() {
  local name=$1
  shift
  echo "==> $name"
  "$@" || failed+=("$name")
}

format() {
  git ls-files -co --exclude-standard -- '*.cpp' '*.h' '*.inl' | xargs clang-format --dry-run -Werror
}
symbols() {
  cmake --preset release >build/release.log 2>&1 || { cat build/release.log; return 1; }
  cmake --build --preset release --parallel "$(nproc)" --target jang_kernels
  python tools/check_symbols.py build/release && python tools/check_instructions.py build/release
}

mkdir -p build
check "ruff" ruff check .
check "ruff format" ruff format --check .
check "mypy" mypy
check "layers" python tools/check_layers.py
check "stubs" python tools/make_stubs.py
check "clang-format" format
check "symbols and instructions of ISA objects" symbols

if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[*]}"
  exit 1
fi
