#include "model/branch.h"

#include <utility>

namespace jang {
namespace {

float norm_offset(const NormSpec& spec) { return spec.kind == NormKind::kRmsOnePlus ? 1.0f : 0.0f; }

std::optional<NormLayer> make_norm(const std::optional<NormSpec>& spec, WeightBinder& binder) {
  if (!spec) return std::nullopt;
  return NormLayer(*spec, binder);
}

}  // namespace

void NormLayer::forward(const kernels::KernelTable& kernels, ThreadPool& pool, const float* x,
                        int64_t tokens, float* out) const {
  const int64_t n = spec.size;
  pool.split(tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    if (spec.kind == NormKind::kLayer) {
      kernels.layer_norm(x + begin * n, weight.data(), bias.empty() ? nullptr : bias.data(),
                         spec.eps, end - begin, n, out + begin * n);
      return;
    }
    kernels.rms_norm(x + begin * n, n, weight.data(), norm_offset(spec), spec.eps, end - begin, n,
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
        kernels.layer_norm(h + t * n, weight.data(), bias.empty() ? nullptr : bias.data(), spec.eps,
                           1, n, out + t * n);
      }
      return;
    }
    kernels.add_rms_norm(h + begin * n, y + begin * n, weight.data(), norm_offset(spec), spec.eps,
                         end - begin, n, out + begin * n);
  });
}

const float* Branch::enter(const LayerContext& context, const float* h, float* normed) const {
  if (!pre_norm) return h;
  pre_norm->forward(context.kernels, context.pool, h, context.tokens, normed);
  return normed;
}

bool Branch::run(LayerContext& context, const float* input, float* out) const {
  context.layer = layer;
  return std::visit([&](const auto& b) { return b.forward(context, input, out); }, body);
}

const float* Branch::leave(const LayerContext& context, const Branch* next, float* out, float* h,
                           float* normed) const {
  const kernels::KernelTable& kernels = context.kernels;
  if (post_norm) post_norm->forward(kernels, context.pool, out, context.tokens, out);
  const bool add_here = next == nullptr || !next->pre_norm;
  if (add_here || residual != 1.0f) {
    context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      const int64_t first = begin * context.hidden;
      const int64_t n = (end - begin) * context.hidden;
      if (residual != 1.0f) kernels.scale(out + first, residual, n);
      if (add_here) kernels.add(h + first, out + first, n);
    });
  }
  if (add_here) return h;
  next->pre_norm->add_and_forward(kernels, context.pool, h, out, context.tokens, normed);
  return normed;
}

std::size_t branch_count(const LayerSpec& spec) noexcept {
  return spec.feed_forward && !spec.parallel ? 2 : 1;
}

void append_branches(const LayerSpec& spec, int64_t layer, WeightBinder& binder,
                     std::vector<Branch>& out) {
  if (spec.parallel) {
    out.push_back({make_norm(spec.pre_norm, binder), make_norm(spec.post_norm, binder),
                   ParallelLayer(spec, binder), spec.residual, layer});
    return;
  }
  auto mixer_pre = make_norm(spec.pre_norm, binder), mixer_post = make_norm(spec.post_norm, binder);
  if (const auto* delta = std::get_if<DeltaNetSpec>(&spec.mixer)) {
    out.push_back({std::move(mixer_pre), std::move(mixer_post), DeltaNetLayer(*delta, binder),
                   spec.residual, layer});
  } else {
    out.push_back({std::move(mixer_pre), std::move(mixer_post),
                   AttentionLayer(std::get<AttentionSpec>(spec.mixer), binder), spec.residual,
                   layer});
  }
  if (!spec.feed_forward) return;
  auto pre = make_norm(spec.ff_pre_norm, binder), post = make_norm(spec.ff_post_norm, binder);
  if (const auto* moe = std::get_if<MoeSpec>(&*spec.feed_forward)) {
    out.push_back({std::move(pre), std::move(post), MoeLayer(*moe, binder), spec.residual, layer});
  } else if (const auto* plain = std::get_if<PlainMlpSpec>(&*spec.feed_forward)) {
    out.push_back(
        {std::move(pre), std::move(post), PlainMlpLayer(*plain, binder), spec.residual, layer});
  } else {
    out.push_back({std::move(pre), std::move(post),
                   GatedMlpLayer(std::get<GatedMlpSpec>(*spec.feed_forward), binder), spec.residual,
                   layer});
  }
}

}  // namespace jang
