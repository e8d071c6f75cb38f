// What calibration will take in memory and in scratch files, known from the plan before it begins.
//
// Relies on each class that holds much for its own share (their bytes() and needs()); leaves it to
// the caller what else the process holds. Pages of the mapped source are not counted: the system
// takes them back when it wants.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arch/spec.h"
#include "base/byte_count.h"
#include "plan/plan.h"

namespace jang {

/// A share of the memory at the moment when it is most.
struct MemoryShare {
  std::string what;
  ByteCount bytes;
};

struct CalibrationNeeds {
  std::vector<MemoryShare> memory;  // held at the same time
  ByteCount scratch;                // files without a name
};

struct CalibrationShape {
  int64_t sequences = 0, tokens = 0;
  bool two_streams = true;
  uint64_t memory_budget = uint64_t{4} << 30;  // as SolveModelOptions and MeasureOptions
};

/// Of solve_model with a plan of `spec`'s directory. `casts`: weights are cast before they are
/// quantized.
CalibrationNeeds solve_needs(const ModelSpec& spec, const Plan& plan, const CalibrationShape& shape,
                             bool casts, int threads);
/// Of measure_losses before it.
CalibrationNeeds measure_needs(const ModelSpec& spec, const Plan& plan,
                               const CalibrationShape& shape, bool casts, int threads);

}  // namespace jang
