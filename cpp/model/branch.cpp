#include "model/branch.h"

#include <utility>

namespace jang {
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
  } else if (const auto* latent = std::get_if<LatentAttentionSpec>(&spec.mixer)) {
    out.push_back({std::move(mixer_pre), std::move(mixer_post),
                   LatentAttentionLayer(*latent, binder), spec.residual, layer});
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
