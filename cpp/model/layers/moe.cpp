#include "model/layers/moe.h"

#include <functional>

#include "base/error.h"
#include "model/layers/activation.h"

namespace jang {

namespace {

RoutedInput routed_input(const MoeSpec& spec, const LayerContext& context, bool down,
                         const float* x) {
  const Workspace& work = context.work;
  const auto pairs = static_cast<std::size_t>(context.tokens * spec.top_k);
  return {spec,
          down,
          x,
          context.tokens,
          work.router.data(),
          work.chosen.span().first(pairs),
          work.expert_weights.span().first(pairs),
          work.groups.places(),
          has_preferences(spec) ? work.preferences.data() : nullptr};
}

}  // namespace

MoeLayer::MoeLayer(const MoeSpec& spec, WeightBinder& binder)
    : spec_(spec),
      router_(binder.linear(spec.router)),
      up_(binder.stack(spec.up)),
      down_(binder.stack(spec.down)),
      expert_bytes_(stored_bytes(up_.front()) + stored_bytes(down_.front())) {
  if (spec.gated()) {
    gate_ = binder.stack(spec.gate);
    expert_bytes_ += stored_bytes(gate_.front());
  }
  JANG_ASSERT(spec.latent_in.has_value() == spec.latent_out.has_value());
  if (spec.latent_in) {
    latent_in_ = binder.linear(*spec.latent_in);
    latent_out_ = binder.linear(*spec.latent_out);
  }
  if (!spec.correction.empty())
    correction_ = binder.values(spec.correction, {static_cast<uint64_t>(spec.experts)});
  if (!spec.expert_scale.empty())
    expert_scale_ = binder.values(spec.expert_scale, {static_cast<uint64_t>(spec.experts)});
  if (spec.router_norm) {
    router_norm_ =
        binder.values(spec.router_norm->path, {static_cast<uint64_t>(spec.router_norm->size)});
    for (float& weight : router_norm_) weight *= spec.router_scale;
  }
  pre_norm_ = make_norm(spec.pre_norm, binder);
  post_norm_ = make_norm(spec.post_norm, binder);
  if (!spec.shared) return;
  if (spec.shared->plain) {
    shared_.emplace(PlainMlpLayer(*spec.shared->plain, binder));
  } else {
    shared_.emplace(GatedMlpLayer(spec.shared->mlp, binder));
  }
  shared_pre_norm_ = make_norm(spec.shared->pre_norm, binder);
  shared_post_norm_ = make_norm(spec.shared->post_norm, binder);
  if (spec.shared->gate) shared_gate_ = binder.linear(*spec.shared->gate);
}

bool MoeLayer::forward(LayerContext& context, const float* x, float* out) const {
  if (shared_ && !run_shared(context, x)) return false;
  if (!route(context, x)) return false;
  const float* const input = enter_experts(context, x);
  if (input == nullptr || !activate(context, input) || !project_down(context) ||
      !combine(context, out)) {
    return false;
  }
  if (post_norm_) post_norm_->forward(context.kernels, context.pool, out, context.tokens, out);
  if (shared_) add_shared(context, out);
  context.work.expert_bytes += expert_bytes_ * context.work.groups.groups().size();
  return true;
}

const float* MoeLayer::normed(const LayerContext& context, const std::optional<NormLayer>& norm,
                              const float* x) const {
  if (!norm) return x;
  AlignedBuffer<float>& out = context.work.moe_normed;
  out.reserve_discarding(static_cast<std::size_t>(context.tokens * context.hidden));
  norm->forward(context.kernels, context.pool, x, context.tokens, out.data());
  return out.data();
}

// work.shared = the shared expert's output, work.open = its gate before the logistic function.
bool MoeLayer::run_shared(LayerContext& context, const float* x) const {
  Workspace& work = context.work;
  const auto tokens = static_cast<std::size_t>(context.tokens);
  work.shared.reserve_discarding(tokens * static_cast<std::size_t>(context.hidden));
  if (shared_gate_) {
    work.open.reserve_discarding(tokens);
    const LinearJob job{&*shared_gate_, work.open.data(), 1};
    if (!context.linear.run_exact({&job, 1}, x, context.tokens)) return false;
  }
  const float* const input = normed(context, shared_pre_norm_, x);
  const auto run = [&](const auto& layer) {
    return layer.forward(context, input, work.shared.data());
  };
  if (!std::visit(run, *shared_)) return false;
  if (shared_post_norm_) {
    shared_post_norm_->forward(context.kernels, context.pool, work.shared.data(), context.tokens,
                               work.shared.data());
  }
  return true;
}

void MoeLayer::add_shared(LayerContext& context, float* out) const {
  const Workspace& work = context.work;
  const int64_t hidden = context.hidden;
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = begin; t < end; ++t) {
      float* sum = out + t * hidden;
      const float* y = work.shared.data() + t * hidden;
      float open = 1.0f;
      if (shared_gate_) context.kernels.sigmoid_mul(&open, work.open.data() + t, 1, &open);
      for (int64_t i = 0; i < hidden; ++i) sum[i] += open * y[i];
    }
  });
}

bool MoeLayer::route(LayerContext& context, const float* x) const {
  Workspace& work = context.work;
  const auto tokens = static_cast<std::size_t>(context.tokens);
  const auto experts = static_cast<std::size_t>(spec_.experts);
  const auto top_k = static_cast<std::size_t>(spec_.top_k);
  work.router.reserve_discarding(tokens * experts);
  work.chosen.reserve_discarding(tokens * top_k);
  work.expert_weights.reserve_discarding(tokens * top_k);
  if (!router_norm_.empty()) {
    const int64_t n = context.hidden;
    work.moe_normed.reserve_discarding(tokens * static_cast<std::size_t>(n));
    float* const own = work.moe_normed.data();
    context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      context.kernels.rms_norm(x + begin * n, n, router_norm_.data(), 0.0f, spec_.router_norm->eps,
                               end - begin, n, own + begin * n, n);
    });
    x = own;
  }
  const LinearJob job{&router_, work.router.data(), spec_.experts};
  if (!context.linear.run_exact({&job, 1}, x, context.tokens)) return false;
  const bool preferences = has_preferences(spec_);
  if (preferences) work.preferences.reserve_discarding(tokens * experts);
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = begin; t < end; ++t) {
      choose_experts(spec_, context.kernels, work.router.data() + t * spec_.experts,
                     work.chosen.data() + t * spec_.top_k,
                     work.expert_weights.data() + t * spec_.top_k,
                     correction_.empty() ? nullptr : correction_.data(),
                     preferences ? work.preferences.data() + t * spec_.experts : nullptr);
    }
  });
  work.groups.sort(work.chosen.span().first(tokens * top_k), spec_.top_k, spec_.experts);
  return true;
}

const float* MoeLayer::enter_experts(LayerContext& context, const float* x) const {
  x = normed(context, pre_norm_, x);
  if (!latent_in_) return x;
  AlignedBuffer<float>& latent = context.work.latent;
  latent.reserve_discarding(static_cast<std::size_t>(context.tokens * latent_in_->rows));
  const LinearJob job{&*latent_in_, latent.data(), latent_in_->rows};
  return context.linear.run({&job, 1}, x, context.tokens) ? latent.data() : nullptr;
}

// work.gate = act(gate x) * up x, or act(up x), rows in the order of the sorted pairs.
bool MoeLayer::activate(LayerContext& context, const float* x) const {
  if (!context.linear.show(routed_input(spec_, context, false, x))) return false;
  Workspace& work = context.work;
  const int64_t width = spec_.up.out;
  const int64_t pairs = context.tokens * spec_.top_k;
  const bool gated = spec_.gated();
  work.gate.reserve_discarding(static_cast<std::size_t>(pairs * width));
  if (gated) work.up.reserve_discarding(static_cast<std::size_t>(pairs * width));
  float* gate = work.gate.data();
  float* up = gated ? work.up.data() : nullptr;

  work.expert_input.set(x, context.tokens, spec_.up.in, work.groups.picked());
  if (gated) work.expert_input.prepare(gate_.front());
  work.expert_input.prepare(up_.front());
  work.expert_inner.set(gate, pairs, width);
  work.expert_inner.reserve(down_.front());
  const auto groups = work.groups.groups();
  work.jobs.clear();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const ExpertRows& group = groups[i];
    const auto expert = static_cast<std::size_t>(group.expert);
    const auto set = static_cast<int64_t>(i);
    const int64_t at = group.first * width;
    const auto add = [&](const LinearWeight& weight, float* out) {
      work.jobs.push_back({&weight, out + at, width, group.source, group.rows, set});
    };
    if (gated) add(gate_[expert], gate);
    add(up_[expert], gated ? up : gate);
  }
  const auto finish = [&](int64_t set) {
    const ExpertRows& group = groups[static_cast<std::size_t>(set)];
    // Row by row: where a row is cut into registers then does not depend on the rows before it.
    for (int64_t row = group.first; row < group.first + group.rows; ++row) {
      float* const inner = gate + row * width;
      if (spec_.clamped) {
        context.kernels.clamped_swiglu(inner, up + row * width, spec_.clamped->limit,
                                       spec_.clamped->slope, width, inner);
      } else {
        jang::activate(context.kernels, spec_.activation, inner, gated ? up + row * width : nullptr,
                       width);
      }
    }
    work.expert_inner.complete(group.first, group.rows);
  };
  context.linear.run(work.jobs, work.expert_input, std::ref(finish));
  return true;
}

bool MoeLayer::project_down(LayerContext& context) const {
  Workspace& work = context.work;
  if (!context.linear.show(routed_input(spec_, context, true, work.gate.data()))) return false;
  const int64_t hidden = spec_.down.out;
  work.expert_out.reserve_discarding(
      static_cast<std::size_t>(context.tokens * spec_.top_k * hidden));
  work.jobs.clear();
  for (const ExpertRows& group : work.groups.groups()) {
    work.jobs.push_back({&down_[static_cast<std::size_t>(group.expert)],
                         work.expert_out.data() + group.first * hidden, hidden, group.first,
                         group.rows});
  }
  context.linear.run(work.jobs, work.expert_inner);
  return true;
}

bool MoeLayer::combine(LayerContext& context, float* out) const {
  Workspace& work = context.work;
  const int64_t hidden = spec_.down.out;  // of the latent, if there is one
  float* const sums = latent_out_ ? work.latent.data() : out;
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = begin; t < end; ++t) {
      float* sum = sums + t * hidden;
      for (int64_t slot = 0; slot < spec_.top_k; ++slot) {
        const int64_t pair = t * spec_.top_k + slot;
        float weight = work.expert_weights[static_cast<std::size_t>(pair)];
        if (!expert_scale_.empty()) {
          const int64_t expert = work.chosen[static_cast<std::size_t>(pair)];
          weight *= expert_scale_[static_cast<std::size_t>(expert)];
        }
        const float* y =
            work.expert_out.data() + work.groups.places()[static_cast<std::size_t>(pair)] * hidden;
        if (slot == 0) {
          for (int64_t i = 0; i < hidden; ++i) sum[i] = weight * y[i];
        } else {
          for (int64_t i = 0; i < hidden; ++i) sum[i] += weight * y[i];
        }
      }
    }
  });
  if (!latent_out_) return true;
  const LinearJob job{&*latent_out_, out, latent_out_->rows};
  return context.linear.run({&job, 1}, sums, context.tokens);
}

}  // namespace jang
