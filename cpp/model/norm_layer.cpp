#include "model/norm_layer.h"

namespace jang {

std::optional<NormLayer> make_norm(const std::optional<NormSpec>& spec, WeightBinder& binder) {
  if (!spec) return std::nullopt;
  return NormLayer(*spec, binder);
}

void NormLayer::forward(const kernels::KernelTable& kernels, ThreadPool& pool, const float* x,
                        int64_t tokens, float* out) const {
  const int64_t n = spec.size;
  pool.split(tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    if (spec.kind == NormKind::kLayer) {
      kernels.layer_norm(x + begin * n, weight.data(), bias_data(), spec.eps, end - begin, n,
                         out + begin * n);
      return;
    }
    kernels.rms_norm(x + begin * n, n, weight.data(), offset(), spec.eps, end - begin, n,
                     out + begin * n, n);
  });
}

void NormLayer::add_and_forward(const kernels::KernelTable& kernels, ThreadPool& pool, float* h,
                                const float* y, int64_t tokens, float* out) const {
  const int64_t n = spec.size;
  pool.split(tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    if (spec.kind == NormKind::kLayer) {
      // A token at a time, so that its sums are still in the first cache for the norm.
      for (int64_t t = begin; t < end; ++t) {
        kernels.add(h + t * n, y + t * n, n);
        kernels.layer_norm(h + t * n, weight.data(), bias_data(), spec.eps, 1, n, out + t * n);
      }
      return;
    }
    kernels.add_rms_norm(h + begin * n, y + begin * n, weight.data(), offset(), spec.eps,
                         end - begin, n, out + begin * n);
  });
}

}  // namespace jang
