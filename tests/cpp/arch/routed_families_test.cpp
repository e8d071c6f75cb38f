// qwen2_moe, olmoe, granitemoe and phimoe: keys, defaults and refusals, names of either writer,
// what written configs mean, and biases that only written models have.
#include <gtest/gtest.h>

#include <algorithm>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/inventory.h"
#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr const char* kTypes[] = {"qwen2_moe", "olmoe", "granitemoe", "phimoe"};

/// `more` may repeat keys of the plain model, which it then replaces.
ModelConfig config(const std::string& type, const std::string& more = {}) {
  JsonLimits limits;
  limits.non_finite = true;
  const Json text = parse_json("{" + more + "}", "config.json", ErrorCode::kConfigSyntax, limits);
  Json all = parse_json(R"({"hidden_size": 160, "intermediate_size": 96, "num_attention_heads": 5,
      "num_key_value_heads": 1, "vocab_size": 331, "num_hidden_layers": 6,
      "moe_intermediate_size": 64, "shared_expert_intermediate_size": 128, "num_experts": 8,
      "num_experts_per_tok": 2})",
                        "config.json", ErrorCode::kConfigSyntax, {});
  for (const auto& [key, value] : text.as_object()) all[key] = value;
  all["model_type"] = type;
  return ModelConfig::parse(dump_json(all), "config.json");
}

ModelSpec spec(const std::string& type, const std::string& more = {}) {
  const ModelConfig parsed = config(type, more);
  return require_family(parsed).spec(parsed);
}

const AttentionSpec& attention(const ModelSpec& model, std::size_t layer = 0) {
  return std::get<AttentionSpec>(model.layers[layer].mixer);
}

const MoeSpec& moe(const ModelSpec& model, std::size_t layer = 0) {
  return std::get<MoeSpec>(*model.layers[layer].feed_forward);
}

bool routed(const ModelSpec& model, std::size_t layer) {
  return std::holds_alternative<MoeSpec>(*model.layers[layer].feed_forward);
}

std::string windows(const ModelSpec& model) {
  std::string text;
  for (std::size_t i = 0; i < model.layers.size(); ++i)
    text += attention(model, i).window != 0 ? 'w' : '-';
  return text;
}

/// The error's code; its text is one line that names each of `words`.
ErrorCode refusal(const std::string& type, const std::string& more,
                  std::initializer_list<const char*> words) {
  try {
    spec(type, more);
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    for (const char* word : words) EXPECT_NE(what.find(word), std::string::npos) << what;
    return error.code();
  }
  ADD_FAILURE() << type << " accepted: " << more;
  return ErrorCode::kIo;
}

TEST(Qwen2Moe, Keys) {
  const ModelSpec plain = spec("qwen2_moe");
  EXPECT_TRUE(attention(plain).q.bias && attention(plain).k.bias && attention(plain).v.bias);
  EXPECT_FALSE(attention(plain).o.bias);
  EXPECT_FALSE(attention(spec("qwen2_moe", R"("qkv_bias": false)")).q.bias);
  EXPECT_EQ(moe(plain).rule, RouterRule::kSoftmaxThenTopK);
  EXPECT_FALSE(moe(plain).renormalize);
  EXPECT_EQ(moe(plain).gate.out, 64);
  EXPECT_EQ(moe(plain).router.path, "model.layers.0.mlp.gate");
  ASSERT_TRUE(moe(plain).shared && moe(plain).shared->gate);
  EXPECT_EQ(moe(plain).shared->mlp.down.path, "model.layers.0.mlp.shared_expert.down_proj");
  EXPECT_EQ(moe(plain).shared->mlp.down.in, 128);
  EXPECT_EQ(moe(plain).shared->gate->path, "model.layers.0.mlp.shared_expert_gate");
  EXPECT_EQ(moe(plain).shared->gate->out, 1);
  EXPECT_TRUE(moe(spec("qwen2_moe", R"("norm_topk_prob": true)")).renormalize);
  const ModelSpec some = spec("qwen2_moe", R"("decoder_sparse_step": 2, "mlp_only_layers": [3])");
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(routed(some, i), i == 1 || i == 5) << i;
  EXPECT_EQ(std::get<GatedMlpSpec>(*some.layers[0].feed_forward).up.out, 96);
  const ModelSpec defaults = spec("qwen2_moe", R"("num_experts": null, "num_experts_per_tok": null,
      "moe_intermediate_size": null, "shared_expert_intermediate_size": null)");
  EXPECT_EQ(moe(defaults).experts, 60);
  EXPECT_EQ(moe(defaults).top_k, 4);
  EXPECT_EQ(moe(defaults).gate.out, 1408);
  EXPECT_EQ(moe(defaults).shared->mlp.up.out, 5632);
}

TEST(Qwen2Moe, Windows) {
  const std::string on = R"("use_sliding_window": true)";
  EXPECT_EQ(windows(spec("qwen2_moe", R"("sliding_window": 8)")), "------");
  EXPECT_EQ(windows(spec("qwen2_moe", on)), "w-w-w-");  // below 28, every second
  EXPECT_EQ(attention(spec("qwen2_moe", on)).window, 4096);
  EXPECT_EQ(windows(spec("qwen2_moe", on + R"(, "max_window_layers": 3)")), "w-w---");
  EXPECT_EQ(windows(spec("qwen2_moe", on + R"(, "max_window_layers": 0)")), "------");
  EXPECT_EQ(windows(spec("qwen2_moe", on + R"(, "sliding_window": null)")), "------");
  EXPECT_EQ(windows(spec("qwen2_moe", on + R"(, "layer_types": ["full_attention",
      "sliding_attention", "full_attention", "full_attention", "full_attention",
      "sliding_attention"])")),
            "-w---w");
  EXPECT_EQ(refusal("qwen2_moe", on + R"(, "layer_types": ["full_attention"])",
                    {"layer_types", "6 layers", "found 1"}),
            ErrorCode::kConfigValue);
}

TEST(Olmoe, Keys) {
  const ModelSpec plain = spec("olmoe", R"("num_key_value_heads": null)");
  EXPECT_EQ(attention(plain).n_kv_heads, 5);
  EXPECT_EQ(attention(plain).q_norm->size, 160);
  EXPECT_EQ(attention(plain).k_norm->size, 160);
  EXPECT_EQ(attention(spec("olmoe")).k_norm->size, 32);
  EXPECT_EQ(attention(plain).clip, 0.0f);
  EXPECT_EQ(moe(plain).gate.out, 96);  // intermediate_size
  EXPECT_FALSE(moe(plain).renormalize);
  EXPECT_FALSE(moe(plain).shared.has_value());
  EXPECT_TRUE(moe(spec("olmoe", R"("norm_topk_prob": true)")).renormalize);
  EXPECT_TRUE(attention(spec("olmoe", R"("attention_bias": true)")).o.bias);
  const ModelSpec clipped = spec("olmoe", R"("clip_qkv": 8)");
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(attention(clipped, i).clip, 8.0f);
  const ModelSpec defaults = spec("olmoe", R"("num_experts": null, "num_experts_per_tok": null)");
  EXPECT_EQ(moe(defaults).experts, 64);
  EXPECT_EQ(moe(defaults).top_k, 8);
  EXPECT_FLOAT_EQ(defaults.final_norm.eps, 1e-5f);
  EXPECT_EQ(spec("olmoe", R"("clip_qkv": null)"), spec("olmoe"));
  for (const char* bad : {"0", "-1", "Infinity", "NaN", "1e300", "\"8\"", "true"}) {
    EXPECT_EQ(refusal("olmoe", std::string("\"clip_qkv\": ") + bad, {"clip_qkv", "found"}),
              ErrorCode::kConfigValue)
        << bad;
  }
}

TEST(GraniteMoe, Keys) {
  const ModelSpec plain = spec("granitemoe");
  EXPECT_EQ(moe(plain).rule, RouterRule::kTopKThenSoftmax);
  EXPECT_EQ(moe(plain).router.path, "model.layers.0.block_sparse_moe.router.layer");
  EXPECT_EQ(moe(plain).up.path, "model.layers.0.block_sparse_moe.switch_mlp.up_proj");
  EXPECT_EQ(moe(plain).down.in, 96);
  EXPECT_EQ(attention(plain).scale, 1.0f);
  const ModelSpec scaled = spec("granitemoe", R"("attention_multiplier": 0.0625,
      "embedding_multiplier": 12, "logits_scaling": 8.0, "residual_multiplier": 0.22)");
  EXPECT_EQ(attention(scaled, 5).scale, 0.0625f);
  EXPECT_EQ(scaled.embedding.scale, 12.0f);
  EXPECT_EQ(scaled.head.multiplier, 0.125f);
  for (const LayerSpec& layer : scaled.layers) EXPECT_EQ(layer.residual, 0.22f);
  const ModelSpec defaults =
      spec("granitemoe", R"("num_experts": null, "num_experts_per_tok": null)");
  EXPECT_EQ(moe(defaults).experts, 8);
  EXPECT_EQ(moe(defaults).top_k, 2);
  for (const char* value : {"0", "-2", "NaN", "\"1\""}) {
    EXPECT_EQ(refusal("granitemoe", std::string("\"residual_multiplier\": ") + value,
                      {"residual_multiplier", "expected"}),
              ErrorCode::kConfigValue);
  }
}

constexpr const char* kFactors =
    R"("short_factor": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "long_factor": [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])";

std::string longrope(const std::string& more) {
  return std::string(R"("rope_scaling": {"type": "longrope", )") + kFactors + more + "}";
}

TEST(PhiMoe, Keys) {
  const ModelSpec plain = spec("phimoe");
  EXPECT_EQ(moe(plain).rule, RouterRule::kSparseMixer);
  EXPECT_FLOAT_EQ(moe(plain).jitter, 0.01f);
  EXPECT_FLOAT_EQ(moe(spec("phimoe", R"("router_jitter_noise": 0.25)")).jitter, 0.25f);
  EXPECT_EQ(moe(plain).router.path, "model.layers.0.block_sparse_moe.gate");
  EXPECT_EQ(plain.layers[0].pre_norm->kind, NormKind::kLayer);
  EXPECT_TRUE(plain.layers[5].ff_pre_norm->bias && plain.final_norm.bias);
  EXPECT_FALSE(attention(plain).q.bias || plain.head.linear.bias);
  const ModelSpec biased = spec("phimoe", R"("attention_bias": true, "lm_head_bias": true)");
  EXPECT_TRUE(attention(biased).q.bias && attention(biased).o.bias && biased.head.linear.bias);
  EXPECT_DOUBLE_EQ(plain.ropes[0].theta, 1e6);
  EXPECT_FLOAT_EQ(plain.final_norm.eps, 1e-5f);
  EXPECT_EQ(windows(plain), "------");
  EXPECT_EQ(windows(spec("phimoe", R"("sliding_window": 8)")), "wwwwww");
  EXPECT_EQ(moe(spec("phimoe", R"("num_experts": null)")).experts, 16);
  for (const char* bad : {"-0.1", "1.5", "NaN", "\"0.01\""}) {
    EXPECT_EQ(refusal("phimoe", std::string("\"router_jitter_noise\": ") + bad,
                      {"router_jitter_noise", "expected", "found"}),
              ErrorCode::kConfigValue)
        << bad;
  }
  EXPECT_EQ(spec("phimoe", R"("num_experts_per_tok": 3)"), plain);
  EXPECT_EQ(refusal("phimoe", R"("num_experts": 1)", {"num_experts", "found 2"}),
            ErrorCode::kConfigValue);
}

TEST(PhiMoe, LongRopeStatesItsMagnitudes) {
  const std::string both = R"(, "short_mscale": 1.2, "long_mscale": 1.4)";
  const RopeSpec rope =
      spec("phimoe", longrope(both) + R"(, "original_max_position_embeddings": 4096)").ropes[0];
  EXPECT_EQ(rope.type, RopeType::kLongRope);
  EXPECT_EQ(rope.original_positions, 4096);
  EXPECT_DOUBLE_EQ(rope.magnitude, 1.2);
  EXPECT_DOUBLE_EQ(rope.long_magnitude, 1.4);
  EXPECT_EQ(refusal("phimoe", longrope(R"(, "short_mscale": 1.2)"),
                    {"rope_scaling.long_mscale", "missing"}),
            ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("phimoe", longrope(R"(, "short_mscale": 0, "long_mscale": 1)"),
                    {"rope_scaling.short_mscale", "above 0"}),
            ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("phimoe", R"("rope_scaling": {"type": "linear", "factor": 2})",
                    {"phimoe", "longrope"}),
            ErrorCode::kUnsupportedModel);
}

TEST(MiniMaxM2, Keys) {
  const ModelSpec plain = spec("minimax_m2");
  EXPECT_EQ(moe(plain).rule, RouterRule::kSigmoid);
  EXPECT_TRUE(moe(plain).renormalize);
  EXPECT_EQ(moe(plain).groups, 1);
  EXPECT_EQ(moe(plain).weight_scale, 1.0f);
  EXPECT_EQ(moe(plain).router.path, "model.layers.0.block_sparse_moe.gate");
  EXPECT_EQ(moe(plain).correction, "model.layers.0.block_sparse_moe.e_score_correction_bias");
  EXPECT_EQ(moe(plain).gate.out, 96);
  EXPECT_EQ(attention(plain).head_dim, 128);
  EXPECT_EQ(attention(plain).q_norm->size, 640);
  EXPECT_EQ(attention(plain).k_norm->size, 128);
  EXPECT_DOUBLE_EQ(plain.ropes[0].theta, 5e6);
  EXPECT_EQ(plain.ropes[0].rotated, 128);
  EXPECT_EQ(spec("minimax_m2", R"("rotary_dim": 64)").ropes[0].rotated, 64);
  EXPECT_EQ(spec("minimax_m2", R"("rope_parameters": {"rope_type": "default", "rope_theta": 5e6,
      "partial_rotary_factor": 0.5})"),
            spec("minimax_m2", R"("rotary_dim": 64)"));
  const ModelSpec defaults =
      spec("minimax_m2", R"("num_experts": null, "num_experts_per_tok": null)");
  EXPECT_EQ(moe(defaults).experts, 256);
  EXPECT_EQ(moe(defaults).top_k, 8);
  EXPECT_EQ(refusal("minimax_m2", R"("rotary_dim": 130)", {"rotary_dim", "128", "found 130"}),
            ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("minimax_m2", R"("num_experts_per_tok": 9)", {"num_experts_per_tok", "9"}),
            ErrorCode::kConfigValue);
  const ModelConfig source = config("minimax_m2", R"("rotary_dim": 32, "head_dim": 64)");
  Json written = source.root();
  require_family(source).complete_config(written, source);
  const ModelConfig again = ModelConfig::parse(dump_json(written), "config.json");
  EXPECT_EQ(require_family(again).spec(again), require_family(source).spec(source));
  for (const char* key : {"rotary_dim", "num_local_experts", "shared_intermediate_size"})
    EXPECT_NE(written.find(key), nullptr) << key;
}

TEST(RoutedFamilies, HostileConfigsAreRefusedInOneLine) {
  const std::pair<const char*, const char*> kBad[] = {
      {"num_experts", "0"},   {"num_experts", "70000"},      {"num_experts", "\"8\""},
      {"hidden_size", "1.5"}, {"intermediate_size", "null"}, {"num_attention_heads", "0"},
      {"head_dim", "33"},     {"rms_norm_eps", "-1"},        {"num_key_value_heads", "3"},
      {"vocab_size", "0"},    {"rope_theta", "0"},           {"num_hidden_layers", "null"},
      {"rope_scaling", "[1]"}};
  for (const char* type : kTypes) {
    for (const auto& [key, value] : kBad) {
      const std::string more = std::string("\"") + key + "\": " + value;
      EXPECT_EQ(refusal(type, more, {"config.json", key}), ErrorCode::kConfigValue) << more;
    }
    if (std::string_view(type) == "phimoe") continue;
    EXPECT_EQ(refusal(type, R"("num_experts_per_tok": 0)", {"num_experts_per_tok", "found 0"}),
              ErrorCode::kConfigValue);
    EXPECT_EQ(refusal(type, R"("num_experts_per_tok": 9)",
                      {"num_experts_per_tok", "at most the 8", "found 9"}),
              ErrorCode::kConfigValue);
  }
}

// Whatever the source's spelling, the written config means the same model, but for the biases that
// are written with it.
TEST(RoutedFamilies, CompletedConfigsMeanTheSame) {
  const std::string kMore[] = {
      "",
      R"("attention_bias": true, "qkv_bias": false, "tie_word_embeddings": true,
         "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "norm_topk_prob": true,
         "num_local_experts": 4, "num_experts": null, "clip_qkv": 3.5, "lm_head_bias": true,
         "residual_multiplier": 0.5, "attention_multiplier": 0.1, "router_jitter_noise": 0.5)",
      R"("use_sliding_window": true, "sliding_window": 8, "max_window_layers": 5,
         "mlp_only_layers": [0, 2], "num_experts": null, "moe_intermediate_size": null)",
      longrope(R"(, "short_mscale": 1.2, "long_mscale": 1.4,
         "original_max_position_embeddings": 64)"),
  };
  for (const char* type : kTypes) {
    for (const std::string& more : kMore) {
      const ModelConfig source = config(type, more);
      const Family& family = require_family(source);
      Json written = source.root();
      family.complete_config(written, source);
      ModelSpec expected = family.spec(source);
      if (family.add_stock_biases != nullptr) family.add_stock_biases(expected);
      const ModelConfig again = ModelConfig::parse(dump_json(written), "config.json");
      EXPECT_EQ(family.spec(again), expected) << type << " " << more;
      for (const char* key : {"rope_theta", "num_experts_per_tok", "tie_word_embeddings",
                              "num_key_value_heads", "max_position_embeddings"}) {
        EXPECT_NE(written.find(key), nullptr) << type << " " << key;
      }
      const bool local = family.model_type == "granitemoe" || family.model_type == "phimoe";
      EXPECT_NE(written.find(local ? "num_local_experts" : "num_experts"), nullptr) << type;
    }
  }
  const ModelConfig source = config("phimoe", kMore[3]);
  Json written = source.root();
  require_family(source).complete_config(written, source);
  int64_t original = 0;
  EXPECT_TRUE(written.find("original_max_position_embeddings")->get_integer(64, 64, original));
  EXPECT_EQ(written.find("rope_scaling")->find("long_mscale")->as_double(), 1.4);
}

// --- tensors -----------------------------------------------------------------------------------

std::vector<std::string> names(const Inventory& inventory) {
  std::vector<std::string> all;
  for (const FinalTensor& tensor : inventory.tensors) all.push_back(tensor.name);
  std::sort(all.begin(), all.end());
  return all;
}

TEST(RoutedFamilies, NamesInMemoryBecomeTheSameTensors) {
  for (const char* type : {"granitemoe", "phimoe"}) {
    const ModelConfig model = config(type);
    const std::vector<SourceTensor> promised = sources_from_config(model, {});
    std::vector<SourceTensor> memory;
    for (SourceTensor tensor : promised) {
      const bool granite = std::string_view(type) == "granitemoe";
      const std::size_t at = tensor.name.find("block_sparse_moe.");
      if (at == std::string::npos) {
        memory.push_back(tensor);
        continue;
      }
      const std::string block =
          tensor.name.substr(0, at) + (granite ? "block_sparse_moe." : "mlp.");
      const std::string rest = tensor.name.substr(at + 17);
      if (rest == "gate.weight" || rest == "router.layer.weight") {
        memory.push_back({block + "router.weight", tensor.dtype, tensor.shape});
      } else if (rest == "input_linear.weight" || rest == "experts.0.w1.weight") {
        memory.push_back({block + "experts.gate_up_proj", tensor.dtype, {8, 2 * 96, 160}});
      } else if (rest == "output_linear.weight" || rest == "experts.0.w2.weight") {
        memory.push_back({block + "experts.down_proj", tensor.dtype, {8, 160, 96}});
      }
    }
    EXPECT_TRUE(std::any_of(memory.begin(), memory.end(), [](const SourceTensor& tensor) {
      return tensor.name.ends_with(".experts.gate_up_proj");
    }));
    EXPECT_EQ(names(build_inventory(model, memory)), names(build_inventory(model, promised)));
    // An index of these names is planned from, too.
    std::vector<std::string> listed;
    for (const SourceTensor& tensor : memory) listed.push_back(tensor.name);
    EXPECT_EQ(names(build_inventory(model, sources_from_config(model, listed))),
              names(build_inventory(model, promised)));
  }
}

TEST(RoutedFamilies, BiasesThatStockAlwaysHasAreZeros) {
  for (const char* type : {"qwen2_moe", "phimoe"}) {
    const bool phi = std::string_view(type) == "phimoe";
    const std::string without = phi ? R"("attention_bias": false)" : R"("qkv_bias": false)";
    const std::string with =
        phi ? R"("attention_bias": true, "lm_head_bias": true)" : R"("qkv_bias": true)";
    for (const char* tied : {", \"tie_word_embeddings\": true", ""}) {
      const ModelConfig bare = config(type, without + tied), full = config(type, with + tied);
      const Inventory lacking = build_inventory(bare, sources_from_config(bare, {}));
      const Inventory having = build_inventory(full, sources_from_config(full, {}));
      EXPECT_EQ(names(lacking), names(having)) << type;
      EXPECT_EQ(lacking.parameters, having.parameters);
      std::size_t zeros = 0;
      for (std::size_t i = 0; i < lacking.tensors.size(); ++i) {
        const FinalTensor& tensor = lacking.tensors[i];
        EXPECT_EQ(tensor.name, having.tensors[i].name);  // in the same order
        EXPECT_EQ(tensor.shape, having.tensors[i].shape);
        EXPECT_EQ(tensor.dtype, DType::kBF16);
        EXPECT_FALSE(having.tensors[i].zeros);
        if (!tensor.zeros) continue;
        ++zeros;
        EXPECT_TRUE(tensor.ranges.empty() && tensor.obstacle.empty() && !tensor.packable);
        EXPECT_TRUE(tensor.name.ends_with(".bias"));
        EXPECT_EQ(tensor.role.role, Role::kOther);
      }
      EXPECT_EQ(zeros, phi ? 6u * 4 + 1 : 6u * 3);
    }
  }
}

}  // namespace
}  // namespace jang
