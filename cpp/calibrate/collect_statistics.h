// Runs the full-precision model over calibration tokens once and writes what the inputs of all its
// linear layers sum up to (statistics_file.h), layer by layer as they are met.
//
// Relies on a source directory that the runtime can run; leaves hashes and texts to its user.
// Memory: the hidden states or a scratch file, one branch, the sums of its inputs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "arch/directory.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "calibrate/calibration_tokens.h"
#include "calibrate/statistics_file.h"

namespace jang {

struct CollectOptions {
  bool hessians = false;                       // also H, of all linear layers but routed experts
  uint64_t memory_budget = uint64_t{4} << 30;  // of the hidden states
};

/// Writes `output`, which must not exist; a scratch file for hidden states lies beside it while
/// that lasts. `origin` says what is read; its sequences and tokens are filled in. Progress counts
/// sequences through branches. Throws kUnsupportedModel for families that cannot be run, kArgument
/// for tokens that do not fit the model.
void collect_statistics(const ModelDirectory& source, const CalibrationTokens& tokens,
                        StatisticsOrigin origin, const std::filesystem::path& output,
                        const CollectOptions& options, ThreadPool& pool,
                        const JobCallbacks& callbacks);

}  // namespace jang
