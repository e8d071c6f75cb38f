#!/bin/bash
# The C++ tests under AddressSanitizer with UndefinedBehaviorSanitizer, then those of the one folder that starts threads
# under ThreadSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=$(nproc)

for preset in asan-ubsan tsan; do
  echo "==> $preset"
  cmake --preset "$preset" >build/"$preset".log 2>&1 || { cat build/"$preset".log; exit 1; }
  folders=(base io quant arch plan model eval calibrate convert kernels)
  [ "$preset" = asan-ubsan ] || folders=(base)
  cmake --build --preset "$preset" --parallel "$jobs" --target "${folders[@]/%/_tests}"
  # ThreadSanitizer of older compilers cannot map its shadow under strong address randomization.
  runner=()
  if [ "$preset" = tsan ] && setarch -R true 2>/dev/null; then runner=(setarch -R); fi
  # Large sizes, sweeps of shapes, widths chosen for all matrices of a model, and conversions stopped at every place or cut in
  # every way take minutes here, and no path that small ones, a few matrices, damaged states and one cut do not take.
  skipped='*RealSizes*:*NeverOverTheTarget*:*WhereverItStops*:*WithoutCalibrationTheNext*:*AStopBehind*:*AnyCutGives*'
  skipped+=':*EveryMatrixHasItsCandidates*:*GptqToASize*:*ASizeFitsAndKeepsThem*'
  GTEST_FILTER="-$skipped" UBSAN_OPTIONS=print_stacktrace=1 "${runner[@]}" ctest --preset "$preset" --parallel "$jobs" \
    --no-tests=error -R "^($(IFS="|"; echo "${folders[*]}"))[.]"
done
