// Matrices of heads, each multiplied with rows of its own: stored as they are used, or transposed.
//
// Stored as they are used they go through the linear runner, all heads in one region. Of a
// transposed one the rows are unpacked to floats, a head at a time, and summed with the rows of x
// as weights: no copy of the weights is kept, and in either precision activations stay floats.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/weights.h"

namespace jang {

class HeadMatrices {
 public:
  HeadMatrices() = default;
  /// Those of a stack, which a plain checkpoint may store transposed.
  HeadMatrices(const StackSpec& spec, WeightBinder& binder);
  /// `spec` gives the shapes; of a path-less one the inputs are not shown to observers. Transposed
  /// matrices are [in][out].
  HeadMatrices(StackSpec spec, std::vector<LinearWeight> matrices, bool transposed);

  /// `x`: [count][tokens][in]. Row t of head h comes to out + h * head_stride + t * stride. False
  /// if an observer ended the pass.
  bool run(LayerContext& context, const float* x, float* out, int64_t head_stride,
           int64_t stride) const;

 private:
  void run_transposed(LayerContext& context, const float* x, float* out, int64_t head_stride,
                      int64_t stride) const;

  StackSpec spec_;
  std::vector<LinearWeight> matrices_;
  bool transposed_ = false;
};

}  // namespace jang
