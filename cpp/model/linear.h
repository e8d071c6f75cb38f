// y = x W^T + b for several matrices that share one input, their rows split over the pool in one
// region.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "model/activations.h"
#include "model/weights.h"

namespace jang {

/// What quantized weights are multiplied with.
enum class Precision : uint8_t {
  kFast,   // activations rounded to int8 per group, integer dot products
  kExact,  // activations in f32
};

struct LinearJob {
  const LinearWeight* weight = nullptr;
  float* out = nullptr;  // [tokens][stride]
  int64_t stride = 0;
};

class LinearRunner {
 public:
  LinearRunner(ThreadPool& pool, Precision precision);

  Precision precision() const noexcept { return precision_; }

  /// `x`: [tokens][columns] contiguous, the columns of every job's weight. A row of the result
  /// depends only on its own weights and x: not on the split, nor on the number of threads. In
  /// exact precision not on the other tokens either; in fast one only through their number.
  void run(std::span<const LinearJob> jobs, const float* x, int64_t tokens);

 private:
  void multiply(const LinearJob& job, const float* x, int64_t tokens, int64_t row_begin,
                int64_t row_end) const;

  ThreadPool& pool_;
  const kernels::KernelTable& kernels_;
  const Precision precision_;
  RoundedActivations rounded_;
};

}  // namespace jang
