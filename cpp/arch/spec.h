// What a model is: plain data from which the forward pass is assembled. No weights, no arithmetic.
//
// A family file turns a config into this; model/ builds layers from it. Paths are final module
// paths (format.md, section 9), without ".weight". A new layer kind is a new alternative of
// MixerSpec or FeedForwardSpec and a file in model/layers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace jang {

struct LinearSpec {
  std::string path;
  int64_t out = 0;
  int64_t in = 0;
  bool bias = false;
  bool operator==(const LinearSpec&) const = default;
};

enum class NormKind { kRms, kRmsOnePlus };
struct NormSpec {
  std::string path;
  int64_t size = 0;
  float eps = 1e-5f;
  NormKind kind = NormKind::kRms;
  bool operator==(const NormSpec&) const = default;
};

enum class RopeType { kDefault, kLinear, kDynamic, kLlama3 };
/// One rotary table; layers name it by index in ModelSpec::ropes.
struct RopeSpec {
  RopeType type = RopeType::kDefault;
  int64_t rotated = 0;  // channels of each head that turn (even)
  bool interleaved = false;
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;    // llama3
  double high_freq_factor = 4.0;   // llama3
  int64_t original_positions = 0;  // llama3: L0; dynamic: max_position_embeddings
  bool operator==(const RopeSpec&) const = default;
};

struct AttentionSpec {
  LinearSpec q, k, v, o;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1.0f;
  float softcap = 0.0f;  // 0: none
  int64_t window = 0;    // 0: none
  int rope = 0;          // index in ModelSpec::ropes, -1: no rotary positions
  // Before rotary: of each head where the size is head_dim, else of all heads together.
  std::optional<NormSpec> q_norm, k_norm;
  bool operator==(const AttentionSpec&) const = default;
};

enum class Activation { kSilu, kGelu, kGeluTanh };
struct GatedMlpSpec {
  LinearSpec gate, up, down;
  Activation activation = Activation::kSilu;
  bool operator==(const GatedMlpSpec&) const = default;
};

/// `count` matrices of one shape, the stack's tensor being [count, out, in].
struct StackSpec {
  std::string path;
  int64_t count = 0;
  int64_t out = 0;
  int64_t in = 0;
  bool operator==(const StackSpec&) const = default;
};

/// How router logits become the weights of the chosen experts.
enum class RouterRule {
  kSoftmaxThenTopK,  // softmax over all experts, then the largest
  kTopKThenSoftmax,  // the largest logits, then softmax over these
};

/// Sum over the chosen experts of weight * down(act(gate x) * up x); shapes of one expert.
struct MoeSpec {
  LinearSpec router;  // [experts][hidden]
  StackSpec gate, up, down;
  int64_t experts = 0;
  int64_t top_k = 0;
  RouterRule rule = RouterRule::kSoftmaxThenTopK;
  bool renormalize = false;  // weights are divided by their sum
  Activation activation = Activation::kSilu;
  bool operator==(const MoeSpec&) const = default;
};

using MixerSpec = std::variant<AttentionSpec>;
using FeedForwardSpec = std::variant<GatedMlpSpec, MoeSpec>;

/// h += residual * post_norm(mixer(pre_norm(h))); h += residual * ff_post_norm(ff(ff_pre_norm(h))).
struct LayerSpec {
  std::optional<NormSpec> pre_norm, post_norm, ff_pre_norm, ff_post_norm;
  MixerSpec mixer;
  std::optional<FeedForwardSpec> feed_forward;
  float residual = 1.0f;
  bool operator==(const LayerSpec&) const = default;
};

struct EmbeddingSpec {
  std::string path;
  float scale = 1.0f;
  bool operator==(const EmbeddingSpec&) const = default;
};

struct HeadSpec {
  bool tied = false;  // then the embedding's matrix serves
  LinearSpec linear;
  float multiplier = 1.0f;
  float softcap = 0.0f;
  bool operator==(const HeadSpec&) const = default;
};

struct ModelSpec {
  std::string model_type;
  int64_t hidden = 0;
  int64_t vocabulary = 0;
  int64_t max_positions = 0;
  EmbeddingSpec embedding;
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
  NormSpec final_norm;
  HeadSpec head;
  bool operator==(const ModelSpec&) const = default;
};

}  // namespace jang
