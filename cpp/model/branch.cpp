#include "model/branch.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace jang {
namespace {

/// The layer of every kind of mixer and feed-forward.
struct BindBody {
  using Body = decltype(Branch::body);
  WeightBinder& binder;

  Body operator()(const AttentionSpec& spec) const { return AttentionLayer(spec, binder); }
  Body operator()(const DeltaNetSpec& spec) const { return DeltaNetLayer(spec, binder); }
  Body operator()(const LatentAttentionSpec& spec) const {
    return LatentAttentionLayer(spec, binder);
  }
  Body operator()(const MambaSpec& spec) const { return MambaLayer(spec, binder); }
  Body operator()(const Mamba2Spec& spec) const { return Mamba2Layer(spec, binder); }
  Body operator()(const LightningSpec& spec) const { return LightningLayer(spec, binder); }
  Body operator()(const ShortConvSpec& spec) const { return ShortConvLayer(spec, binder); }
  Body operator()(const ParallelMixerSpec& spec) const { return ParallelMixerLayer(spec, binder); }
  Body operator()(const GatedMlpSpec& spec) const { return GatedMlpLayer(spec, binder); }
  Body operator()(const MoeSpec& spec) const { return MoeLayer(spec, binder); }
  Body operator()(const PlainMlpSpec& spec) const { return PlainMlpLayer(spec, binder); }
};

}  // namespace

const float* Branch::enter(const LayerContext& context, const float* h, float* normed) const {
  if (!pre_norm) return h;
  pre_norm->forward(context.kernels, context.pool, h, context.tokens, normed);
  return normed;
}

bool Branch::run(LayerContext& context, const float* input, float* out) const {
  context.layer = layer;
  return std::visit([&](const auto& b) { return b.forward(context, input, out); }, body);
}

bool Branch::narrows() const noexcept {
  return std::holds_alternative<AttentionLayer>(body) ||
         std::holds_alternative<ParallelLayer>(body);
}

const float* Branch::leave(const LayerContext& context, const Branch* next, float* out, float* h,
                           float* normed) const {
  const kernels::KernelTable& kernels = context.kernels;
  if (post_norm) post_norm->forward(kernels, context.pool, out, context.tokens, out);
  if (kept) {
    JANG_ASSERT(pre_norm);
    context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      const int64_t first = begin * context.hidden;
      const int64_t n = (end - begin) * context.hidden;
      kernels.scale(out + first, residual * out_scale, n);
      std::copy_n(normed + first, n, h + first);
      kernels.scale(h + first, *kept * out_scale, n);
      kernels.add(h + first, out + first, n);
    });
    return next != nullptr ? next->enter(context, h, normed) : h;
  }
  const bool scaled = out_scale != 1.0f;
  const bool add_here = next == nullptr || !next->pre_norm || scaled;
  if (add_here || residual != 1.0f) {
    context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      const int64_t first = begin * context.hidden;
      const int64_t n = (end - begin) * context.hidden;
      if (residual != 1.0f) kernels.scale(out + first, residual, n);
      if (add_here) kernels.add(h + first, out + first, n);
      if (scaled) kernels.scale(h + first, out_scale, n);
    });
  }
  if (add_here) return scaled && next != nullptr ? next->enter(context, h, normed) : h;
  next->pre_norm->add_and_forward(kernels, context.pool, h, out, context.tokens, normed);
  return normed;
}

namespace {

bool has_mixer(const LayerSpec& spec) noexcept {
  return !std::holds_alternative<NoMixerSpec>(spec.mixer);
}

}  // namespace

std::size_t branch_count(const LayerSpec& spec) noexcept {
  const std::size_t dense = spec.feed_forward && !spec.parallel ? 1u : 0u;
  return (has_mixer(spec) ? 1u : 0u) + dense + (spec.layer_input ? 1u : 0u);
}

bool is_read_later(const LayerSpec& spec) noexcept {
  const auto* attention = std::get_if<AttentionSpec>(&spec.mixer);
  return has_mixer(spec) && (attention == nullptr || attention->shared_layer < 0);
}

const MoeSpec* routed_block(const LayerSpec& spec, std::size_t branch) noexcept {
  if (!spec.feed_forward || spec.parallel || branch != (has_mixer(spec) ? 1u : 0u)) return nullptr;
  return std::get_if<MoeSpec>(&*spec.feed_forward);
}

void append_branches(const LayerSpec& spec, int64_t layer, WeightBinder& binder,
                     std::vector<Branch>& out) {
  if (spec.parallel) {
    out.push_back({make_norm(spec.pre_norm, binder), make_norm(spec.post_norm, binder),
                   ParallelLayer(spec, binder), spec.residual, layer});
    return;
  }
  const auto append = [&](const auto& before, const auto& after, const auto& part) {
    const auto bind = [&](const auto& body) {
      if constexpr (!std::is_same_v<std::decay_t<decltype(body)>, NoMixerSpec>) {
        out.push_back({make_norm(before, binder), make_norm(after, binder), BindBody{binder}(body),
                       spec.residual, layer});
      }
    };
    std::visit(bind, part);
  };
  const auto& normed = spec.normed_residual;
  append(spec.pre_norm, spec.post_norm, spec.mixer);
  if (has_mixer(spec) && normed) {
    out.back().kept = normed->mixer_kept;
    out.back().residual = normed->mixer_added;
  }
  if (spec.feed_forward) append(spec.ff_pre_norm, spec.ff_post_norm, *spec.feed_forward);
  if (normed && spec.feed_forward) {
    out.back().kept = normed->ff_kept;
    out.back().residual = normed->ff_added;
  }
  if (spec.layer_input) {
    out.push_back({std::nullopt, make_norm(spec.layer_input->norm, binder),
                   LayerInputLayer(*spec.layer_input, binder), spec.residual, layer});
  }
  if (!spec.out_scale.empty()) out.back().out_scale = binder.values(spec.out_scale, {1}).front();
}

}  // namespace jang
