// Builds the spec of a llama-like model from its config, key by key.
#include "arch/families/llama_blocks.h"

#include <cmath>

#include "arch/rope_config.h"
#include "base/error.h"

namespace jang {
namespace {

struct Shape {
  int64_t hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0;
};

int64_t required_or(const ModelConfig& config, std::string_view key, int64_t fallback,
                    int64_t high) {
  if (fallback == 0) return config.required_integer(key, 1, high);
  return config.integer(key, 1, high).value_or(fallback);
}

Shape read_shape(const ModelConfig& config, const LlamaTraits& traits) {
  Shape shape;
  shape.hidden = config.required_integer("hidden_size", 1, ModelConfig::kMaxDim);
  shape.intermediate =
      required_or(config, "intermediate_size", traits.default_intermediate, ModelConfig::kMaxDim);
  shape.heads =
      required_or(config, "num_attention_heads", traits.default_heads, ModelConfig::kMaxHeads);
  // null means one key head per query head; absence says so only where it is the model's default.
  const bool present = config.contains("num_key_value_heads");
  auto kv_heads = config.integer("num_key_value_heads", 1, ModelConfig::kMaxHeads);
  if (!present && traits.default_kv_heads != 0) kv_heads = traits.default_kv_heads;
  if (!present && !kv_heads && !traits.kv_heads_may_be_absent) {
    config.fail("num_key_value_heads", "missing");
  }
  shape.kv_heads = kv_heads.value_or(shape.heads);
  if (shape.heads % shape.kv_heads != 0) {
    config.fail("num_key_value_heads", std::to_string(shape.kv_heads) + " does not divide the " +
                                           std::to_string(shape.heads) + " attention heads");
  }
  auto head_dim = config.integer("head_dim", 1, ModelConfig::kMaxDim);
  if (!head_dim && traits.default_head_dim != 0) head_dim = traits.default_head_dim;
  // As transformers: what the division leaves over belongs to no head.
  if (!head_dim && shape.hidden < shape.heads) {
    config.fail("hidden_size", std::to_string(shape.hidden) + " is less than the " +
                                   std::to_string(shape.heads) +
                                   " attention heads, and no head_dim is given");
  }
  shape.head_dim = head_dim.value_or(shape.hidden / shape.heads);
  if (shape.head_dim > ModelConfig::kMaxDim / shape.heads) {
    config.fail("head_dim", "num_attention_heads * head_dim is above 2^24");
  }
  return shape;
}

void require_silu(const ModelConfig& config) {
  const std::string act = config.string("hidden_act").value_or("silu");
  if (act == "silu" || act == "swish") return;
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
              "hidden_act: \"" + act.substr(0, 40) + "\" is not supported in a " +
                  config.model_type() + " model; supported: silu");
}

/// Names the norms of a layer by the place they have in it.
void set_norms(LayerSpec& layer, BranchNorms norms, const std::string& base,
               const NormSpec& shape) {
  const auto norm = [&](const char* name) {
    NormSpec spec = shape;
    spec.path = base + name;
    return spec;
  };
  if (norms == BranchNorms::kPost) {
    layer.post_norm = norm("post_attention_layernorm");
    layer.ff_post_norm = norm("post_feedforward_layernorm");
    return;
  }
  layer.pre_norm = norm("input_layernorm");
  if (norms == BranchNorms::kPre) {
    layer.ff_pre_norm = norm("post_attention_layernorm");
    return;
  }
  layer.post_norm = norm("post_attention_layernorm");
  layer.ff_pre_norm = norm("pre_feedforward_layernorm");
  layer.ff_post_norm = norm("post_feedforward_layernorm");
}

}  // namespace

float norm_epsilon(const ModelConfig& config, std::string_view key, double fallback) {
  const double eps = config.number(key).value_or(fallback);
  if (!std::isfinite(eps) || eps < 0 || eps > 1) config.fail(key, "expected a number from 0 to 1");
  return static_cast<float>(eps);
}

ModelSpec llama_spec(const ModelConfig& config, const LlamaTraits& traits) {
  if (!traits.own_activation && traits.activation == Activation::kSilu) require_silu(config);
  const Shape shape = read_shape(config, traits);
  const float eps = norm_epsilon(config, traits.eps_key, traits.default_eps);
  ModelSpec spec;
  spec.model_type = traits.model_type;
  spec.hidden = shape.hidden;
  spec.vocabulary =
      required_or(config, "vocab_size", traits.default_vocabulary, ModelConfig::kMaxVocabulary);
  spec.max_positions = config.integer("max_position_embeddings", 1, int64_t{1} << 40)
                           .value_or(traits.default_positions);
  spec.embedding.path = "model.embed_tokens";
  spec.ropes = traits.ropes;
  if (spec.ropes.empty()) {
    RopeRules rules = traits.rope;
    rules.theta = traits.default_theta;
    rules.positions = traits.default_positions;
    spec.ropes.push_back(read_rope(config, shape.head_dim, rules));
  }
  const NormSpec norm{{}, shape.hidden, eps, traits.norm_kind};
  const int64_t layers = config.required_integer("num_hidden_layers", 1, ModelConfig::kMaxLayers);
  spec.layers.reserve(static_cast<std::size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    const auto attention = [&](const char* name, int64_t out, int64_t in) {
      return LinearSpec{base + "self_attn." + name, out, in, traits.attention_bias};
    };
    const auto mlp = [&](const char* name, int64_t out, int64_t in) {
      return LinearSpec{base + "mlp." + name, out, in, traits.mlp_bias};
    };
    const int64_t q_rows = shape.heads * shape.head_dim;
    const int64_t kv_rows = shape.kv_heads * shape.head_dim;
    AttentionSpec mixer;
    mixer.q = attention("q_proj", q_rows, shape.hidden);
    mixer.k = attention("k_proj", kv_rows, shape.hidden);
    mixer.v = attention("v_proj", kv_rows, shape.hidden);
    mixer.o = attention("o_proj", shape.hidden, q_rows);
    mixer.n_heads = shape.heads;
    mixer.n_kv_heads = shape.kv_heads;
    mixer.head_dim = shape.head_dim;
    if (traits.qkv_bias) mixer.q.bias = mixer.k.bias = mixer.v.bias = true;
    mixer.scale = static_cast<float>(
        traits.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.head_dim))));
    mixer.window = traits.window;
    if (traits.qk_norm != QkNorm::kNone) {
      const bool across = traits.qk_norm == QkNorm::kAcross;
      const auto head_norm = [&](const char* name, int64_t heads) {
        return NormSpec{base + "self_attn." + name,
                        across ? heads * shape.head_dim : shape.head_dim, eps, traits.norm_kind};
      };
      mixer.q_norm = head_norm("q_norm", shape.heads);
      mixer.k_norm = head_norm("k_norm", shape.kv_heads);
    }

    LayerSpec layer;
    set_norms(layer, traits.branch_norms, base, norm);
    layer.mixer = mixer;
    layer.feed_forward =
        GatedMlpSpec{mlp("gate_proj", shape.intermediate, shape.hidden),
                     mlp("up_proj", shape.intermediate, shape.hidden),
                     mlp("down_proj", shape.hidden, shape.intermediate), traits.activation};
    spec.layers.push_back(std::move(layer));
  }
  spec.final_norm = norm;
  spec.final_norm.path = "model.norm";
  spec.head.tied = config.tied_embeddings();
  spec.head.linear = LinearSpec{"lm_head", spec.vocabulary, spec.hidden, false};
  return spec;
}

std::optional<int64_t> window_size(const ModelConfig& config) {
  return config.integer("sliding_window", 1, int64_t{1} << 40);
}

void write_window(Json& config, int64_t window) {
  config["sliding_window"] = nullptr;
  if (window != 0) config["sliding_window"] = window;
}

int64_t expert_count(const ModelConfig& config, int64_t fallback) {
  const bool stated =
      config.find("num_experts") != nullptr || config.find("num_local_experts") != nullptr;
  return stated ? config.experts() : fallback;
}

int64_t sparse_step(const ModelConfig& config) {
  return config.integer("decoder_sparse_step", 1, ModelConfig::kMaxLayers).value_or(1);
}

std::set<int64_t> mlp_only_layers(const ModelConfig& config) {
  std::set<int64_t> layers;
  const Json* list = config.find("mlp_only_layers");
  if (list == nullptr) return layers;
  if (!list->is_array()) config.fail("mlp_only_layers", "expected a list of layers or null");
  for (const Json& entry : list->as_array()) {
    int64_t layer = 0;
    if (!entry.get_integer(0, ModelConfig::kMaxLayers, layer)) {
      config.fail("mlp_only_layers",
                  "expected layer numbers from 0 to " + std::to_string(ModelConfig::kMaxLayers));
    }
    layers.insert(layer);
  }
  return layers;
}

MoeSpec moe_block(const ModelConfig& config, int64_t layer, int64_t hidden,
                  const MoeTraits& traits) {
  const char* count_key =
      config.find("num_experts") != nullptr ? "num_experts" : "num_local_experts";
  if (traits.experts < 1) {
    config.fail(count_key, "expected at least 1 expert in a " + config.model_type() +
                               " model, found " + std::to_string(traits.experts));
  }
  if (traits.top_k > traits.experts) {
    config.fail("num_experts_per_tok", "expected at most the " + std::to_string(traits.experts) +
                                           " experts of " + count_key + ", found " +
                                           std::to_string(traits.top_k));
  }
  const std::string base =
      "model.layers." + std::to_string(layer) + "." + std::string(traits.block) + ".";
  const auto stack = [&](const char* name, int64_t out, int64_t in) {
    return StackSpec{base + std::string(traits.stacks) + "." + name, traits.experts, out, in,
                     traits.bias};
  };
  MoeSpec moe;
  moe.router = LinearSpec{base + std::string(traits.router), traits.experts, hidden, traits.bias};
  moe.gate = stack("gate_proj", traits.width, hidden);
  moe.up = stack("up_proj", traits.width, hidden);
  moe.down = stack("down_proj", hidden, traits.width);
  moe.experts = traits.experts;
  moe.top_k = traits.top_k;
  moe.renormalize = traits.renormalize;
  moe.rule = traits.rule;
  moe.jitter = traits.jitter;
  if (!traits.correction.empty()) moe.correction = base + std::string(traits.correction);
  return moe;
}

void complete_llama_config(Json& config, const ModelConfig& source, const LlamaTraits& traits,
                           const ModelSpec& spec) {
  const auto& mixer = std::get<AttentionSpec>(spec.layers.front().mixer);
  config["head_dim"] = mixer.head_dim;
  config["num_key_value_heads"] = mixer.n_kv_heads;
  config["attention_bias"] = mixer.q.bias;
  const auto* mlp = std::get_if<GatedMlpSpec>(&*spec.layers.front().feed_forward);
  config["mlp_bias"] = mlp != nullptr && mlp->gate.bias;
  config["max_position_embeddings"] = spec.max_positions;
  if (traits.activation == Activation::kSilu) config["hidden_act"] = "silu";
  if (source.find(traits.eps_key) == nullptr) config[traits.eps_key] = traits.default_eps;
  config["tie_word_embeddings"] = spec.head.tied;
  if (traits.ropes.empty()) {
    write_rope(config, source, spec.ropes.front());
    if (traits.rope.partial) write_partial_rotary(config, source, traits.rope);
  }
}

}  // namespace jang
