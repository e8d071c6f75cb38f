#include "model/output_head.h"

#include <cmath>

#include "quant/active_kernels.h"

namespace jang {
namespace {

/// A tied head is the embedding's matrix with a bias of its own, if it has one.
LinearWeight bind_head(const HeadSpec& spec, const LinearWeight& embedding, WeightBinder& binder) {
  if (!spec.tied) return binder.linear(spec.linear);
  LinearWeight weight = embedding;
  weight.bias = binder.bias(spec.linear);
  return weight;
}

}  // namespace

OutputHead::OutputHead(const ModelSpec& spec, const LinearWeight& embedding, WeightBinder& binder)
    : norm(spec.final_norm, binder),
      weight(bind_head(spec.head, embedding, binder)),
      multiplier(spec.head.multiplier),
      softcap(spec.head.softcap) {}

bool OutputHead::run(ThreadPool& pool, LinearRunner& linear, const float* h, int64_t tokens,
                     float* normed, float* logits) const {
  norm.forward(active_kernels(), pool, h, tokens, normed);
  const LinearJob job{&weight, logits, weight.rows};
  if (!linear.run({&job, 1}, normed, tokens)) return false;
  const int64_t n = tokens * weight.rows;
  if (multiplier != 1.0f) {
    for (int64_t i = 0; i < n; ++i) logits[i] *= multiplier;
  }
  if (softcap > 0.0f) {
    for (int64_t i = 0; i < n; ++i) logits[i] = softcap * std::tanh(logits[i] / softcap);
  }
  return true;
}

}  // namespace jang
