// A residual branch: h += residual * post_norm(body(pre_norm(h))), times out_scale. A model's
// layers are a chain of these, a mixer and most often a feed-forward each, or both in one branch
// where they run in parallel; inference and calibration run the same ones.
//
// Relies on the layers of model/layers for the bodies; leaves embedding, head and the order of
// tokens to its users.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "arch/spec.h"
#include "model/layer_context.h"
#include "model/layers/attention.h"
#include "model/layers/delta_net.h"
#include "model/layers/gated_mlp.h"
#include "model/layers/latent_attention.h"
#include "model/layers/layer_input.h"
#include "model/layers/lightning.h"
#include "model/layers/mamba.h"
#include "model/layers/mamba2.h"
#include "model/layers/moe.h"
#include "model/layers/parallel.h"
#include "model/layers/parallel_mixer.h"
#include "model/layers/plain_mlp.h"
#include "model/layers/short_conv.h"
#include "model/norm_layer.h"
#include "model/weights.h"

namespace jang {

struct Branch {
  std::optional<NormLayer> pre_norm, post_norm;
  std::variant<AttentionLayer, DeltaNetLayer, LatentAttentionLayer, MambaLayer, Mamba2Layer,
               LightningLayer, GatedMlpLayer, MoeLayer, PlainMlpLayer, ParallelLayer,
               LayerInputLayer, ShortConvLayer, ParallelMixerLayer>
      body;
  float residual = 1.0f;
  int64_t layer = 0;  // of the caches
  /// h = kept * n + residual * body(n), n being the body's normed input.
  std::optional<float> kept = std::nullopt;
  float out_scale = 1.0f;  // of h, behind the branch

  /// Gives the body's input: the norm of `h`, written to `normed`, or h itself where the family has
  /// no norm there.
  const float* enter(const LayerContext& context, const float* h, float* normed) const;
  /// Body alone, from `input` to `out`, [tokens][hidden]. False if an observer ended the pass.
  bool run(LayerContext& context, const float* input, float* out) const;
  /// Whether the body gives rows of LayerContext::wanted alone; the others give all.
  bool narrows() const noexcept;
  /// Adds `out`, which is overwritten, to `h` and enters `next`, if there is one: the same values
  /// as next->enter(), in one walk over h.
  const float* leave(const LayerContext& context, const Branch* next, float* out, float* h,
                     float* normed) const;
};

/// How many branches a layer has: a parallel one is a single branch.
std::size_t branch_count(const LayerSpec& spec) noexcept;

/// Whether later tokens read what the layer's first branch, its mixer, keeps of these: keys or
/// states of its own.
bool is_read_later(const LayerSpec& spec) noexcept;

/// The routed feed-forward that the layer's branch of that number is, or nullptr.
const MoeSpec* routed_block(const LayerSpec& spec, std::size_t branch) noexcept;

/// Binds the branches of a layer: its mixer, then its feed-forward and its own input, as far as it
/// has these.
void append_branches(const LayerSpec& spec, int64_t layer, WeightBinder& binder,
                     std::vector<Branch>& out);

}  // namespace jang
