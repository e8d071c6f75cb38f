// Measured losses for the allocation of widths: a sample of each matrix's rows is quantized in
// every format that it may get, and the error is weighted as its inputs are.
#pragma once

#include <optional>

#include "arch/inventory.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "calibrate/column_weights.h"
#include "io/checkpoint.h"
#include "plan/losses.h"

namespace jang {

struct LossOptions {
  std::optional<int> group_size;  // as PlanOptions: only this one
  std::optional<DType> dtype;     // of scales and biases; else the tensor's own
};

/// For each matrix that allocation may give a width, by `mse` with its weights:
///
///   e(c) = sum w_k (w_hat - w)^2 / sum w_k w^2     over 256 rows, of stacks up to 1,024
///
/// rows spread evenly over the matrix or stack. `sensitivity` stays open: e is relative, as the
/// prior expects. Same values whatever the number of threads. Progress counts source bytes of the
/// samples. Throws Error{kNonFinite | kRange} naming file and tensor.
MeasuredLosses candidate_losses(const Checkpoint& checkpoint, const Inventory& inventory,
                                const ColumnWeights& weights, const LossOptions& options,
                                ThreadPool& pool, const JobCallbacks& callbacks);

}  // namespace jang
