// deepseek_v3 and deepseek_v2: multi-head latent attention, and from first_k_dense_replace on a
// routed block. They differ in how experts are chosen, in defaults, and in how written directories
// hold the matrices between the latent and the heads: the third generation as stacks, the second as
// one matrix.
#include <cmath>

#include "arch/families/families.h"
#include "arch/families/grouped_moe.h"
#include "arch/families/llama_blocks.h"
#include "arch/rope_config.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr float kLatentEpsilon = 1e-6f;  // of the norms of low-rank outputs, whatever the config
constexpr double kEpsilonIfAbsent = 1e-6;

struct Generation {
  std::string_view model_type;
  bool third = true;
  int64_t q_rank = 1536, rank = 512, plain_dim = 128, rotary_dim = 64, value_dim = 128;
  int64_t positions = 4096;
};

constexpr Generation kThird{"deepseek_v3"};
constexpr Generation kSecond{"deepseek_v2", false, 1536, 512, 128, 64, 128, 2048};

RopeRules rope_rules(const ModelConfig& config, const Generation& generation) {
  RopeRules rules;
  rules.positions = generation.positions;
  rules.interleaved = !generation.third || config.boolean("rope_interleave").value_or(true);
  return rules;
}

GroupedMoeTraits experts_of(const ModelConfig& config, const Generation& generation) {
  GroupedMoeTraits traits;
  if (generation.third) {
    traits.experts = 256;
    traits.top_k = 8;
    traits.width = 2048;
    traits.dense_layers = 3;
    traits.groups = 8;
    traits.open_groups = 4;
    traits.weight_scale = 2.5;
    return traits;
  }
  traits.rule = RouterRule::kSoftmaxThenTopK;
  traits.correction = false;
  traits.mlp_bias = config.boolean("mlp_bias").value_or(false);
  traits.experts = 64;
  traits.width = 1407;
  traits.shared = 2;
  traits.reads_renormalize = false;
  const std::string method = config.string("topk_method").value_or("greedy");
  if (method != "greedy" && method != "group_limited_greedy") {
    throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
                "topk_method: \"" + method.substr(0, 40) +
                    "\" is not supported in a deepseek_v2 model; supported: greedy, "
                    "group_limited_greedy");
  }
  traits.grouped = method == "group_limited_greedy";
  return traits;
}

class DeepseekBuilder {
 public:
  DeepseekBuilder(const ModelConfig& config, const Generation& generation)
      : config_(config),
        generation_(generation),
        hidden_(config.required_integer("hidden_size", 1, ModelConfig::kMaxDim)),
        eps_(norm_epsilon(config, "rms_norm_eps", kEpsilonIfAbsent)),
        bias_(config.boolean("attention_bias").value_or(false)) {
    require("hidden_act", "silu");
    if (generation.third) require("scoring_func", "sigmoid");
  }

  ModelSpec build() {
    ModelSpec spec;
    spec.model_type = generation_.model_type;
    spec.hidden = hidden_;
    spec.vocabulary = config_.required_integer("vocab_size", 1, ModelConfig::kMaxVocabulary);
    spec.max_positions = config_.integer("max_position_embeddings", 1, int64_t{1} << 40)
                             .value_or(generation_.positions);
    spec.embedding.path = "model.embed_tokens";
    const LatentAttentionSpec shape = attention_shape();
    spec.ropes.push_back(read_rope(config_, shape.rotary_dim, rope_rules(config_, generation_)));
    const GroupedMoeTraits experts = experts_of(config_, generation_);
    const int64_t first = first_routed_layer(config_, experts);
    const int64_t layers =
        config_.required_integer("num_hidden_layers", 1, ModelConfig::kMaxLayers);
    for (int64_t i = 0; i < layers; ++i) {
      const std::string base = "model.layers." + std::to_string(i) + ".";
      LayerSpec layer;
      layer.pre_norm = norm(base + "input_layernorm", hidden_, eps_);
      layer.mixer = attention(shape, base + "self_attn.", spec.ropes.front());
      layer.ff_pre_norm = norm(base + "post_attention_layernorm", hidden_, eps_);
      if (i < first) {
        layer.feed_forward = mlp(base + "mlp.", experts.mlp_bias);
      } else {
        layer.feed_forward = grouped_moe(config_, base + "mlp.", hidden_, experts);
      }
      spec.layers.push_back(std::move(layer));
    }
    spec.final_norm = norm("model.norm", hidden_, eps_);
    spec.head.tied = config_.tied_embeddings();
    spec.head.linear = linear("lm_head", spec.vocabulary, hidden_);
    return spec;
  }

 private:
  void require(std::string_view key, std::string_view only) const {
    const std::string found = config_.string(key).value_or(std::string(only));
    if (found == only || (only == "silu" && found == "swish")) return;
    throw Error(ErrorCode::kUnsupportedModel, config_.file(), {},
                std::string(key) + ": \"" + found.substr(0, 40) + "\" is not supported in a " +
                    config_.model_type() + " model; supported: " + std::string(only));
  }
  static NormSpec norm(std::string path, int64_t size, float eps) {
    return {std::move(path), size, eps, NormKind::kRms};
  }
  static LinearSpec linear(std::string path, int64_t out, int64_t in, bool bias = false) {
    return {std::move(path), out, in, bias};
  }

  LatentAttentionSpec attention_shape() const {
    const auto read = [&](const char* key, int64_t fallback) {
      return config_.integer(key, 1, ModelConfig::kMaxDim).value_or(fallback);
    };
    LatentAttentionSpec spec;
    spec.heads = config_.required_integer("num_attention_heads", 1, ModelConfig::kMaxHeads);
    spec.rank = read("kv_lora_rank", generation_.rank);
    spec.plain_dim = read("qk_nope_head_dim", generation_.plain_dim);
    spec.rotary_dim = read("qk_rope_head_dim", generation_.rotary_dim);
    spec.value_dim = read("v_head_dim", generation_.value_dim);
    if (spec.rotary_dim % 2 != 0) {
      config_.fail("qk_rope_head_dim", "rotary positions need an even number, found " +
                                           std::to_string(spec.rotary_dim));
    }
    const int64_t most = ModelConfig::kMaxDim / spec.heads;
    const auto limit = [&](const char* key, int64_t value) {
      if (value > most) config_.fail(key, "num_attention_heads heads of it are above 2^24");
    };
    limit("kv_lora_rank", spec.key_dim());
    limit("qk_nope_head_dim", spec.query_dim());
    limit("v_head_dim", spec.plain_dim + spec.value_dim);
    return spec;
  }

  /// Rank of the queries; 0 where they are of full rank, as null says.
  int64_t query_rank() const {
    const bool stated = config_.contains("q_lora_rank");
    const auto rank = config_.integer("q_lora_rank", 1, ModelConfig::kMaxDim);
    return rank.value_or(stated ? 0 : generation_.q_rank);
  }

  LatentAttentionSpec attention(LatentAttentionSpec spec, const std::string& base,
                                const RopeSpec& rope) const {
    const int64_t q_rows = spec.heads * spec.query_dim();
    const int64_t q_rank = query_rank();
    if (q_rank != 0) {
      spec.q_a = linear(base + "q_a_proj", q_rank, hidden_, bias_);
      spec.q_norm = norm(base + "q_a_layernorm", q_rank, kLatentEpsilon);
      spec.q = linear(base + "q_b_proj", q_rows, q_rank);
    } else {
      spec.q = linear(base + "q_proj", q_rows, hidden_);
    }
    spec.kv_a = linear(base + "kv_a_proj_with_mqa", spec.key_dim(), hidden_, bias_);
    spec.kv_norm = norm(base + "kv_a_layernorm", spec.rank, kLatentEpsilon);
    if (generation_.third) {
      spec.embed_q = {base + "embed_q", spec.heads, spec.rank, spec.plain_dim};
      spec.unembed_out = {base + "unembed_out", spec.heads, spec.value_dim, spec.rank};
    } else {
      spec.kv_b =
          linear(base + "kv_b_proj", spec.heads * (spec.plain_dim + spec.value_dim), spec.rank);
    }
    spec.o = linear(base + "o_proj", hidden_, spec.heads * spec.value_dim, bias_);
    spec.scale = static_cast<float>(score_scale(config_, rope) /
                                    std::sqrt(static_cast<double>(spec.query_dim())));
    return spec;
  }

  GatedMlpSpec mlp(const std::string& base, bool bias) const {
    const int64_t width = config_.required_integer("intermediate_size", 1, ModelConfig::kMaxDim);
    return {linear(base + "gate_proj", width, hidden_, bias),
            linear(base + "up_proj", width, hidden_, bias),
            linear(base + "down_proj", hidden_, width, bias), Activation::kSilu};
  }

  const ModelConfig& config_;
  const Generation& generation_;
  const int64_t hidden_;
  const float eps_;
  const bool bias_;
};

void complete(Json& config, const ModelConfig& source, const Generation& generation) {
  const ModelSpec spec = DeepseekBuilder(source, generation).build();
  const auto& mixer = std::get<LatentAttentionSpec>(spec.layers.front().mixer);
  config["q_lora_rank"] = nullptr;
  if (mixer.q_a) config["q_lora_rank"] = mixer.q_a->out;
  config["kv_lora_rank"] = mixer.rank;
  config["qk_nope_head_dim"] = mixer.plain_dim;
  config["qk_rope_head_dim"] = mixer.rotary_dim;
  config["v_head_dim"] = mixer.value_dim;
  config["num_key_value_heads"] = mixer.heads;
  config["attention_bias"] = mixer.kv_a.bias;
  config["max_position_embeddings"] = spec.max_positions;
  config["hidden_act"] = "silu";
  if (source.find("rms_norm_eps") == nullptr) config["rms_norm_eps"] = kEpsilonIfAbsent;
  complete_grouped_moe(config, source, experts_of(source, generation));
  const RopeSpec& rope = spec.ropes.front();
  write_rope(config, source, rope);
  if (generation.third) {
    config["rope_interleave"] = rope.interleaved;
    return;
  }
  config["topk_method"] = source.string("topk_method").value_or("greedy");
  if (rope.type != RopeType::kDefault) return;
  // Stock knows no model of this type without yarn, which this turns off.
  Json& scaling = config["rope_scaling"];
  scaling = Json::Object{};
  scaling["type"] = "yarn";
  scaling["rope_type"] = "yarn";
  scaling["factor"] = 1.0;
}

ModelSpec third_spec(const ModelConfig& config) { return DeepseekBuilder(config, kThird).build(); }
ModelSpec second_spec(const ModelConfig& config) {
  return DeepseekBuilder(config, kSecond).build();
}
void complete_third(Json& config, const ModelConfig& source) { complete(config, source, kThird); }
void complete_second(Json& config, const ModelConfig& source) { complete(config, source, kSecond); }

}  // namespace

const Family kDeepseekV3Family{"deepseek_v3", third_spec, complete_third};
const Family kDeepseekV2Family{"deepseek_v2", second_spec, complete_second};

}  // namespace jang
