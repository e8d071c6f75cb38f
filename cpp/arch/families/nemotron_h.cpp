// nemotron_h: layers of one branch each, a state space, an attention without positions, a
// feed-forward or routed experts, none of which has a gate: squared ReLU stands between two
// matrices.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "arch/families/families.h"
#include "arch/families/grouped_moe.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/mamba2_blocks.h"
#include "arch/families/state_space_blocks.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr double kEpsilonIfAbsent = 1e-5, kLeastStepIfAbsent = 1e-3;
constexpr int64_t kPositionsIfAbsent = 4096, kWidthIfAbsent = 21504, kExpertWidthIfAbsent = 7688;

enum class Kind { kStateSpace, kAttention, kFeedForward, kExperts };

struct KindName {
  Kind kind;
  char letter;                // of hybrid_override_pattern
  std::string_view names[2];  // of layers_block_type; the first is what is written
};
constexpr std::array<KindName, 4> kKinds = {{
    {Kind::kStateSpace, 'M', {"mamba", "linear_attention"}},
    {Kind::kAttention, '*', {"attention", "full_attention"}},
    {Kind::kFeedForward, '-', {"mlp", "mlp"}},
    {Kind::kExperts, 'E', {"moe", "moe"}},
}};

std::vector<Kind> kinds_of_list(const ModelConfig& config, std::string_view key, const Json& list) {
  if (!list.is_array()) config.fail(key, "expected a list of layer types");
  std::vector<Kind> kinds;
  for (const Json& entry : list.as_array()) {
    const std::string name = entry.is_string() ? entry.as_string() : std::string();
    const KindName* found = nullptr;
    for (const KindName& kind : kKinds)
      if (name == kind.names[0] || name == kind.names[1]) found = &kind;
    if (found == nullptr) {
      config.fail(key, "expected mamba, attention, mlp or moe for layer " +
                           std::to_string(kinds.size()) + ", found \"" + name.substr(0, 40) + '"');
    }
    kinds.push_back(found->kind);
  }
  return kinds;
}

std::vector<Kind> kinds_of_pattern(const ModelConfig& config, std::string_view key,
                                   const std::string& pattern) {
  std::vector<Kind> kinds;
  for (const char letter : pattern) {
    const KindName* found = nullptr;
    for (const KindName& kind : kKinds)
      if (letter == kind.letter) found = &kind;
    if (found == nullptr) {
      config.fail(key, "expected M, *, - or E for layer " + std::to_string(kinds.size()) +
                           ", found \"" + std::string(1, letter) + '"');
    }
    kinds.push_back(found->kind);
  }
  return kinds;
}

/// What each layer is, by the list in either spelling or by the pattern. What says the same twice
/// must agree.
std::vector<Kind> layer_kinds(const ModelConfig& config) {
  std::vector<Kind> kinds;
  std::string_view first;
  const auto take = [&](std::string_view key, std::vector<Kind> found) {
    if (found.empty() || found.size() > static_cast<std::size_t>(ModelConfig::kMaxLayers)) {
      config.fail(key, "expected 1 to " + std::to_string(ModelConfig::kMaxLayers) +
                           " layers, found " + std::to_string(found.size()));
    }
    if (!first.empty() && found != kinds)
      config.fail(key, "expected the layers of " + std::string(first));
    first = key;
    kinds = std::move(found);
  };
  for (const std::string_view key : {"layers_block_type", "layer_types"}) {
    if (const Json* list = config.find(key)) take(key, kinds_of_list(config, key, *list));
  }
  constexpr std::string_view kPattern = "hybrid_override_pattern";
  if (const auto pattern = config.string(kPattern))
    take(kPattern, kinds_of_pattern(config, kPattern, *pattern));
  if (kinds.empty()) config.fail("layers_block_type", "missing, and so is hybrid_override_pattern");
  const auto count = static_cast<int64_t>(kinds.size());
  const auto stated = config.integer("num_hidden_layers", 1, ModelConfig::kMaxLayers);
  if (stated && *stated != count) {
    config.fail("num_hidden_layers", "expected the " + std::to_string(count) + " layers of " +
                                         std::string(first) + ", found " + std::to_string(*stated));
  }
  return kinds;
}

bool has_experts(const ModelConfig& config) {
  const std::vector<Kind> kinds = layer_kinds(config);
  return std::find(kinds.begin(), kinds.end(), Kind::kExperts) != kinds.end();
}

/// Refuses activations that no kernel computes here.
void require_activation(const ModelConfig& config, std::string_view key, const char* only) {
  const std::string act = config.string(key).value_or(only);
  if (act == only || (act == "swish" && std::string_view(only) == "silu")) return;
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
              std::string(key) + ": \"" + act.substr(0, 40) +
                  "\" is not supported in a nemotron_h model; supported: " + only);
}

Mamba2Keys mamba_keys() {
  Mamba2Keys keys;
  keys.heads = {"mamba_num_heads", 128};
  keys.head_dim = {"mamba_head_dim", 64};
  keys.state = {"ssm_state_size", 128};
  keys.expand = {};  // stated beside the heads, and nobody reads it
  return keys;
}

// Names that settings have in files of the first months; they beat the others.
constexpr std::string_view kOldGroups = "mamba_n_groups", kOldTaps = "mamba_d_conv",
                           kOldConvBias = "mamba_conv_bias", kOldLeastStep = "mamba_dt_min";

Mamba2Keys keys_of(const ModelConfig& config) {
  Mamba2Keys keys = mamba_keys();
  if (config.find(kOldGroups) != nullptr) keys.groups.name = kOldGroups;
  if (config.find(kOldTaps) != nullptr) keys.taps.name = kOldTaps;
  if (config.find(kOldConvBias) != nullptr) keys.convolution_bias = kOldConvBias;
  return keys;
}

/// The lowest step of initialisation is the lower limit of all; there is no upper one.
double least_step(const ModelConfig& config) {
  const std::string_view key =
      config.find(kOldLeastStep) != nullptr ? kOldLeastStep : "time_step_min";
  const double value = config.number(key).value_or(kLeastStepIfAbsent);
  if (!(value >= 0.0) || !std::isfinite(value)) config.fail(key, "expected a number from 0 on");
  return value;
}

Mamba2Spec read_mamba(const ModelConfig& config, int64_t hidden) {
  require_activation(config, "mamba_hidden_act", "silu");
  Mamba2Spec mamba = read_mamba2(config, keys_of(config), hidden);
  mamba.least_step = static_cast<float>(least_step(config));
  mamba.largest_step = std::numeric_limits<float>::infinity();
  return mamba;
}

struct Shape {
  int64_t hidden = 0;
  float eps = 0;
  bool mlp_bias = false;
};

AttentionSpec read_attention(const ModelConfig& config, int64_t hidden) {
  AttentionSpec mixer;
  mixer.n_heads = config.integer("num_attention_heads", 1, ModelConfig::kMaxHeads).value_or(32);
  // null: one for each head.
  mixer.n_kv_heads = config.integer("num_key_value_heads", 1, ModelConfig::kMaxHeads)
                         .value_or(config.contains("num_key_value_heads") ? mixer.n_heads : 8);
  if (mixer.n_heads % mixer.n_kv_heads != 0) {
    config.fail("num_key_value_heads", std::to_string(mixer.n_kv_heads) + " does not divide the " +
                                           std::to_string(mixer.n_heads) + " attention heads");
  }
  mixer.head_dim = config.integer("head_dim", 1, ModelConfig::kMaxDim).value_or(128);
  if (mixer.head_dim > ModelConfig::kMaxDim / mixer.n_heads)
    config.fail("head_dim", "num_attention_heads * head_dim is above 2^24");
  const int64_t rows = mixer.n_heads * mixer.head_dim, kv_rows = mixer.n_kv_heads * mixer.head_dim;
  mixer.q = {"q_proj", rows, hidden, false};
  mixer.k = {"k_proj", kv_rows, hidden, false};
  mixer.v = {"v_proj", kv_rows, hidden, false};
  mixer.o = {"o_proj", hidden, rows, false};
  mixer.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(mixer.head_dim)));
  mixer.rope = -1;
  return mixer;
}

AttentionSpec attention_at(const AttentionSpec& shape, const std::string& base) {
  AttentionSpec mixer = shape;
  for (LinearSpec* part : {&mixer.q, &mixer.k, &mixer.v, &mixer.o}) part->path.insert(0, base);
  return mixer;
}

PlainMlpSpec feed_forward(const std::string& base, const Shape& shape, int64_t width) {
  return {{base + "up_proj", width, shape.hidden, shape.mlp_bias},
          {base + "down_proj", shape.hidden, width, shape.mlp_bias},
          Activation::kReluSquared};
}

int64_t dense_width(const ModelConfig& config) {
  return config.integer("intermediate_size", 1, ModelConfig::kMaxDim).value_or(kWidthIfAbsent);
}

GroupedMoeTraits experts_of() {
  GroupedMoeTraits traits;
  traits.experts = 8;
  traits.top_k = 2;
  traits.width = kExpertWidthIfAbsent;
  traits.shared = 0;
  return traits;
}

/// Channels that the routed experts work on, where these are not the hidden states.
std::optional<int64_t> latent_size(const ModelConfig& config) {
  return config.integer("moe_latent_size", 1, ModelConfig::kMaxDim);
}

int64_t shared_width(const ModelConfig& config) {
  return config.integer("moe_shared_expert_intermediate_size", 1, ModelConfig::kMaxDim)
      .value_or(kExpertWidthIfAbsent);
}

MoeSpec experts_at(const ModelConfig& config, const std::string& base, const Shape& shape) {
  const auto latent = latent_size(config);
  const int64_t seen = latent.value_or(shape.hidden);
  MoeSpec moe = grouped_moe(config, base, shape.hidden, experts_of());
  const int64_t width = moe.up.out;
  moe.gate = {};
  moe.up = {base + "switch_mlp.fc1", moe.experts, width, seen};
  moe.down = {base + "switch_mlp.fc2", moe.experts, seen, width};
  moe.activation = Activation::kReluSquared;
  if (latent) {
    moe.latent_in = LinearSpec{base + "fc1_latent_proj", seen, shape.hidden, shape.mlp_bias};
    moe.latent_out = LinearSpec{base + "fc2_latent_proj", shape.hidden, seen, shape.mlp_bias};
  }
  // One, whatever their number is said to be, and of a width of its own.
  moe.shared.emplace();
  moe.shared->plain = feed_forward(base + "shared_experts.", shape, shared_width(config));
  return moe;
}

ModelSpec spec(const ModelConfig& config) {
  require_activation(config, "mlp_hidden_act", "relu2");
  ModelSpec model;
  model.model_type = "nemotron_h";
  model.hidden = config.required_integer("hidden_size", 1, ModelConfig::kMaxDim);
  model.vocabulary = config.required_integer("vocab_size", 1, ModelConfig::kMaxVocabulary);
  model.max_positions =
      config.integer("max_position_embeddings", 1, int64_t{1} << 40).value_or(kPositionsIfAbsent);
  model.embedding.path = "backbone.embeddings";
  const std::vector<Kind> kinds = layer_kinds(config);
  const Shape shape{model.hidden, norm_epsilon(config, "layer_norm_epsilon", kEpsilonIfAbsent),
                    config.boolean("mlp_bias").value_or(false)};
  const Mamba2Spec mamba = read_mamba(config, model.hidden);
  const AttentionSpec attention = read_attention(config, model.hidden);
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const std::string base = "backbone.layers." + std::to_string(i) + ".";
    const NormSpec norm{base + "norm", shape.hidden, shape.eps};
    LayerSpec layer;
    if (kinds[i] == Kind::kStateSpace) {
      layer.mixer = mamba2_layer(mamba, base + "mixer.", shape.hidden, shape.eps);
    } else if (kinds[i] == Kind::kAttention) {
      layer.mixer = attention_at(attention, base + "mixer.");
    } else {
      layer.mixer = NoMixerSpec{};
      layer.ff_pre_norm = norm;
      if (kinds[i] == Kind::kExperts) {
        layer.feed_forward = experts_at(config, base + "mixer.", shape);
      } else {
        layer.feed_forward = feed_forward(base + "mixer.", shape, dense_width(config));
      }
    }
    if (!layer.feed_forward) layer.pre_norm = norm;
    model.layers.push_back(std::move(layer));
  }
  model.final_norm = NormSpec{"backbone.norm_f", shape.hidden, shape.eps};
  model.head.linear = LinearSpec{"lm_head", model.vocabulary, model.hidden, false};
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  const Mamba2Spec mamba = read_mamba(source, model.hidden);
  const AttentionSpec attention = read_attention(source, model.hidden);
  complete_mamba2(config, source, mamba_keys(), mamba);
  for (const std::string_view key : {kOldGroups, kOldTaps, kOldConvBias, kOldLeastStep})
    config.as_object().erase(std::string(key));
  // The same flag under the name that stock readers look at.
  config["mamba_proj_bias"] = mamba.in.bias;
  config["time_step_min"] = least_step(source);
  config["time_step_limit"] =
      Json::Array{Json(least_step(source)), Json(std::numeric_limits<double>::infinity())};
  config["num_attention_heads"] = attention.n_heads;
  config["num_key_value_heads"] = attention.n_kv_heads;
  config["head_dim"] = attention.head_dim;
  config["attention_bias"] = false;
  config["mlp_bias"] = source.boolean("mlp_bias").value_or(false);
  config["intermediate_size"] = dense_width(source);
  config["max_position_embeddings"] = model.max_positions;
  config["mlp_hidden_act"] = "relu2";
  config["mamba_hidden_act"] = "silu";
  if (source.find("layer_norm_epsilon") == nullptr) config["layer_norm_epsilon"] = kEpsilonIfAbsent;
  Json::Array types;
  for (const Kind kind : layer_kinds(source))
    types.emplace_back(std::string(kKinds[static_cast<std::size_t>(kind)].names[0]));
  config["num_hidden_layers"] = static_cast<int64_t>(types.size());
  config["layers_block_type"] = types;
  config.as_object().erase("layer_types");  // its other name
  config["tie_word_embeddings"] = false;
  if (!has_experts(source)) return;
  const MoeSpec moe = experts_at(source, {}, {model.hidden, 0, false});
  config["n_routed_experts"] = moe.experts;
  config["num_experts_per_tok"] = moe.top_k;
  config["moe_intermediate_size"] = moe.up.out;
  config["moe_shared_expert_intermediate_size"] = shared_width(source);
  config["moe_latent_size"] = nullptr;
  if (const auto latent = latent_size(source)) config["moe_latent_size"] = *latent;
  config["n_shared_experts"] = 1;
  config["n_group"] = moe.groups;
  config["topk_group"] = moe.open_groups;
  config["norm_topk_prob"] = moe.renormalize;
  config["routed_scaling_factor"] = source.number("routed_scaling_factor").value_or(1.0);
}

}  // namespace

const Family kNemotronHFamily{"nemotron_h", spec, complete_config};

}  // namespace jang
