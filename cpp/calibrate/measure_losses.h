// What a width costs each matrix of a model, measured on calibration tokens: the way for allocation
// to know more than its prior.
//
// The error of a candidate is that of the solver itself on a sample of the matrix's rows, against
// the second moments of the inputs in full precision. What an error costs is probed: a group of
// matrices of one layer is quantized, the rest of the model stays as it is, and the divergence of
// the predicted distributions is divided by the errors of the group.
//
// Relies on a source directory that the runtime can run; leaves the choice of widths to the plan.
// Memory: as solve_model.h, and the hidden states of the probes' tokens twice.
#pragma once

#include <cstdint>
#include <functional>

#include "arch/directory.h"
#include "base/thread_pool.h"
#include "calibrate/solve_model.h"
#include "plan/lattices.h"
#include "plan/losses.h"
#include "plan/plan.h"

namespace jang {

struct MeasureOptions {
  SolveOptions solver;
  std::optional<int> group_size;  // of the candidates, as PlanOptions::group_size
  int probe_bits = 4;             // width of a group while it is probed
  /// Those of the source. What a lattice holds has no error to divide by, so that such tensors are
  /// probed a rung below.
  Lattices lattices;
  int64_t probe_sequences = 0;  // of the calibration's, evenly spread; 0: as many as cost about
                                // what the calibration itself does
  uint64_t sample_rows = 512;   // of a matrix, evenly spread
  uint64_t memory_budget = uint64_t{4} << 30;
  std::filesystem::path scratch_directory;
};

struct MeasureHooks {
  /// As SolveModelHooks::read.
  std::function<SourcePanel(uint32_t planned)> read;
  /// Called when a tensor has been measured, once for each that has a format.
  std::function<void(uint32_t planned)> done;
  /// Called several times a second; may throw to stop.
  std::function<void()> poll;
};

/// Memory of the probes' hidden states and predictions.
ByteCount probe_bytes(const ModelSpec& spec, int64_t sequences, int64_t tokens);

/// Losses of all tensors that have a format in `plan`; their widths there do not matter. Errors as
/// solve_model.
MeasuredLosses measure_losses(const ModelDirectory& source, const Plan& plan,
                              const CalibrationTokens& tokens, const MeasureOptions& options,
                              const MeasureHooks& hooks, ThreadPool& pool);

}  // namespace jang
