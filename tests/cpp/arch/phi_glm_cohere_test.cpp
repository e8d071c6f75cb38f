// phi, phi3, glm4, cohere and cohere2: what their configs mean, what is refused, and that completed
// configs mean the same. And the rotary types yarn and longrope.
#include <gtest/gtest.h>

#include <cmath>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

std::string text(const std::string& type, const std::string& more) {
  return "{\"model_type\": \"" + type + R"(", "hidden_size": 256, "num_hidden_layers": 4,
    "intermediate_size": 512, "num_attention_heads": 4, "vocab_size": 1000)" +
         (more.empty() ? "" : ", " + more) + "}";
}

ModelConfig config(const std::string& type, const std::string& more = "") {
  return ModelConfig::parse(text(type, more), "config.json");
}

ModelSpec spec(const std::string& type, const std::string& more = "") {
  const ModelConfig parsed = config(type, more);
  return require_family(parsed).spec(parsed);
}

const AttentionSpec& attention(const ModelSpec& model, std::size_t layer = 0) {
  return std::get<AttentionSpec>(model.layers[layer].mixer);
}

/// The error's code; its text is one line that names each of `words`.
ErrorCode refusal(const std::string& type, const std::string& more,
                  std::initializer_list<const char*> words = {}) {
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

std::vector<std::string> names(const ModelSpec& model) {
  std::vector<std::string> out;
  for (const SpecTensor& tensor : spec_tensors(model)) out.push_back(tensor.name);
  return out;
}

bool has(const ModelSpec& model, const std::string& name) {
  for (const std::string& one : names(model)) {
    if (one == name) return true;
  }
  return false;
}

constexpr const char* kLongRope = R"("rope_scaling": {"type": "longrope",
    "short_factor": [1, 2, 3, 4, 5, 6, 7, 8], "long_factor": [2, 3, 4, 5, 6, 7, 8, 9]},
    "partial_rotary_factor": 0.25)";

TEST(Phi3, Fused) {
  const ModelSpec model = spec("phi3", R"("num_key_value_heads": 2)");
  const AttentionSpec& mixer = attention(model);
  ASSERT_TRUE(mixer.qkv.has_value());
  EXPECT_EQ(mixer.qkv->path, "model.layers.0.self_attn.qkv_proj");
  EXPECT_EQ(mixer.qkv->out, 256 + 2 * 128);
  EXPECT_EQ(mixer.q.out, 256);
  EXPECT_EQ(mixer.v.out, 128);
  const auto& mlp = std::get<GatedMlpSpec>(*model.layers[3].feed_forward);
  ASSERT_TRUE(mlp.gate_up.has_value());
  EXPECT_EQ(mlp.gate_up->path, "model.layers.3.mlp.gate_up_proj");
  EXPECT_EQ(mlp.gate_up->out, 1024);
  EXPECT_EQ(names(model).size(), 4u * 6 + 3);
  EXPECT_FALSE(has(model, "model.layers.0.self_attn.q_proj.weight"));
  EXPECT_EQ(attention(spec("phi3")).n_kv_heads, 4);
  EXPECT_EQ(mixer.window, 0);
  EXPECT_EQ(attention(spec("phi3", R"("sliding_window": 9)")).window, 9);
  EXPECT_EQ(model.ropes[0].rotated, 64);
  EXPECT_FLOAT_EQ(model.final_norm.eps, 1e-5f);
}

TEST(Phi3, LongRope) {
  const RopeSpec rope = spec("phi3", kLongRope).ropes[0];
  EXPECT_EQ(rope.type, RopeType::kLongRope);
  EXPECT_EQ(rope.rotated, 16);
  EXPECT_EQ(rope.original_positions, 4096);
  EXPECT_EQ(rope.short_factors.size(), 8u);
  EXPECT_DOUBLE_EQ(rope.long_factors[7], 9.0);
  EXPECT_DOUBLE_EQ(rope.magnitude, 1.0);  // as many positions as originally
  const std::string longer = std::string(kLongRope) + R"(, "max_position_embeddings": 131072)";
  EXPECT_NEAR(spec("phi3", longer).ropes[0].magnitude,
              std::sqrt(1 + std::log(32.0) / std::log(4096.0)), 1e-12);
  EXPECT_EQ(spec("phi3", longer + R"(, "original_max_position_embeddings": 77)")
                .ropes[0]
                .original_positions,
            77);
  // The names of earlier files mean the same, as do numbers inside the dictionary.
  const std::string inside = R"("rope_parameters": {"partial_rotary_factor": 0.25,
      "short_factor": [1, 2, 3, 4, 5, 6, 7, 8], "long_factor": [2, 3, 4, 5, 6, 7, 8, 9],
      "original_max_position_embeddings": 4096, "rope_theta": 10000, "rope_type": )";
  for (const char* type : {"longrope", "su", "yarn"}) {
    EXPECT_EQ(spec("phi3", inside + "\"" + type + "\"}").ropes[0], rope) << type;
  }
  EXPECT_DOUBLE_EQ(
      spec("phi3", inside + R"("longrope", "attention_factor": 1.5})").ropes[0].magnitude, 1.5);
  EXPECT_NEAR(spec("phi3", inside + R"("longrope", "factor": 2})").ropes[0].magnitude,
              std::sqrt(1 + std::log(2.0) / std::log(4096.0)), 1e-12);
}

TEST(Phi3, Refusals) {
  const auto with = [](const char* short_factor, const char* long_factor) {
    return std::string(R"("rope_scaling": {"type": "longrope", "short_factor": )") + short_factor +
           R"(, "long_factor": )" + long_factor + R"(}, "partial_rotary_factor": 0.0625)";
  };
  EXPECT_EQ(spec("phi3", with("[1, 2]", "[1, 2]")).ropes[0].rotated, 4);
  const auto refused = [&](const char* short_factor, const char* long_factor,
                           std::initializer_list<const char*> words) {
    EXPECT_EQ(refusal("phi3", with(short_factor, long_factor), words), ErrorCode::kConfigValue);
  };
  refused("[1]", "[1, 2]", {"rope_scaling.short_factor", "expected 2", "found 1"});
  refused("[1, 2]", "[1, 2, 3]", {"rope_scaling.long_factor", "expected 2", "found 3"});
  refused("[1, 2]", "3", {"rope_scaling.long_factor", "a list"});
  refused("[1, 2]", "null", {"rope_scaling.long_factor", "missing"});
  refused("[1, 0]", "[1, 2]", {"rope_scaling.short_factor", "above 0"});
  refused("[1, Infinity]", "[1, 2]", {"rope_scaling.short_factor", "finite"});
  refused("[1, \"2\"]", "[1, 2]", {"rope_scaling.short_factor", "number"});
  EXPECT_EQ(refusal("phi3", with("[1, 2]", "[1, 2]") + R"(, "max_position_embeddings": 64,
                                 "original_max_position_embeddings": 1)",
                    {"original_max_position_embeddings", "at least 2"}),
            ErrorCode::kConfigValue);
  for (const char* factor : {"0", "-1", "1.5", "NaN", "\"1\"", "0.01", "0.05"}) {
    EXPECT_EQ(refusal("phi3", std::string("\"partial_rotary_factor\": ") + factor,
                      {"partial_rotary_factor", "expected"}),
              ErrorCode::kConfigValue)
        << factor;
  }
}

TEST(Phi, Blocks) {
  const ModelSpec model = spec("phi");
  const LayerSpec& layer = model.layers[1];
  EXPECT_TRUE(layer.parallel);
  EXPECT_FALSE(layer.ff_pre_norm.has_value());
  EXPECT_EQ(layer.pre_norm->kind, NormKind::kLayer);
  EXPECT_TRUE(layer.pre_norm->bias);
  const auto& mlp = std::get<PlainMlpSpec>(*layer.feed_forward);
  EXPECT_EQ(mlp.activation, Activation::kGeluTanh);
  EXPECT_EQ(mlp.up.path, "model.layers.1.mlp.fc1");
  EXPECT_TRUE(mlp.down.bias);
  EXPECT_EQ(attention(model).o.path, "model.layers.0.self_attn.dense");
  EXPECT_EQ(attention(model).n_kv_heads, 4);
  EXPECT_EQ(model.ropes[0].rotated, 32);
  EXPECT_EQ(model.final_norm.path, "model.final_layernorm");
  EXPECT_TRUE(has(model, "lm_head.bias"));
  EXPECT_TRUE(has(model, "model.final_layernorm.bias"));
  EXPECT_FALSE(attention(model).q_norm.has_value());
  const ModelSpec normed = spec("phi", R"("qk_layernorm": true, "layer_norm_eps": 1e-3)");
  EXPECT_TRUE(has(normed, "model.layers.0.self_attn.k_layernorm.bias"));
  EXPECT_FLOAT_EQ(attention(normed).q_norm->eps, 1e-3f);
  EXPECT_EQ(attention(normed).q_norm->size, 64);
  // A tied head is the embedding with a bias of its own.
  const ModelSpec tied = spec("phi", R"("tie_word_embeddings": true)");
  EXPECT_TRUE(has(tied, "lm_head.bias"));
  EXPECT_FALSE(has(tied, "lm_head.weight"));
  EXPECT_EQ(std::get<PlainMlpSpec>(*spec("phi", R"("hidden_act": "gelu")").layers[0].feed_forward)
                .activation,
            Activation::kGelu);
  EXPECT_EQ(refusal("phi", R"("hidden_act": "silu")", {"hidden_act", "silu", "gelu_new"}),
            ErrorCode::kUnsupportedModel);
  EXPECT_EQ(refusal("phi", R"("layer_norm_eps": -1)", {"layer_norm_eps"}), ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("phi", R"("qk_layernorm": 1)", {"qk_layernorm"}), ErrorCode::kConfigValue);
}

TEST(Glm4, Blocks) {
  const ModelSpec model = spec("glm4", R"("num_key_value_heads": 2)");
  const LayerSpec& layer = model.layers[2];
  EXPECT_EQ(layer.post_norm->path, "model.layers.2.post_self_attn_layernorm");
  EXPECT_EQ(layer.ff_pre_norm->path, "model.layers.2.post_attention_layernorm");
  EXPECT_EQ(layer.ff_post_norm->path, "model.layers.2.post_mlp_layernorm");
  EXPECT_TRUE(attention(model).q.bias);
  EXPECT_FALSE(attention(model).o.bias);
  EXPECT_EQ(attention(model).head_dim, 128);
  EXPECT_EQ(model.ropes[0].rotated, 64);
  EXPECT_TRUE(model.ropes[0].interleaved);
  EXPECT_FALSE(
      attention(spec("glm4", R"("num_key_value_heads": 2, "attention_bias": false)")).q.bias);
  EXPECT_EQ(refusal("glm4", "", {"num_key_value_heads"}), ErrorCode::kConfigValue);
}

TEST(Cohere, Blocks) {
  const ModelSpec model = spec("cohere");
  EXPECT_TRUE(model.layers[0].parallel);
  EXPECT_FALSE(model.layers[0].pre_norm->bias);
  EXPECT_EQ(model.final_norm.kind, NormKind::kLayer);
  EXPECT_TRUE(model.head.tied);
  EXPECT_FLOAT_EQ(model.head.multiplier, 0.0625f);
  EXPECT_DOUBLE_EQ(model.ropes[0].theta, 5e5);
  EXPECT_TRUE(model.ropes[0].interleaved);
  EXPECT_EQ(names(model).size(), 4u * 8 + 2);
  const ModelSpec normed = spec("cohere", R"("use_qk_norm": true, "num_key_value_heads": 2,
      "logit_scale": 0.5)");
  EXPECT_FLOAT_EQ(normed.head.multiplier, 0.5f);
  EXPECT_EQ(attention(normed).q_norm->heads, 4);
  EXPECT_EQ(attention(normed).k_norm->heads, 2);
  for (const SpecTensor& tensor : spec_tensors(normed)) {
    if (tensor.name == "model.layers.0.self_attn.k_norm.weight") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{2, 64}));
    }
  }
  for (const char* scale : {"0", "-1", "NaN", "Infinity", "\"1\""}) {
    EXPECT_EQ(refusal("cohere", std::string("\"logit_scale\": ") + scale, {"logit_scale"}),
              ErrorCode::kConfigValue)
        << scale;
  }
  EXPECT_EQ(refusal("cohere2", R"("head_dim": 32)", {"head_dim", "64", "32"}),
            ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("cohere", R"("partial_rotary_factor": 0.5)", {"partial_rotary_factor"}),
            ErrorCode::kUnsupportedModel);
}

TEST(Cohere2, Windows) {
  const ModelSpec model = spec("cohere2");
  EXPECT_EQ(attention(model, 0).window, 4096);
  EXPECT_EQ(attention(model, 0).rope, 0);
  EXPECT_EQ(attention(model, 3).window, 0);
  EXPECT_EQ(attention(model, 3).rope, -1);
  EXPECT_DOUBLE_EQ(model.ropes[0].theta, 1e4);
  const ModelSpec listed = spec("cohere2", R"("sliding_window": 5, "sliding_window_pattern": 2,
      "layer_types": ["full_attention", "sliding_attention", "sliding_attention",
                      "full_attention"])");
  EXPECT_EQ(attention(listed, 0).rope, -1);
  EXPECT_EQ(attention(listed, 1).window, 5);
  EXPECT_EQ(spec("cohere2", R"("sliding_window_pattern": 2)"),
            spec("cohere2", R"("layer_types": ["sliding_attention", "full_attention",
                                               "sliding_attention", "full_attention"])"));
  EXPECT_EQ(refusal("cohere2", R"("sliding_window": null)", {"sliding_window", "null"}),
            ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("cohere2", R"("sliding_window_pattern": 0)", {"sliding_window_pattern"}),
            ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("cohere2", R"("layer_types": ["full_attention"])", {"layer_types", "4", "1"}),
            ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("cohere2", R"("layer_types": 3)", {"layer_types"}), ErrorCode::kConfigValue);
  EXPECT_EQ(refusal("cohere2", R"("layer_types": ["full_attention", "mamba", "x", 4])",
                    {"layer_types", "mamba", "layer 1"}),
            ErrorCode::kConfigValue);
}

TEST(Yarn, Keys) {
  const auto rope = [](const std::string& more) {
    return spec("llama", R"("max_position_embeddings": 8192, "rope_scaling": {"rope_type": "yarn",
        "original_max_position_embeddings": 1024)" +
                             more + "}")
        .ropes[0];
  };
  const RopeSpec plain = rope(R"(, "factor": 4)");
  EXPECT_EQ(plain.type, RopeType::kYarn);
  EXPECT_EQ(plain.original_positions, 1024);
  EXPECT_NEAR(plain.magnitude, 0.1 * std::log(4.0) + 1, 1e-15);
  EXPECT_TRUE(plain.truncate);
  EXPECT_DOUBLE_EQ(plain.beta_fast, 32.0);
  EXPECT_DOUBLE_EQ(rope("").factor, 8.0);  // how often the original length goes into the model's
  EXPECT_DOUBLE_EQ(rope(R"(, "factor": 4, "attention_factor": 0.5)").magnitude, 0.5);
  EXPECT_DOUBLE_EQ(rope(R"(, "factor": 0.5)").magnitude, 1.0);
  EXPECT_NEAR(rope(R"(, "factor": 4, "mscale": 0.5, "mscale_all_dim": 2)").magnitude,
              (0.05 * std::log(4.0) + 1) / (0.2 * std::log(4.0) + 1), 1e-15);
  EXPECT_DOUBLE_EQ(rope(R"(, "factor": 4, "mscale": 0.5, "mscale_all_dim": 0)").magnitude,
                   plain.magnitude);
  const RopeSpec set = rope(R"(, "factor": 4, "beta_fast": 16, "beta_slow": 2, "truncate": false)");
  EXPECT_DOUBLE_EQ(set.beta_fast, 16.0);
  EXPECT_DOUBLE_EQ(set.beta_slow, 2.0);
  EXPECT_FALSE(set.truncate);
  for (const char* bad : {R"("factor": 0)", R"("factor": "4")", R"("beta_fast": -1)",
                          R"("mscale": Infinity)", R"("truncate": 1)", R"("attention_factor": 0)",
                          R"("original_max_position_embeddings": 0.5)"}) {
    EXPECT_EQ(refusal("llama", std::string(R"("rope_scaling": {"type": "yarn", )") + bad + "}",
                      {"expected"}),
              ErrorCode::kConfigValue)
        << bad;
  }
  EXPECT_EQ(refusal("llama", R"("rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2})",
                    {"rope_theta", "above 1"}),
            ErrorCode::kConfigValue);
}

TEST(PhiGlmCohere, CompletedConfigsMeanTheSame) {
  const std::string longrope = std::string(kLongRope) + R"(, "max_position_embeddings": 131072,
      "original_max_position_embeddings": 2048)";
  const std::pair<const char*, std::string> kSources[] = {
      {"phi", ""},
      {"phi", R"("qk_layernorm": true, "rope_parameters": {"rope_theta": 500.0,
          "partial_rotary_factor": 0.25, "rope_type": "default"})"},
      {"phi3", ""},
      {"phi3", longrope},
      {"phi3", R"("sliding_window": 7, "num_key_value_heads": 2, "rope_parameters": {
          "partial_rotary_factor": 0.75, "rope_type": "default", "rope_theta": 7.0})"},
      {"glm4", R"("num_key_value_heads": 2, "head_dim": 32)"},
      {"glm4", R"("num_key_value_heads": 2, "attention_bias": false)"},
      {"cohere", ""},
      {"cohere", R"("use_qk_norm": true, "logit_scale": 2.0, "layer_norm_eps": 1e-4)"},
      {"cohere2", ""},
      {"cohere2", R"("sliding_window": 3, "layer_types": ["full_attention", "sliding_attention",
          "sliding_attention", "sliding_attention"])"},
      {"llama", R"("rope_scaling": {"type": "yarn", "original_max_position_embeddings": 99,
          "beta_fast": 5})"},
  };
  for (const auto& [type, more] : kSources) {
    const ModelConfig source = config(type, more);
    Json completed = source.root();
    require_family(source).complete_config(completed, source);
    const ModelConfig again = ModelConfig::parse(dump_json(completed), "config.json");
    EXPECT_EQ(require_family(again).spec(again), require_family(source).spec(source))
        << dump_json(completed);
    EXPECT_NE(completed.find("rope_theta"), nullptr) << type;
    EXPECT_NE(completed.find("num_key_value_heads"), nullptr) << type;
    const bool partial = std::string_view(type).starts_with("phi") || more.find("head_dim") == 0;
    if (partial) {
      EXPECT_NE(completed.find("partial_rotary_factor"), nullptr) << type;
    }
  }
  // The pattern that stock readers take, and none where they could not say these layers.
  const auto stock = [](const std::string& types) {
    const ModelConfig source = config("cohere2", types);
    Json completed = source.root();
    require_family(source).complete_config(completed, source);
    return completed.find("sliding_window_pattern")->as_double();
  };
  EXPECT_EQ(stock(""), 4.0);
  EXPECT_EQ(stock(R"("layer_types": ["sliding_attention", "full_attention", "sliding_attention",
                                     "full_attention"])"),
            2.0);
  EXPECT_EQ(stock(R"("layer_types": ["full_attention", "sliding_attention", "sliding_attention",
                                     "full_attention"])"),
            0.0);
}

}  // namespace
}  // namespace jang
