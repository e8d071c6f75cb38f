// A norm with its weights: of hidden states here, of heads by attention, which calls the kernels
// itself to join them with rotary positions.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "arch/spec.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"
#include "model/weights.h"

namespace jang {

struct NormLayer {
  NormSpec spec;
  std::vector<float> weight, bias;  // bias: empty if there is none

  NormLayer(const NormSpec& norm_spec, WeightBinder& binder)
      : spec(norm_spec), weight(binder.norm(norm_spec)), bias(binder.norm_bias(norm_spec)) {}
  /// What is added to an RMS norm's weight.
  float offset() const noexcept { return spec.kind == NormKind::kRmsOnePlus ? 1.0f : 0.0f; }
  /// As kernels take it: null if there is none.
  const float* bias_data() const noexcept { return bias.empty() ? nullptr : bias.data(); }
  void forward(const kernels::KernelTable& kernels, ThreadPool& pool, const float* x,
               int64_t tokens, float* out) const;
  /// h += y, then out = the norm of h.
  void add_and_forward(const kernels::KernelTable& kernels, ThreadPool& pool, float* h,
                       const float* y, int64_t tokens, float* out) const;
};

/// nullopt where the family has no norm.
std::optional<NormLayer> make_norm(const std::optional<NormSpec>& spec, WeightBinder& binder);

}  // namespace jang
