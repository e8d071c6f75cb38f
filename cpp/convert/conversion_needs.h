// What a conversion will take in memory and on the disk beside its output, known from its plan.
//
// An upper bound of the anonymous memory, close enough to plan a machine by: pages of the mapped
// source are the system's to take back. Each share is counted where it is allocated
// (calibrate/calibration_needs.h, panel_writer.h); leaves limits to the caller.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "calibrate/calibration_needs.h"
#include "plan/plan.h"

namespace jang {

struct ConversionNeeds {
  int threads = 0;                  // that this holds for
  std::vector<MemoryShare> memory;  // at the moment when it is most, the largest share first
  ByteCount scratch;                // files that calibration writes and removes

  ByteCount memory_bytes() const noexcept;
};

struct NeedsOptions {
  std::optional<CalibrationShape> calibration;  // method gptq
  bool casts = false;                           // PlanOptions::dtype is given
  uint64_t statistics_bytes = 0;                // of mean squares, as they are given
  int threads = 0;                              // 0: default_thread_count()
};

/// `plan`: one for the weights in `source`, which is opened for calibration only. Errors as
/// opening.
ConversionNeeds conversion_needs(const std::filesystem::path& source, const Plan& plan,
                                 const NeedsOptions& options);

}  // namespace jang
