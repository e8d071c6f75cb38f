// What a model is: plain data from which the forward pass is assembled. No weights, no arithmetic.
//
// A family file turns a config into this; model/ builds layers from it. Paths are final module
// paths (format.md, section 9), without ".weight". A new layer kind is a new alternative of
// MixerSpec or FeedForwardSpec and a file in model/layers.
#pragma once

#include <cstdint>
#include <limits>
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

enum class NormKind { kRms, kRmsOnePlus, kLayer };
struct NormSpec {
  std::string path;
  int64_t size = 0;
  float eps = 1e-5f;
  NormKind kind = NormKind::kRms;
  bool bias = false;  // kLayer only
  int64_t heads = 0;  // above 0: the weight is [heads][size], a row for each head
  bool operator==(const NormSpec&) const = default;
};

enum class RopeType { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongRope, kProportional };
/// One rotary table; layers name it by index in ModelSpec::ropes.
struct RopeSpec {
  RopeType type = RopeType::kDefault;
  int64_t rotated = 0;  // channels of each head that turn (even)
  bool interleaved = false;
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;    // llama3
  double high_freq_factor = 4.0;   // llama3
  int64_t original_positions = 0;  // L0 of the scaled types; dynamic: max_position_embeddings
  double magnitude = 1.0;          // factor of cos and sin; yarn, longrope
  double beta_fast = 32.0;         // yarn: turns within L0 from which on a channel stays
  double beta_slow = 1.0;          // yarn: turns up to which it is stretched by `factor`
  bool truncate = true;            // yarn: the ramp between them begins and ends at whole channels
  /// longrope, [rotated / 2]: what frequencies are divided by, up to L0 positions and beyond.
  std::vector<double> short_factors = {}, long_factors = {};
  double long_magnitude = 0.0;  // longrope: the magnitude beyond L0; 0: the same
  int64_t turning = 0;          // proportional: channel pairs that turn, the first of rotated / 2
  bool operator==(const RopeSpec&) const = default;
};

struct AttentionSpec {
  LinearSpec q, k, v, o;
  std::optional<LinearSpec> qkv;  // holds the rows of q, k and v, which then have no path
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1.0f;
  float softcap = 0.0f;  // 0: none
  int64_t window = 0;    // 0: none
  int rope = 0;          // index in ModelSpec::ropes, -1: no rotary positions
  // Before rotary: of each head where the size is head_dim, else of all heads together.
  std::optional<NormSpec> q_norm, k_norm;
  /// Rows of q are, head by head, its query and then its gate: the head's result is multiplied by
  /// 1 / (1 + e^-gate) before o.
  bool gated = false;
  float clip = 0.0f;  // queries and keys, behind their norms, and values stay within +-clip; 0: no
  bool keys_as_values = false;  // values are the raw projection of the keys; v has no path
  /// Of each head's values; an empty path: without a weight.
  std::optional<NormSpec> v_norm = std::nullopt;
  /// The layer whose rotated keys and values this one reads; k and v then have no path. -1: its
  /// own.
  int64_t shared_layer = -1;
  /// Tensor [n_heads]: a logit of each head that takes part in its softmax and has no value;
  /// empty: none.
  std::string sinks = {};
  bool operator==(const AttentionSpec&) const = default;
};

/// A gated delta rule over value_heads states [key_dim][value_dim] (models.md 1.6): key head j
/// serves the value heads of the j-th of key_heads equal parts. The output norm is per value head,
/// before the gate silu(z). Without z, rows of qkv are, key head by key head, its query, key,
/// values and z; without a, rows of b are, key head by key head, the b and then the a of its value
/// heads.
struct DeltaNetSpec {
  LinearSpec qkv;  // rows: all queries, all keys, all values
  std::optional<LinearSpec> z;
  LinearSpec b;
  std::optional<LinearSpec> a;
  LinearSpec out;
  std::string convolution;  // path of its weight [channels, taps, 1]; channels in the order of qkv
  std::string decay;        // tensor [value_heads]: ln of the rate at which a state is forgotten
  std::string step_bias;    // tensor [value_heads], added to a
  NormSpec norm;            // of value_dim channels
  int64_t key_heads = 0;
  int64_t value_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  int64_t taps = 0;
  int64_t keys() const noexcept { return key_heads * key_dim; }
  int64_t values() const noexcept { return value_heads * value_dim; }
  int64_t channels() const noexcept { return 2 * keys() + values(); }
  bool operator==(const DeltaNetSpec&) const = default;
};

/// A selective state space: a state [state][inner] whose every number decays at a rate of its own.
/// Norms of the step's factors, of B and of C are optional; one with an empty path has no weight.
struct MambaSpec {
  LinearSpec in;            // rows: the inner channels, then their gates
  LinearSpec parameters;    // of the convolved channels; rows: factors of the step, B, C
  LinearSpec step;          // [inner][rank]
  LinearSpec out;           // of the result times silu(gate)
  std::string convolution;  // path of its weight [inner, taps, 1], and of its bias if it has one
  bool convolution_bias = false;
  std::string decay;  // tensor [inner, state]: ln of the rates at which a state is forgotten
  std::string skip;   // tensor [inner]
  std::optional<NormSpec> step_norm, b_norm, c_norm;
  int64_t inner = 0;
  int64_t state = 0;
  int64_t rank = 0;
  int64_t taps = 0;
  bool operator==(const MambaSpec&) const = default;
};

/// State spaces of heads, a state [state][head_dim] each, that decay as a whole; B and C of the
/// g-th of `groups` equal parts of the heads are the g-th of theirs. The result is multiplied by
/// silu(z), and normed in `groups` equal parts, if there is a norm.
struct Mamba2Spec {
  LinearSpec in;  // rows: z, x, B of all groups, C of all groups, steps
  LinearSpec out;
  std::string convolution;  // path of its weight [channels, taps, 1], and of its bias if it has one
  bool convolution_bias = false;
  std::string decay;              // tensor [heads]: ln of the rate at which a state is forgotten
  std::string skip;               // tensor [heads]
  std::string step_bias;          // tensor [heads]
  std::optional<NormSpec> norm;   // of inner() channels
  bool norm_before_gate = false;  // else of what the gate has multiplied
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t groups = 0;
  int64_t state = 0;
  int64_t taps = 0;
  float least_step = 0.0f;  // limits of ln(1 + e^(step + bias))
  float largest_step = std::numeric_limits<float>::infinity();
  int64_t inner() const noexcept { return heads * head_dim; }
  int64_t channels() const noexcept { return inner() + 2 * groups * state; }
  bool operator==(const Mamba2Spec&) const = default;
};

/// Linear attention of heads with a state [head_dim][head_dim] each: S <- e^-rate S + k v^T,
/// out = S^T q, with the silu of all projections. The result is normed over all heads together and
/// multiplied by 1 / (1 + e^-(gate x)).
struct LightningSpec {
  LinearSpec qkv;   // rows: head by head its query, key and value
  LinearSpec gate;  // [heads * head_dim][hidden]
  LinearSpec out;
  NormSpec norm;              // of inner() channels
  std::vector<double> rates;  // [heads], above 0
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t inner() const noexcept { return heads * head_dim; }
  bool operator==(const LightningSpec&) const = default;
};

/// A short causal convolution between two gates: out(C * convolution(B * x)).
struct ShortConvSpec {
  LinearSpec in;  // rows: B, C, x
  LinearSpec out;
  std::string convolution;  // path of its weight [channels, taps, 1], and of its bias if it has one
  bool convolution_bias = false;
  int64_t channels = 0;
  int64_t taps = 0;
  bool operator==(const ShortConvSpec&) const = default;
};

/// attention(x) + mamba(x).
struct ParallelMixerSpec {
  AttentionSpec attention;
  Mamba2Spec mamba;
  bool operator==(const ParallelMixerSpec&) const = default;
};

/// The layer is its feed-forward alone.
struct NoMixerSpec {
  bool operator==(const NoMixerSpec&) const = default;
};

/// `count` matrices of one shape, the stack's tensor being [count, out, in].
struct StackSpec {
  std::string path;
  int64_t count = 0;
  int64_t out = 0;
  int64_t in = 0;
  bool bias = false;  // [count, out]
  bool operator==(const StackSpec&) const = default;
};

/// Multi-head latent attention (models.md 1.3), in its absorbed form: all heads read one key per
/// position, the normed latent of `rank` channels and `rotary_dim` rotated ones behind it; the
/// latent is the value, too. A head's query is [embed_q of its plain_dim channels | its rotated
/// ones], its result unembed_out of the latents' mean.
struct LatentAttentionSpec {
  std::optional<LinearSpec> q_a;   // then q reads its normed output instead of the hidden states
  std::optional<NormSpec> q_norm;  // of that
  LinearSpec q;                    // rows: head by head, plain channels, then rotated ones
  LinearSpec kv_a;                 // rows: the latent, then the rotated channels of the key
  NormSpec kv_norm;                // of the latent
  StackSpec embed_q;               // [heads][rank][plain_dim]
  StackSpec unembed_out;           // [heads][value_dim][rank]
  /// Holds both, which then have no path: rows head by head, plain_dim of embed_q transposed, then
  /// value_dim of unembed_out.
  std::optional<LinearSpec> kv_b;
  LinearSpec o;
  int64_t heads = 0;
  int64_t rank = 0;
  int64_t plain_dim = 0;
  int64_t rotary_dim = 0;
  int64_t value_dim = 0;
  float scale = 1.0f;
  int rope = 0;  // index in ModelSpec::ropes
  int64_t query_dim() const noexcept { return plain_dim + rotary_dim; }
  int64_t key_dim() const noexcept { return rank + rotary_dim; }
  bool operator==(const LatentAttentionSpec&) const = default;
};

enum class Activation {
  kSilu,
  kGelu,
  kGeluTanh,
  kReluSquared,  // max(x, 0)^2, only without a gate
};
struct GatedMlpSpec {
  LinearSpec gate, up, down;
  Activation activation = Activation::kSilu;
  /// Holds the rows of gate and up, which then have no path.
  std::optional<LinearSpec> gate_up = std::nullopt;
  bool operator==(const GatedMlpSpec&) const = default;
};

/// down(act(up x)).
struct PlainMlpSpec {
  LinearSpec up, down;
  Activation activation = Activation::kGeluTanh;
  bool operator==(const PlainMlpSpec&) const = default;
};

/// How router logits become the weights of the chosen experts.
enum class RouterRule {
  kSoftmaxThenTopK,  // softmax over all experts, then the largest
  kTopKThenSoftmax,  // the largest logits, then softmax over these
  kSigmoid,          // the logistic function of each logit, then the largest
  /// The largest logits one after another, each weighed by a softmax over the experts that were not
  /// chosen before it and whose logit a is near its own m: (m - a) / max(|a|, m) <= 2 * jitter.
  kSparseMixer,
};

/// An expert that every token passes, times 1 / (1 + e^-(gate x)) if there is a gate.
struct SharedExpertSpec {
  GatedMlpSpec mlp;
  std::optional<LinearSpec> gate;  // [1][hidden]
  /// Of its input and of its output, where the routed experts have norms of their own.
  std::optional<NormSpec> pre_norm = std::nullopt, post_norm = std::nullopt;
  /// In the place of `mlp`, which then has no paths.
  std::optional<PlainMlpSpec> plain = std::nullopt;
  bool operator==(const SharedExpertSpec&) const = default;
};

/// act of experts whose parts stay within limits: with g = min(gate x, limit) and u = up x within
/// +-limit, g / (1 + e^(-slope g)) * (u + 1).
struct ClampedSwigluSpec {
  float limit = 7.0f;
  float slope = 1.702f;
  bool operator==(const ClampedSwigluSpec&) const = default;
};

/// Sum over the chosen experts of weight * down(act(gate x) * up x), or of weight * down(act(up x))
/// where gate has no path; shapes of one expert.
struct MoeSpec {
  LinearSpec router;  // [experts][hidden]
  StackSpec gate, up, down;
  int64_t experts = 0;
  int64_t top_k = 0;
  RouterRule rule = RouterRule::kSoftmaxThenTopK;
  bool renormalize = false;  // weights are divided by their sum
  float least_sum = 1e-20f;  // kSigmoid only: is added to that sum
  float jitter = 0.0f;       // kSparseMixer only
  std::optional<SharedExpertSpec> shared;
  Activation activation = Activation::kSilu;
  /// Tensor [experts] that is added to the scores where experts are chosen, not to their weights;
  /// empty: none.
  std::string correction = {};
  /// Above 1: experts form so many equal groups, and are chosen from the `open_groups` best alone.
  /// A group's score is its best, of kSigmoid the sum of its two best.
  int64_t groups = 1;
  int64_t open_groups = 1;
  float weight_scale = 1.0f;  // of the weights, at the end
  /// The router's input norm, whose weight is a tensor of this name (no ".weight") times
  /// `router_scale`; none: it sees what the experts see.
  std::optional<NormSpec> router_norm = std::nullopt;
  float router_scale = 1.0f;
  /// Of the routed experts' input and of their sum.
  std::optional<NormSpec> pre_norm = std::nullopt, post_norm = std::nullopt;
  std::string expert_scale = {};  // tensor [experts] that outputs are multiplied by; empty: none
  /// The routed experts' x is latent_in of the block's input, and their sum passes latent_out; both
  /// or neither.
  std::optional<LinearSpec> latent_in = std::nullopt, latent_out = std::nullopt;
  /// Of the routed experts, in the place of `activation`.
  std::optional<ClampedSwigluSpec> clamped = std::nullopt;
  bool gated() const noexcept { return !gate.path.empty(); }
  bool operator==(const MoeSpec&) const = default;
};

using MixerSpec =
    std::variant<AttentionSpec, DeltaNetSpec, LatentAttentionSpec, MambaSpec, Mamba2Spec,
                 LightningSpec, ShortConvSpec, ParallelMixerSpec, NoMixerSpec>;
using FeedForwardSpec = std::variant<GatedMlpSpec, MoeSpec, PlainMlpSpec>;

/// h += norm(projection(act(gate h) * e)), e being the layer's own input of the token
/// (LayerInputsSpec).
struct LayerInputBranchSpec {
  LinearSpec gate;        // [size][hidden]
  LinearSpec projection;  // [hidden][size]
  NormSpec norm;
  Activation activation = Activation::kGeluTanh;
  bool operator==(const LayerInputBranchSpec&) const = default;
};

/// With n = norm(h): h = kept * n + added * f(n), of the mixer and of the feed-forward.
struct NormedResidualSpec {
  float mixer_kept = 1.0f, mixer_added = 1.0f;
  float ff_kept = 1.0f, ff_added = 1.0f;
  bool operator==(const NormedResidualSpec&) const = default;
};

/// h += residual * post_norm(mixer(pre_norm(h))); h += residual * ff_post_norm(ff(ff_pre_norm(h))).
/// Parallel: h += residual * post_norm(mixer(n) + ff(n)), n = pre_norm(h); a dense ff with no
/// norms. Without a mixer the first of the two is not there.
struct LayerSpec {
  std::optional<NormSpec> pre_norm, post_norm, ff_pre_norm, ff_post_norm;
  MixerSpec mixer;
  std::optional<FeedForwardSpec> feed_forward;
  float residual = 1.0f;
  bool parallel = false;
  std::optional<LayerInputBranchSpec> layer_input = std::nullopt;    // a branch behind these
  std::optional<NormedResidualSpec> normed_residual = std::nullopt;  // instead of `residual`
  std::string out_scale = {};  // tensor [1] that h is multiplied by at the end; empty: none
  bool operator==(const LayerSpec&) const = default;
};

struct EmbeddingSpec {
  std::string path;
  float scale = 1.0f;
  bool operator==(const EmbeddingSpec&) const = default;
};

/// What each layer sees of a token beside its hidden states, [layers][size]:
/// (norm(projection(x) * projection_scale) + table[token] * table_scale) / sqrt(2), x being the
/// scaled embedding.
struct LayerInputsSpec {
  std::string table;  // path of an embedding [rows][layers * size]
  int64_t rows = 0;
  int64_t size = 0;
  LinearSpec projection;  // [layers * size][hidden]
  float projection_scale = 1.0f;
  NormSpec norm;  // of each layer's part
  float table_scale = 1.0f;
  bool operator==(const LayerInputsSpec&) const = default;
};

struct HeadSpec {
  bool tied = false;  // then the embedding's matrix serves
  LinearSpec linear;
  float multiplier = 1.0f;
  float tied_multiplier = 1.0f;  // beside it, of a tied head: the embedding holds its own factor
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
  std::optional<LayerInputsSpec> layer_inputs = std::nullopt;
  bool operator==(const ModelSpec&) const = default;
};

}  // namespace jang
