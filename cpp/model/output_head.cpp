#include "model/output_head.h"

#include "quant/active_kernels.h"

namespace jang {

OutputHead::OutputHead(const ModelSpec& spec, const LinearWeight& embedding, WeightBinder& binder)
    : norm{spec.final_norm, binder.norm(spec.final_norm)},
      weight(spec.head.tied ? embedding : binder.linear(spec.head.linear)),
      multiplier(spec.head.multiplier),
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
