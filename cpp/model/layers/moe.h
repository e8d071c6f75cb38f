// A routed feed-forward: each token passes the top_k experts that its router prefers.
//
//   router (f32 in either precision) -> choice -> gate and up of all chosen experts in one region,
//   the activation of an expert by whoever finishes its last block -> down of all in another ->
//   the slots of a token added in order of falling weight, then the shared expert, which was
//   computed first.
//
// Experts without a gate have their activation on what up gives. Between latent projections the
// routed experts, not the router nor the shared expert, work on a latent.
//
// Where the parts have norms of their own, `x` is the hidden states and each part norms them for
// itself.
//
// An expert's matrices are slices of the stack, read where they lie and once for all tokens that
// chose it; only activation rows are gathered.
#pragma once

#include <optional>
#include <variant>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/layers/gated_mlp.h"
#include "model/layers/plain_mlp.h"
#include "model/norm_layer.h"
#include "model/weights.h"

namespace jang {

class MoeLayer {
 public:
  MoeLayer(const MoeSpec& spec, WeightBinder& binder);

  /// `x`: normed input [tokens][hidden]; `out` [tokens][hidden] is overwritten. In exact precision
  /// a token's result does not depend on the others; in fast one only through how many chose the
  /// same expert. False if an observer ended the pass.
  bool forward(LayerContext& context, const float* x, float* out) const;

 private:
  /// The input of a part that has a norm of its own, in Workspace::moe_normed; else x.
  const float* normed(const LayerContext& context, const std::optional<NormLayer>& norm,
                      const float* x) const;
  bool run_shared(LayerContext& context, const float* x) const;
  void add_shared(LayerContext& context, float* out) const;
  bool route(LayerContext& context, const float* x) const;
  /// What the routed experts see: x, normed, projected to a latent, or both. nullptr if an observer
  /// ended the pass.
  const float* enter_experts(LayerContext& context, const float* x) const;
  bool activate(LayerContext& context, const float* x) const;
  bool project_down(LayerContext& context) const;
  bool combine(LayerContext& context, float* out) const;

  MoeSpec spec_;
  std::optional<std::variant<GatedMlpLayer, PlainMlpLayer>> shared_;
  std::optional<LinearWeight> shared_gate_, latent_in_, latent_out_;
  LinearWeight router_;
  std::vector<LinearWeight> gate_, up_, down_;  // by expert; no gate_: up_ alone
  std::vector<float> correction_;               // of the choice, [experts]; empty: none
  std::vector<float> expert_scale_;             // of their outputs, [experts]; empty: none
  std::vector<float> router_norm_;              // the weight of the router's own norm; empty: none
  std::optional<NormLayer> pre_norm_, post_norm_, shared_pre_norm_, shared_post_norm_;
  uint64_t expert_bytes_;  // of one expert
};

}  // namespace jang
