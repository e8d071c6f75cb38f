#!/bin/bash
# Builds the libFuzzer targets and runs them and those in Python, each for SECONDS from its committed seeds:
# tools/fuzz.sh [SECONDS]. A finding is left in build/fuzz-findings/ and fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-15}
mkdir -p build/fuzz-findings build/fuzz-corpus
begin=$SECONDS

# The kernels that levels_fuzz compares are those of the release build.
{ cmake --preset release && cmake --build --preset release --parallel "$(nproc)" --target jang_kernels &&
  cmake --preset fuzz -DJANG_FUZZ_KERNELS="$PWD/build/release/kernels/libjang_kernels.a"
} >build/fuzz.log 2>&1 || { cat build/fuzz.log; exit 1; }
cmake --build --preset fuzz --parallel "$(nproc)" --target fuzzers
echo "==> built in $((SECONDS - begin)) s"

run() {  # run NAME COMMAND...: the command with libFuzzer's options and the seeds
  local name=$1 seeds=("build/fuzz-corpus/$1")
  shift
  echo "==> $name, ${seconds} s"
  mkdir -p "${seeds[0]}"
  [ ! -d "tests/fuzz/corpus/$name" ] || seeds+=("tests/fuzz/corpus/$name")
  "$@" -max_total_time="$seconds" -rss_limit_mb=2048 -print_final_stats=1 -print_funcs=0 -verbosity=0 \
    -artifact_prefix="build/fuzz-findings/$name-" "${seeds[@]}" 2>&1 |
    grep -vE '^(INFO|WARNING: Failed to find function|stat::new|stat::slowest|#|")|^$' || {
    echo "error: $name found something: see build/fuzz-findings"
    return 1
  }
}

processes=()
start() {  # as run, beside others, one a core; what it says appears when it ends
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  (
    code=0
    run "$@" >"build/fuzz-corpus/$1.log" || code=$?
    cat "build/fuzz-corpus/$1.log"
    exit $code
  ) &
  processes+=($!)
}

targets=(build/fuzz/tests/fuzz/*_fuzz)
[ -x "${targets[0]}" ] || { echo "error: no fuzz targets were built" >&2; exit 1; }
for target in "${targets[@]}"; do
  options=(-timeout=10)
  # Nothing of the kernels is instrumented, so that longer inputs never look better.
  [[ $target != */levels_fuzz ]] || options+=(-len_control=0 -max_len=512)
  start "$(basename "$target" _fuzz)" "$target" "${options[@]}"
done

if python -c 'import atheris' 2>/dev/null; then
  for target in tests/fuzz/python/*_fuzz.py; do
    start "$(basename "$target" _fuzz.py)" python "$target" -timeout=60 -len_control=0 -max_len=65536
  done
else
  echo "note: the targets of tests/fuzz/python are left out: there is no atheris for $(python --version) here (it has"
  echo "      wheels for CPython 3.11 to 3.13 on Linux, x86-64: PYTHON=python3.11 make fuzz)"
fi
found=0
for process in "${processes[@]}"; do wait "$process" || found=1; done
exit $found
