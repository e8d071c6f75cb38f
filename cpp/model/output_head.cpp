#include "model/output_head.h"

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
      multiplier(spec.head.multiplier * (spec.head.tied ? spec.head.tied_multiplier : 1.0f)),
      softcap(spec.head.softcap) {}

bool OutputHead::run(ThreadPool& pool, LinearRunner& linear, const float* h, int64_t tokens,
                     float* normed, float* logits) const {
  norm.forward(active_kernels(), pool, h, tokens, normed);
  const LinearJob job{&weight, logits, weight.rows};
  if (!linear.run({&job, 1}, normed, tokens)) return false;
  if (multiplier == 1.0f && softcap == 0.0f) return true;
  // Cut in whole vectors at places that do not depend on the thread count.
  const kernels::KernelTable& kernels = active_kernels();
  pool.split(tokens * weight.rows, 1024, [&](int64_t begin, int64_t end, int /*worker*/) {
    if (multiplier != 1.0f) kernels.scale(logits + begin, multiplier, end - begin);
    if (softcap > 0.0f) kernels.soft_cap(logits + begin, softcap, end - begin);
  });
  return true;
}

}  // namespace jang
