#!/bin/bash
# Builds the libFuzzer targets and runs each for SECONDS from its committed seeds: tools/fuzz.sh [SECONDS].
# A finding is left in build/fuzz-findings/ and fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-15}
mkdir -p build/fuzz-findings build/fuzz-corpus

cmake --preset fuzz >build/fuzz.log 2>&1 || { cat build/fuzz.log; exit 1; }
cmake --build --preset fuzz --parallel "$(nproc)" --target fuzzers

targets=(build/fuzz/tests/fuzz/*_fuzz)
[ -x "${targets[0]}" ] || { echo "error: no fuzz targets were built" >&2; exit 1; }
for target in "${targets[@]}"; do
  name=$(basename "$target" _fuzz)
  echo "==> $name, ${seconds} s"
  mkdir -p "build/fuzz-corpus/$name"
  seeds=("build/fuzz-corpus/$name")
  [ ! -d "tests/fuzz/corpus/$name" ] || seeds+=("tests/fuzz/corpus/$name")
  "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="build/fuzz-findings/$name-" "${seeds[@]}" 2>&1 | grep -vE '^(INFO|stat::new|stat::slowest)' || {
    echo "error: $name found something: see build/fuzz-findings" >&2
    exit 1
  }
done
