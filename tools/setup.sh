#!/bin/bash
# Makes sure that this machine has what a make target needs from the system: tools/setup.sh build test lint fuzz arm.
# Looks for the things themselves, not for packages. What is missing is installed through apt when root or passwordless
# sudo is at hand; otherwise the exact line to type is printed. Python packages are the Makefile's business.
set -euo pipefail

need() {  # need PACKAGE COMMAND...: the package is missing unless the command succeeds
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || packages+=("$package")
}

cxx() { echo "$1" | "${CXX:-c++}" "${@:2}" -x c++ - -o /dev/null; }
python_headers() {
  "$PYTHON" -c 'import os, sysconfig; assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))'
}
PYTHON=${PYTHON:-python3}

probe() {
  packages=()
  local purpose version fuzzer
  for purpose in "$@"; do
    case $purpose in
      build)
        need build-essential cxx 'int main() {}'
        need python3 "$PYTHON" -c 'import sys; assert sys.version_info >= (3, 10)'
        need python3-venv "$PYTHON" -c 'import venv, ensurepip'
        need python3-dev python_headers
        need zlib1g-dev cxx '#include <zlib.h>' -fsyntax-only
        ;;
      test) need googletest test -e /usr/src/googletest/CMakeLists.txt ;;
      lint)
        need clang command -v clang++
        need clang-format command -v clang-format
        need clang-tidy command -v clang-tidy
        ;;
      gates) need valgrind command -v valgrind ;;
      cache) need ccache command -v ccache ;;
      fuzz)
        need clang command -v clang++
        version=$(clang++ -dumpversion 2>/dev/null | cut -d. -f1) || version=14
        fuzzer='#include <cstddef>
                extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, size_t) { return 0; }'
        CXX=clang++ need "libclang-rt-${version:-14}-dev" cxx "$fuzzer" -fsanitize=fuzzer,address
        ;;
      arm)
        need g++-aarch64-linux-gnu command -v aarch64-linux-gnu-g++
        need qemu-user command -v qemu-aarch64
        ;;
      *)
        echo "setup.sh: unknown purpose '$purpose'" >&2
        exit 2
        ;;
    esac
  done
}

install_packages() {
  local line as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  line="${as_root[*]:+sudo }apt-get install ${packages[*]}"
  if ! command -v apt-get >/dev/null; then
    echo "error: missing on this machine (by their Debian names): ${packages[*]}" >&2
    exit 1
  fi
  if [ ${#as_root[@]} -gt 0 ] && ! sudo -n true 2>/dev/null; then
    printf 'error: missing on this machine: %s\nhint: type this, then the same command again:\n\n    %s\n\n' \
      "${packages[*]}" "$line" >&2
    exit 1
  fi
  echo "==> $line"
  export DEBIAN_FRONTEND=noninteractive
  # A list of some third party that cannot be read does not matter as long as the packages are found.
  "${as_root[@]}" apt-get update -qq || true
  "${as_root[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}"
}

for round in first second third; do
  probe "$@"
  [ ${#packages[@]} -gt 0 ] || exit 0
  if [ $round = third ]; then
    echo "error: still missing after apt-get: ${packages[*]}" >&2
    exit 1
  fi
  install_packages
done
