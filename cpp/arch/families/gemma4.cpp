// gemma4's text model, alone or inside the multimodal gemma4: gemma3's norms with plain gains, full
// layers with heads of their own size, the last layers reading keys and values of earlier ones, an
// input of each token for every layer, and, where the config enables them, experts beside the dense
// feed-forward. Written flat, as gemma4_text.
#include <algorithm>
#include <cmath>

#include "arch/families/families.h"
#include "arch/families/gemma_blocks.h"
#include "arch/families/layer_windows.h"
#include "arch/rope_config.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr std::string_view kActivation = "hidden_activation";
constexpr std::string_view kLogitCap = "final_logit_softcapping";
constexpr std::string_view kFull = "full_attention";
constexpr std::string_view kSliding = "sliding_attention";
constexpr std::string_view kShapes = "per_layer_config";
constexpr int64_t kPatternIfAbsent = 6;  // every sixth layer sees all positions
constexpr int64_t kWindowIfAbsent = 512;
constexpr int64_t kPositionsIfAbsent = 131072;
constexpr int64_t kVocabularyIfAbsent = 262144;
constexpr int64_t kHeadsIfAbsent = 8;
constexpr int64_t kKeyHeadsIfAbsent = 4;

/// Of a layer's keys.
struct Heads {
  int64_t dim = 0;
  int64_t kv = 0;
  bool operator==(const Heads&) const = default;
};

/// What depends on the type of a layer.
struct Layout {
  std::vector<bool> windowed;
  Heads sliding, full;
  int64_t window = 0;
  int64_t shared = 0;  // layers at the end that read keys of earlier ones
};

bool flag(const ModelConfig& config, std::string_view key) {
  return config.boolean(key).value_or(false);
}

/// A layer's heads by per_layer_config, which states what differs from the model's.
Heads heads_at(const ModelConfig& config, const Json& shapes, std::size_t layer, Heads heads) {
  const std::string number = std::to_string(layer);
  const Json* own = shapes.find(number);
  if (own == nullptr) return heads;
  const std::string owner = std::string(kShapes) + "." + number;
  if (!own->is_object()) config.fail(owner, "expected an object or null");
  for (const auto& [key, value] : own->as_object()) {
    int64_t* const part = key == "head_dim"              ? &heads.dim
                          : key == "num_key_value_heads" ? &heads.kv
                                                         : nullptr;
    if (part == nullptr) {
      throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
                  owner + "." + key.substr(0, 40) +
                      ": only head_dim and num_key_value_heads may differ between layers");
    }
    const int64_t high = key == "head_dim" ? ModelConfig::kMaxDim : ModelConfig::kMaxHeads;
    if (!value.get_integer(1, high, *part))
      config.fail(owner + "." + key, "expected an integer from 1 to " + std::to_string(high));
  }
  return heads;
}

/// The full layers' heads; windowed ones have those of the model.
Heads full_heads(const ModelConfig& config, const std::vector<bool>& windowed,
                 const Heads& sliding) {
  const Json* shapes = config.find(kShapes);
  if (shapes == nullptr) {
    Heads full{config.integer("global_head_dim", 1, ModelConfig::kMaxDim).value_or(512),
               sliding.kv};
    const auto kv = config.integer("num_global_key_value_heads", 1, ModelConfig::kMaxHeads);
    if (kv && flag(config, "attention_k_eq_v")) full.kv = *kv;
    return full;
  }
  if (!shapes->is_object()) config.fail(kShapes, "expected an object of layers");
  const Heads full = heads_at(config, *shapes, windowed.size() - 1, sliding);
  for (std::size_t i = 0; i < windowed.size(); ++i) {
    if (heads_at(config, *shapes, i, sliding) == (windowed[i] ? sliding : full)) continue;
    throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
                std::string(kShapes) + "." + std::to_string(i) +
                    ": only layers of full attention may differ, and those all alike");
  }
  return full;
}

void check_full_heads(const ModelConfig& config, const Heads& heads) {
  const int64_t queries =
      config.integer("num_attention_heads", 1, ModelConfig::kMaxHeads).value_or(kHeadsIfAbsent);
  if (heads.dim % 2 != 0) {
    config.fail("global_head_dim",
                "rotary positions need an even number, found " + std::to_string(heads.dim));
  }
  if (heads.dim > ModelConfig::kMaxDim / queries)
    config.fail("global_head_dim", "num_attention_heads * global_head_dim is above 2^24");
  if (queries % heads.kv != 0) {
    config.fail("num_global_key_value_heads", std::to_string(heads.kv) + " does not divide the " +
                                                  std::to_string(queries) + " attention heads");
  }
}

Layout layout_of(const ModelConfig& config) {
  Layout layout;
  const int64_t layers = config.required_integer("num_hidden_layers", 1, ModelConfig::kMaxLayers);
  layout.windowed =
      windowed_layers(config, layers, [](int64_t i) { return (i + 1) % kPatternIfAbsent != 0; });
  layout.windowed.back() = false;  // whatever a list says
  layout.sliding = {
      config.integer("head_dim", 1, ModelConfig::kMaxDim).value_or(256),
      config.integer("num_key_value_heads", 1, ModelConfig::kMaxHeads).value_or(kKeyHeadsIfAbsent)};
  layout.full = full_heads(config, layout.windowed, layout.sliding);
  check_full_heads(config, layout.full);
  const int64_t absent = config.contains("sliding_window") ? 0 : kWindowIfAbsent;
  layout.window = window_size(config).value_or(absent);
  layout.shared = config.integer("num_kv_shared_layers", 0, layers - 1).value_or(0);
  return layout;
}

RopeSpec rope_of(const ModelConfig& config, std::string_view type, const Heads& heads,
                 double theta) {
  // No key beside the dictionary states a theta.
  RopeSpec rope =
      read_layer_rope(config, type, "", false, heads.dim, theta, kPositionsIfAbsent, true);
  const Json* all = config.find("rope_parameters");
  if (all != nullptr && !all->as_object().empty()) {
    if (all->find(type) == nullptr) config.fail("rope_parameters." + std::string(type), "missing");
  } else if (type == kFull) {
    rope.type = RopeType::kProportional;
    rope.turning = heads.dim / 8;  // a quarter of the channels
  }
  return rope;
}

LlamaTraits traits_of(const ModelConfig& config, const Layout& layout) {
  LlamaTraits traits = gemma_traits(config, "gemma4_text", kActivation, "vision");
  traits.norm_kind = NormKind::kRms;
  traits.branch_norms = BranchNorms::kPreAndPost;
  traits.qk_norm = QkNorm::kPerHead;
  traits.scale = 1.0;
  traits.default_positions = kPositionsIfAbsent;
  traits.default_heads = kHeadsIfAbsent;
  traits.default_kv_heads = kKeyHeadsIfAbsent;
  traits.default_vocabulary = kVocabularyIfAbsent;
  traits.ropes = {rope_of(config, kFull, layout.full, 1e6),
                  rope_of(config, kSliding, layout.sliding, 1e4)};
  return traits;
}

void set_heads(AttentionSpec& mixer, const Heads& heads, bool keys_as_values) {
  mixer.head_dim = heads.dim;
  mixer.n_kv_heads = heads.kv;
  mixer.q.out = mixer.o.in = mixer.n_heads * heads.dim;
  mixer.k.out = mixer.v.out = heads.kv * heads.dim;
  mixer.q_norm->size = mixer.k_norm->size = heads.dim;
  mixer.v_norm = NormSpec{{}, heads.dim, mixer.k_norm->eps};
  mixer.keys_as_values = keys_as_values;
  if (keys_as_values) mixer.v.path.clear();
}

/// The last layer before `first` of the same type, whose keys layer `layer` reads.
int64_t owner_of(const ModelConfig& config, const Layout& layout, std::size_t layer,
                 std::size_t first) {
  for (std::size_t i = first; i-- > 0;) {
    if (layout.windowed[i] == layout.windowed[layer]) return static_cast<int64_t>(i);
  }
  config.fail("num_kv_shared_layers",
              "expected a layer of " + std::string(layout.windowed[layer] ? kSliding : kFull) +
                  " among the first " + std::to_string(first) + ", whose keys layer " +
                  std::to_string(layer) + " could read, found none");
}

void share_keys(AttentionSpec& mixer, int64_t owner) {
  mixer.shared_layer = owner;
  mixer.keys_as_values = false;
  mixer.k.path.clear();
  mixer.v.path.clear();
  mixer.k_norm.reset();
  mixer.v_norm.reset();
}

void widen(GatedMlpSpec& mlp) {
  mlp.gate.out *= 2;
  mlp.up.out *= 2;
  mlp.down.in *= 2;
}

/// Experts and the dense feed-forward side by side, each between norms of its own.
MoeSpec routed_block(const ModelConfig& config, const std::string& base, const GatedMlpSpec& mlp,
                     const NormSpec& norm) {
  const int64_t hidden = mlp.gate.in;
  const auto named = [&](const char* name) {
    NormSpec spec = norm;
    spec.path = base + name;
    return spec;
  };
  MoeSpec moe;
  moe.experts = config.required_integer("num_experts", 1, ModelConfig::kMaxExperts);
  moe.top_k = config.required_integer("top_k_experts", 1, moe.experts);
  const int64_t width = config.required_integer("moe_intermediate_size", 1, ModelConfig::kMaxDim);
  const auto stack = [&](const char* name, int64_t out, int64_t in) {
    return StackSpec{base + "experts.switch_glu." + name, moe.experts, out, in};
  };
  moe.router = LinearSpec{base + "router.proj", moe.experts, hidden, false};
  moe.gate = stack("gate_proj", width, hidden);
  moe.up = stack("up_proj", width, hidden);
  moe.down = stack("down_proj", hidden, width);
  moe.renormalize = true;
  moe.activation = mlp.activation;
  moe.router_norm = named("router.scale");
  moe.router_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(hidden)));
  moe.expert_scale = base + "router.per_expert_scale";
  moe.pre_norm = named("pre_feedforward_layernorm_2");
  moe.post_norm = named("post_feedforward_layernorm_2");
  moe.shared = SharedExpertSpec{mlp, std::nullopt, named("pre_feedforward_layernorm"),
                                named("post_feedforward_layernorm_1")};
  return moe;
}

/// Channels of a layer's own input; 0: there is none.
int64_t input_size(const ModelConfig& config) {
  constexpr std::string_view kKey = "hidden_size_per_layer_input";
  const int64_t absent = config.contains(kKey) ? 0 : 256;
  return config.integer(kKey, 0, ModelConfig::kMaxDim).value_or(absent);
}

int64_t input_rows(const ModelConfig& config) {
  return config.integer("vocab_size_per_layer_input", 1, ModelConfig::kMaxVocabulary)
      .value_or(kVocabularyIfAbsent);
}

void add_layer_inputs(const ModelConfig& config, ModelSpec& model, Activation activation) {
  const int64_t size = input_size(config), rows = input_rows(config);
  if (size == 0) return;
  const auto layers = static_cast<int64_t>(model.layers.size());
  if (size > ModelConfig::kMaxDim / layers) {
    config.fail("hidden_size_per_layer_input",
                "expected at most 2^24 channels of all layers together");
  }
  if (rows < model.vocabulary) {
    config.fail("vocab_size_per_layer_input", "expected a row for each of the " +
                                                  std::to_string(model.vocabulary) +
                                                  " tokens, found " + std::to_string(rows));
  }
  NormSpec norm = model.final_norm;
  LayerInputsSpec inputs;
  inputs.table = "model.embed_tokens_per_layer";
  inputs.rows = rows;
  inputs.size = size;
  inputs.projection = {"model.per_layer_model_projection", layers * size, model.hidden, false};
  inputs.projection_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(model.hidden)));
  inputs.table_scale = trained_root(config, size);
  norm.path = "model.per_layer_projection_norm";
  norm.size = size;
  inputs.norm = norm;
  model.layer_inputs = std::move(inputs);
  for (int64_t i = 0; i < layers; ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    norm = model.final_norm;
    norm.path = base + "post_per_layer_input_norm";
    model.layers[static_cast<std::size_t>(i)].layer_input =
        LayerInputBranchSpec{{base + "per_layer_input_gate", size, model.hidden, false},
                             {base + "per_layer_projection", model.hidden, size, false},
                             norm,
                             activation};
  }
}

ModelSpec spec(const ModelConfig& config) {
  const Layout layout = layout_of(config);
  const LlamaTraits traits = traits_of(config, layout);
  ModelSpec model = gemma_spec(config, traits);
  model.head.softcap = soft_cap(config, kLogitCap, 0.0f);
  const bool keys_as_values = flag(config, "attention_k_eq_v");
  const bool experts = flag(config, "enable_moe_block");
  const std::size_t first_shared = model.layers.size() - static_cast<std::size_t>(layout.shared);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    LayerSpec& layer = model.layers[i];
    const bool windowed = layout.windowed[i];
    auto& mixer = std::get<AttentionSpec>(layer.mixer);
    const Heads& heads = windowed ? layout.sliding : layout.full;
    set_heads(mixer, heads, keys_as_values && !windowed);
    mixer.window = windowed ? layout.window : 0;
    mixer.rope = windowed ? 1 : 0;
    auto mlp = std::get<GatedMlpSpec>(*layer.feed_forward);
    if (i >= first_shared) {
      share_keys(mixer, owner_of(config, layout, i, first_shared));
      if (flag(config, "use_double_wide_mlp")) widen(mlp);
    }
    const std::string base = "model.layers." + std::to_string(i) + ".";
    if (experts) {
      layer.feed_forward = routed_block(config, base, mlp, model.final_norm);
      layer.ff_pre_norm.reset();
    } else {
      layer.feed_forward = mlp;
    }
    layer.out_scale = base + "layer_scalar";
  }
  add_layer_inputs(config, model, traits.activation);
  return model;
}

Json rope_json(const ModelConfig& source, const RopeSpec& rope, std::string_view type) {
  const Json* all = source.find("rope_parameters");
  const Json* own = all == nullptr ? nullptr : all->find(type);
  Json out = own != nullptr ? *own : Json(Json::Object{});
  out["rope_theta"] = rope.theta;
  if (own == nullptr) {
    const bool proportional = rope.type == RopeType::kProportional;
    out["rope_type"] = proportional ? "proportional" : "default";
    if (proportional) out["partial_rotary_factor"] = 0.25;
  }
  return out;
}

void complete_config(Json& config, const ModelConfig& source) {
  const Layout layout = layout_of(source);
  const LlamaTraits traits = traits_of(source, layout);
  const ModelSpec model = spec(source);
  if (source.root().find("text_config") != nullptr)
    config = flat_text_config(source, "gemma4_text", "Gemma4ForCausalLM");
  complete_gemma_config(config, source, traits, model, kActivation);
  config.as_object().erase("query_pre_attn_scalar");
  config["head_dim"] = layout.sliding.dim;
  config["num_key_value_heads"] = layout.sliding.kv;
  config["global_head_dim"] = layout.full.dim;
  config["num_global_key_value_heads"] = layout.full.kv;
  config["num_kv_shared_layers"] = layout.shared;
  for (const std::string_view key : {"attention_k_eq_v", "enable_moe_block", "use_double_wide_mlp"})
    config[key] = flag(source, key);
  config["hidden_size_per_layer_input"] = input_size(source);
  config["vocab_size_per_layer_input"] = input_rows(source);
  write_soft_cap(config, kLogitCap, model.head.softcap);
  write_window(config, layout.window);
  config["rope_parameters"] = Json(Json::Object{});
  config["rope_parameters"][kFull] = rope_json(source, model.ropes[0], kFull);
  config["rope_parameters"][kSliding] = rope_json(source, model.ropes[1], kSliding);
  Json::Array types;
  for (const bool sliding : layout.windowed) types.emplace_back(sliding ? kSliding : kFull);
  config["layer_types"] = types;
}

}  // namespace

const Family kGemma4TextFamily{"gemma4_text", spec, complete_config, "gemma4"};

}  // namespace jang
