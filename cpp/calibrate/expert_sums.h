// Sums of squares of what routed experts are fed, expert by expert: gate and up see the rows of the
// tokens that chose them, down what these two made of them.
//
// A token's weight is its squared gate value, by which an expert's error reaches the layer's
// output, times the cap of moments.h; position 0 is left out.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/spec.h"
#include "base/thread_pool.h"
#include "calibrate/statistics_file.h"
#include "model/layer_context.h"

namespace jang {

class ExpertSums {
 public:
  explicit ExpertSums(const MoeSpec& spec);

  /// One sequence. `x`: [tokens][hidden], the input of router and experts; `work`: what the layer
  /// left behind after it.
  void add(const float* x, const Workspace& work, int64_t tokens, ThreadPool& pool);

  const LinearSums& input() const noexcept { return input_; }  // of gate and up, [experts][hidden]
  const LinearSums& inner() const noexcept { return inner_; }  // of down, [experts][width]

 private:
  const int64_t experts_, top_k_, hidden_, width_;
  LinearSums input_, inner_;
};

}  // namespace jang
