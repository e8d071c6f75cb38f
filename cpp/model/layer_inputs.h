// What each layer of a model sees of a token beside its hidden states (LayerInputsSpec): a row of a
// table that holds all layers, and a projection of the embedded token.
//
// Relies on the embedding for the hidden states; leaves what a layer does with its part to
// layers/layer_input.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arch/spec.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "model/linear.h"
#include "model/weights.h"

namespace jang {

class LayerInputs {
 public:
  /// `spec` outlives the object.
  LayerInputs(const LayerInputsSpec& spec, WeightBinder& binder);

  int64_t columns() const noexcept { return projection_.rows; }
  int64_t size() const noexcept { return spec_.size; }
  /// Of layers [first, first + count): `out` [tokens][count * size]. `embedded`: the scaled
  /// embedding of `tokens`, [tokens][hidden]. Tokens are rows of the table. False if an observer
  /// ended the pass.
  [[nodiscard]] bool run(ThreadPool& pool, LinearRunner& linear, std::span<const int32_t> tokens,
                         const float* embedded, int64_t first, int64_t count, float* out);

 private:
  void add_table(std::span<const int32_t> tokens, int64_t begin, int64_t end, int64_t first,
                 int64_t count, float* row, float* out) const;

  const LayerInputsSpec& spec_;
  LinearWeight table_, projection_;
  std::vector<float> norm_;
  AlignedBuffer<float> rows_;  // of the table, one for each worker
};

}  // namespace jang
