// Dense families beyond llama: defaults, keys, refusals, and what the written config says.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "arch/config.h"
#include "arch/family.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr const char* kTypes[] = {"qwen2",   "qwen3", "granite", "olmo2",
                                  "smollm3", "gemma", "gemma2",  "gemma3_text"};

ModelConfig parse(const std::string& text) { return ModelConfig::parse(text, "config.json"); }

std::string text_of(const std::string& type, const std::string& more, int layers = 6) {
  return "{\"model_type\": \"" + type + R"(", "hidden_size": 160, "intermediate_size": 224,
    "num_attention_heads": 5, "num_key_value_heads": 1, "vocab_size": 331,
    "num_hidden_layers": )" +
         std::to_string(layers) + (more.empty() ? "" : ", " + more) + "}";
}

ModelSpec spec(const std::string& type, const std::string& more = {}) {
  const ModelConfig config = parse(text_of(type, more));
  return require_family(config).spec(config);
}

const AttentionSpec& attention(const ModelSpec& model, std::size_t layer = 0) {
  return std::get<AttentionSpec>(model.layers[layer].mixer);
}
const GatedMlpSpec& mlp(const ModelSpec& model) {
  return std::get<GatedMlpSpec>(*model.layers[0].feed_forward);
}

std::string windows(const ModelSpec& model) {
  std::string text;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    text += attention(model, i).window != 0 ? 'w' : '-';
  }
  return text;
}

struct Refusal {
  ErrorCode code = ErrorCode::kIo;
  std::string text;
};

Refusal refusal(const std::string& type, const std::string& more) {
  try {
    spec(type, more);
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  ADD_FAILURE() << "accepted: " << type << " " << more;
  return {};
}

std::string words(const char* word, int count) {
  std::string list = "[";
  for (int i = 0; i < count; ++i) list += (i != 0 ? ", \"" : "\"") + std::string(word) + "\"";
  return list + "]";
}

TEST(DenseFamilies, Qwen2) {
  const ModelSpec plain = spec("qwen2");
  EXPECT_TRUE(attention(plain).q.bias && attention(plain).k.bias && attention(plain).v.bias);
  EXPECT_FALSE(attention(plain).o.bias);
  EXPECT_FALSE(mlp(plain).down.bias);
  EXPECT_FALSE(attention(plain).q_norm.has_value());
  EXPECT_FALSE(plain.head.tied);
  EXPECT_EQ(attention(plain).head_dim, 32);
  EXPECT_FLOAT_EQ(plain.final_norm.eps, 1e-6f);
  EXPECT_EQ(plain.max_positions, 32768);
  EXPECT_EQ(spec("qwen2", R"("attention_bias": false)"), plain);
}

TEST(DenseFamilies, QwenWindows) {
  for (const char* type : {"qwen2", "qwen3"}) {
    EXPECT_EQ(windows(spec(type, R"("sliding_window": 8)")), "------");
    const std::string on = R"("use_sliding_window": true)";
    EXPECT_EQ(windows(spec(type, on)), "------");  // from layer 28 on
    const ModelSpec from = spec(type, on + R"(, "max_window_layers": 4)");
    EXPECT_EQ(windows(from), "----ww");
    EXPECT_EQ(attention(from, 5).window, 4096);
    const std::string all = on + R"(, "max_window_layers": 0, "sliding_window": )";
    EXPECT_EQ(attention(spec(type, all + "8")).window, 8);
    EXPECT_EQ(windows(spec(type, all + "null")), "------");
    EXPECT_EQ(windows(spec(type, all + R"(8, "layer_types": ["full_attention",
        "sliding_attention", "full_attention", "full_attention", "full_attention",
        "sliding_attention"])")),
              "-w---w");
    EXPECT_EQ(windows(spec(type, "\"layer_types\": " + words("sliding_attention", 6))), "------");
  }
}

TEST(DenseFamilies, Qwen3) {
  const ModelSpec plain = spec("qwen3");
  EXPECT_EQ(attention(plain).head_dim, 128);
  EXPECT_EQ(attention(plain).q.out, 640);
  EXPECT_EQ(attention(plain).q_norm->size, 128);
  EXPECT_EQ(attention(plain).k_norm->size, 128);
  EXPECT_FALSE(attention(plain).q.bias);
  EXPECT_TRUE(attention(spec("qwen3", R"("attention_bias": true)")).o.bias);
}

TEST(DenseFamilies, Granite) {
  const ModelSpec plain = spec("granite");
  EXPECT_EQ(attention(plain).scale, 1.0f);  // not head_dim^-1/2
  EXPECT_EQ(plain.embedding.scale, 1.0f);
  EXPECT_EQ(plain.head.multiplier, 1.0f);
  EXPECT_EQ(plain.layers[0].residual, 1.0f);
  const ModelSpec scaled = spec("granite", R"("attention_multiplier": 0.0625,
      "embedding_multiplier": 12, "logits_scaling": 8.0, "residual_multiplier": 0.22,
      "attention_bias": true, "mlp_bias": true)");
  EXPECT_EQ(attention(scaled).scale, 0.0625f);
  EXPECT_EQ(scaled.embedding.scale, 12.0f);
  EXPECT_EQ(scaled.head.multiplier, 0.125f);
  for (const LayerSpec& layer : scaled.layers) EXPECT_EQ(layer.residual, 0.22f);
  EXPECT_TRUE(attention(scaled).o.bias);
  EXPECT_TRUE(mlp(scaled).down.bias);
  for (const char* key :
       {"attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"}) {
    for (const char* value : {"0", "-1", "Infinity", "\"8\"", "[1]"}) {
      const Refusal bad = refusal("granite", "\"" + std::string(key) + "\": " + value);
      EXPECT_EQ(bad.code, ErrorCode::kConfigValue) << key << value;
      EXPECT_NE(bad.text.find(key), std::string::npos) << bad.text;
    }
  }
}

TEST(DenseFamilies, Olmo2) {
  const ModelSpec plain = spec("olmo2", R"("head_dim": 16)");
  // Absent key heads are as many as the query heads.
  std::string text = text_of("olmo2", "");
  const std::string key_heads = R"("num_key_value_heads": 1, )";
  text.erase(text.find(key_heads), key_heads.size());
  const ModelConfig all_heads = parse(text);
  EXPECT_EQ(attention(require_family(all_heads).spec(all_heads)).k_norm->size, 160);
  for (const LayerSpec& layer : plain.layers) {
    EXPECT_FALSE(layer.pre_norm.has_value());
    EXPECT_FALSE(layer.ff_pre_norm.has_value());
  }
  EXPECT_EQ(plain.layers[1].post_norm->path, "model.layers.1.post_attention_layernorm");
  EXPECT_EQ(plain.layers[1].ff_post_norm->path, "model.layers.1.post_feedforward_layernorm");
  EXPECT_EQ(attention(plain).q_norm->size, 80);
  EXPECT_EQ(attention(plain).k_norm->size, 16);
  EXPECT_FLOAT_EQ(plain.final_norm.eps, 1e-5f);
}

TEST(DenseFamilies, SmolLm3) {
  const auto rotary = [](const ModelSpec& model) {
    std::string text;
    for (std::size_t i = 0; i < model.layers.size(); ++i) {
      text += attention(model, i).rope >= 0 ? 'r' : '-';
    }
    return text;
  };
  const ModelSpec plain = spec("smollm3");
  EXPECT_EQ(rotary(plain), "rrr-rr");
  EXPECT_TRUE(plain.head.tied);
  EXPECT_DOUBLE_EQ(plain.ropes[0].theta, 2e6);
  EXPECT_EQ(rotary(spec("smollm3", R"("no_rope_layer_interval": 2)")), "r-r-r-");
  // A list may be longer than the model, and says where rotary positions are.
  const std::string list = R"("no_rope_layers": [0, 1, 1, 0, 0, 1, 0, 0])";
  EXPECT_EQ(rotary(spec("smollm3", list)), "-rr--r");
  EXPECT_EQ(windows(spec("smollm3", list + R"(, "sliding_window": 9)")), "------");
  const std::string used = list + R"(, "use_sliding_window": true)";
  EXPECT_EQ(windows(spec("smollm3", used)), "------");
  EXPECT_EQ(windows(spec("smollm3", used + R"(, "sliding_window": 9)")), "w--ww-");
  for (const char* bad : {R"("no_rope_layers": [1, 1])", R"("no_rope_layers": [1, 1, 1, 1, 2, 1])",
                          R"("no_rope_layers": 3)", R"("no_rope_layer_interval": 0)",
                          R"("no_rope_layers": [1, 1, 1, 1, true, 1])"}) {
    EXPECT_EQ(refusal("smollm3", bad).code, ErrorCode::kConfigValue) << bad;
  }
}

TEST(DenseFamilies, GemmaShares) {
  for (const char* type : {"gemma", "gemma2", "gemma3_text"}) {
    const ModelSpec plain = spec(type);
    EXPECT_TRUE(plain.head.tied) << type;
    EXPECT_EQ(attention(plain).head_dim, 256) << type;
    EXPECT_EQ(plain.final_norm.kind, NormKind::kRmsOnePlus) << type;
    EXPECT_EQ(plain.layers[0].pre_norm->kind, NormKind::kRmsOnePlus) << type;
    EXPECT_EQ(mlp(plain).activation, Activation::kGeluTanh) << type;
    EXPECT_FLOAT_EQ(attention(plain).scale, 0.0625f) << type;
    // The factor is that of the dtype the weights have: sqrt(160) = 12.6491.
    EXPECT_EQ(plain.embedding.scale, std::sqrt(160.0f)) << type;
    EXPECT_EQ(spec(type, R"("torch_dtype": "bfloat16")").embedding.scale, 12.625f) << type;
    EXPECT_EQ(spec(type, R"("dtype": "float16")").embedding.scale, 12.6484375f) << type;
    for (const char* bad :
         {R"("use_bidirectional_attention": true)", R"("use_bidirectional_attention": "all")"}) {
      EXPECT_EQ(refusal(type, bad).code, ErrorCode::kUnsupportedModel) << type;
    }
    EXPECT_EQ(spec(type, R"("use_bidirectional_attention": null)"), plain) << type;
  }
  EXPECT_EQ(mlp(spec("gemma", R"("hidden_act": "gelu")")).activation, Activation::kGeluTanh);
  EXPECT_EQ(mlp(spec("gemma2", R"("hidden_activation": "gelu")")).activation, Activation::kGelu);
  EXPECT_EQ(mlp(spec("gemma2", R"("hidden_act": "silu")")).activation, Activation::kGeluTanh);
  const Refusal silu = refusal("gemma3_text", R"("hidden_activation": "silu")");
  EXPECT_EQ(silu.code, ErrorCode::kUnsupportedModel);
  EXPECT_NE(silu.text.find("hidden_activation: \"silu\""), std::string::npos) << silu.text;
}

TEST(DenseFamilies, Gemma2) {
  const ModelSpec plain = spec("gemma2");
  EXPECT_EQ(windows(plain), "w-w-w-");
  EXPECT_EQ(attention(plain).window, 4096);
  EXPECT_EQ(attention(plain).softcap, 50.0f);
  EXPECT_EQ(plain.head.softcap, 30.0f);
  EXPECT_EQ(plain.layers[0].post_norm->path, "model.layers.0.post_attention_layernorm");
  EXPECT_EQ(plain.layers[0].ff_pre_norm->path, "model.layers.0.pre_feedforward_layernorm");
  EXPECT_EQ(plain.layers[0].ff_post_norm->path, "model.layers.0.post_feedforward_layernorm");
  EXPECT_FLOAT_EQ(attention(spec("gemma2", R"("query_pre_attn_scalar": 144)")).scale, 1.0f / 12);
  const ModelSpec open = spec("gemma2", R"("attn_logit_softcapping": null,
      "final_logit_softcapping": null, "sliding_window": null)");
  EXPECT_EQ(attention(open).softcap, 0.0f);
  EXPECT_EQ(open.head.softcap, 0.0f);
  EXPECT_EQ(windows(open), "------");
  for (const char* bad : {R"("attn_logit_softcapping": 0)", R"("final_logit_softcapping": -3)",
                          R"("final_logit_softcapping": NaN)", R"("query_pre_attn_scalar": 0)",
                          R"("sliding_window": -4)", R"("attn_logit_softcapping": "50")"}) {
    EXPECT_EQ(refusal("gemma2", bad).code, ErrorCode::kConfigValue) << bad;
  }
}

TEST(DenseFamilies, Gemma3) {
  const ModelSpec plain = spec("gemma3_text");
  EXPECT_EQ(windows(plain), "wwwww-");
  ASSERT_EQ(plain.ropes.size(), 2u);
  EXPECT_EQ(attention(plain, 0).rope, 1);
  EXPECT_EQ(attention(plain, 5).rope, 0);
  EXPECT_DOUBLE_EQ(plain.ropes[0].theta, 1e6);
  EXPECT_DOUBLE_EQ(plain.ropes[1].theta, 1e4);
  EXPECT_EQ(attention(plain).q_norm->kind, NormKind::kRmsOnePlus);
  EXPECT_EQ(attention(plain).softcap, 0.0f);
  EXPECT_EQ(plain.head.softcap, 0.0f);
  EXPECT_EQ(attention(spec("gemma3_text", R"("attn_logit_softcapping": 50.0)")).softcap, 0.0f);
  EXPECT_EQ(windows(spec("gemma3_text", R"("sliding_window_pattern": 2)")), "w-w-w-");
  // No window: the two tables stay apart.
  EXPECT_EQ(attention(spec("gemma3_text", R"("sliding_window": null)")).rope, 1);

  // Both spellings of the tables.
  const ModelSpec old = spec("gemma3_text", R"("rope_theta": 5e5, "rope_local_base_freq": 2e4,
      "rope_scaling": {"rope_type": "linear", "factor": 8.0})");
  EXPECT_EQ(old.ropes[0].type, RopeType::kLinear);
  EXPECT_EQ(old.ropes[1].type, RopeType::kDefault);
  EXPECT_EQ(old, spec("gemma3_text", R"("rope_parameters": {
      "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500000.0},
      "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0}})"));
  EXPECT_EQ(plain, spec("gemma3_text", R"("rope_parameters": {"sliding_attention": null,
      "full_attention": {"rope_type": "default"}})"));
  for (const char* bad :
       {R"("rope_parameters": {"rope_type": "default", "rope_theta": 3.0})",
        R"("rope_parameters": {"full_attention": {"rope_type": "linear"}})",
        R"("rope_parameters": {"full_attention": {}, "sliding_attention": 4})",
        R"("rope_parameters": 3)", R"("rope_local_base_freq": 0)", R"("sliding_window_pattern": 0)",
        R"("head_dim": 33)", R"("rope_scaling": [1])"}) {
    EXPECT_EQ(refusal("gemma3_text", bad).code, ErrorCode::kConfigValue) << bad;
  }
}

// google's 4B: the text part says only what differs from the defaults of the model type.
constexpr const char* kWrapped = R"({"architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3", "torch_dtype": "bfloat16", "eos_token_id": [1, 106],
    "boi_token_index": 255999, "vision_config": {"hidden_size": 1152}, "text_config": {
      "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
      "num_hidden_layers": 34, "sliding_window": 1024,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}})";

TEST(DenseFamilies, WrappedGemma3) {
  const ModelConfig config = parse(kWrapped);
  const ModelSpec model = require_family(config).spec(config);
  EXPECT_EQ(model.vocabulary, 262208);
  EXPECT_EQ(attention(model).n_heads, 8);
  EXPECT_EQ(attention(model).n_kv_heads, 4);
  EXPECT_EQ(attention(model).head_dim, 256);
  EXPECT_EQ(attention(model).window, 1024);
  EXPECT_EQ(model.ropes[0].factor, 8.0);
  EXPECT_EQ(model.max_positions, 131072);
  EXPECT_EQ(model.embedding.scale, 50.5f);  // sqrt(2560) = 50.596 in bfloat16

  Json written = config.root();
  require_family(config).complete_config(written, config);
  for (const char* key : {"text_config", "vision_config", "boi_token_index"}) {
    EXPECT_EQ(written.find(key), nullptr) << key;
  }
  EXPECT_EQ(written.find("model_type")->as_string(), "gemma3_text");
  EXPECT_EQ(written.find("eos_token_id")->as_array().size(), 2u);
  int64_t pattern = 0;
  EXPECT_TRUE(written.find("sliding_window_pattern")->get_integer(6, 6, pattern));
  written["torch_dtype"] = "bfloat16";
  const ModelConfig again = parse(dump_json(written));
  EXPECT_EQ(require_family(again).spec(again), model);

  // Without a name for the text part it is the wrapper's; other wrappers are not known.
  std::string unnamed = kWrapped;
  const std::string name = R"("model_type": "gemma3_text",)";
  unnamed.erase(unnamed.find(name), name.size());
  const ModelConfig same = parse(unnamed);
  EXPECT_EQ(same.model_type(), "gemma3_text");
  EXPECT_EQ(require_family(same).spec(same), model);
  std::string foreign = kWrapped;
  foreign.replace(foreign.find("\"gemma3\""), 8, "\"llava_\"");
  EXPECT_THROW(require_family(parse(foreign)), Error);
}

// Whatever the source's spelling, the written config means the same model, to us in either reading.
TEST(DenseFamilies, CompletedConfigsMeanTheSame) {
  const char* const kMore[] = {
      "",
      R"("torch_dtype": "bfloat16", "use_sliding_window": true, "max_window_layers": 3,
         "sliding_window": 8, "attention_bias": true, "tie_word_embeddings": false)",
      R"("residual_multiplier": 0.5, "attention_multiplier": 0.1,
         "no_rope_layers": [1, 0, 0, 1, 1, 0], "final_logit_softcapping": 7,
         "attn_logit_softcapping": 6, "query_pre_attn_scalar": 100, "head_dim": 16)",
  };
  for (const char* type : kTypes) {
    for (const char* more : kMore) {
      const ModelConfig source = parse(text_of(type, more));
      const ModelSpec expected = require_family(source).spec(source);
      Json written = source.root();
      require_family(source).complete_config(written, source);
      for (const char* key : {"rope_theta", "num_key_value_heads", "head_dim", "rms_norm_eps",
                              "max_position_embeddings", "vocab_size", "num_attention_heads",
                              "tie_word_embeddings"}) {
        EXPECT_NE(written.find(key), nullptr) << type << " " << key;
      }
      const ModelConfig again = parse(dump_json(written));
      EXPECT_EQ(require_family(again).spec(again), expected) << type << " " << more;
    }
  }
}

TEST(DenseFamilies, HostileConfigsAreRefusedInOneLine) {
  const char* const kBad[] = {
      R"("num_attention_heads": 0)", R"("num_key_value_heads": 3)", R"("head_dim": 33)",
      R"("head_dim": 16777216)",     R"("rms_norm_eps": -1)",       R"("rms_norm_eps": Infinity)",
      R"("vocab_size": 0)",          R"("hidden_size": 1.5)",       R"("intermediate_size": null)"};
  for (const char* type : kTypes) {
    for (const char* bad : kBad) {
      const std::string key = std::string(bad).substr(1, std::string(bad).find('"', 1) - 1);
      std::string text = text_of(type, "");
      const std::size_t at = text.find("\"" + key + "\"");
      if (at != std::string::npos) text.erase(at, text.find(',', at) + 1 - at);
      text.insert(1, std::string(bad) + ", ");
      try {
        const ModelConfig config = parse(text);
        require_family(config).spec(config);
        ADD_FAILURE() << type << " accepted " << bad;
      } catch (const Error& error) {
        const std::string message = error.what();
        EXPECT_EQ(error.code(), ErrorCode::kConfigValue) << message;
        EXPECT_NE(message.find(key), std::string::npos) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      }
    }
  }
  for (const char* type : {"qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"}) {
    const Refusal few = refusal(type, "\"layer_types\": " + words("full_attention", 5));
    EXPECT_NE(few.text.find("layer_types: expected one entry for each of the 6 layers, found 5"),
              std::string::npos)
        << few.text;
    const Refusal word = refusal(type, "\"layer_types\": " + words("chunked_attention", 6));
    EXPECT_NE(word.text.find("found chunked_attention"), std::string::npos) << word.text;
    EXPECT_EQ(refusal(type, R"("layer_types": {})").code, ErrorCode::kConfigValue);
    EXPECT_EQ(refusal(type, R"("layer_types": [1, 2, 3, 4, 5, 6])").code, ErrorCode::kConfigValue);
  }
}

}  // namespace
}  // namespace jang
