// y = x W^T + b for several matrices that share one input, their rows split over the pool in one
// region.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "model/weights.h"

namespace jang {

struct LinearJob {
  const LinearWeight* weight = nullptr;
  float* out = nullptr;  // [tokens][stride]
  int64_t stride = 0;
};

class LinearRunner {
 public:
  explicit LinearRunner(ThreadPool& pool);

  /// `x`: [tokens][columns] contiguous, the columns of every job's weight. A row of the result
  /// depends only on its own weights and x: not on the split, nor on the number of threads.
  void run(std::span<const LinearJob> jobs, const float* x, int64_t tokens);

 private:
  ThreadPool& pool_;
  const kernels::KernelTable& kernels_;
};

}  // namespace jang
