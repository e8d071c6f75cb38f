// lfm2, lfm2_moe and jamba: keys, defaults, widths and layers, names of either writer, what written
// configs mean, and one clear line for bad ones.
#include <gtest/gtest.h>

#include <algorithm>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/inventory.h"
#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

/// `more` may repeat keys of the plain model, which it then replaces; null ones are taken out.
ModelConfig config(const std::string& type, const std::string& more = {}) {
  JsonLimits limits;
  limits.non_finite = true;
  const Json text = parse_json("{" + more + "}", "config.json", ErrorCode::kConfigSyntax, limits);
  Json all = parse_json(R"({"hidden_size": 160, "intermediate_size": 336, "vocab_size": 331,
      "num_hidden_layers": 4, "num_attention_heads": 5, "num_key_value_heads": 1})",
                        "config.json", ErrorCode::kConfigSyntax, {});
  if (type == "lfm2_moe") {
    all["layer_types"] = Json::Array{"conv", "full_attention", "conv", "conv"};
    all["num_experts"] = 8;
    all["moe_intermediate_size"] = 32;
  }
  for (const auto& [key, value] : text.as_object()) {
    all[key] = value;
    if (value.is_null()) all.as_object().erase(key);
  }
  all["model_type"] = type;
  return ModelConfig::parse(dump_json(all), "config.json");
}

ModelSpec spec(const std::string& type, const std::string& more = {}) {
  const ModelConfig parsed = config(type, more);
  return require_family(parsed).spec(parsed);
}

const GatedMlpSpec& mlp(const ModelSpec& model, std::size_t layer = 0) {
  return std::get<GatedMlpSpec>(*model.layers[layer].feed_forward);
}
const MoeSpec& moe(const ModelSpec& model, std::size_t layer) {
  return std::get<MoeSpec>(*model.layers[layer].feed_forward);
}

/// A letter for each layer: a attention, c convolution, s state space; capital where it is routed.
std::string kinds(const ModelSpec& model) {
  std::string text;
  for (const LayerSpec& layer : model.layers) {
    char kind = std::holds_alternative<AttentionSpec>(layer.mixer)   ? 'a'
                : std::holds_alternative<ShortConvSpec>(layer.mixer) ? 'c'
                                                                     : 's';
    if (std::holds_alternative<MoeSpec>(*layer.feed_forward))
      kind = static_cast<char>(kind - 'a' + 'A');
    text += kind;
  }
  return text;
}

TEST(Lfm2, ConvolutionsAndAttention) {
  const ModelSpec model = spec(
      "lfm2", R"("layer_types": ["conv", "full_attention", "conv", "conv"], "norm_eps": 0.25)");
  EXPECT_EQ(kinds(model), "cacc");
  EXPECT_TRUE(model.head.tied);
  EXPECT_EQ(model.final_norm.path, "model.embedding_norm");
  EXPECT_EQ(model.final_norm.eps, 0.25f);
  EXPECT_EQ(model.ropes.front().theta, 1e6);
  EXPECT_EQ(model.max_positions, 128000);
  const auto& mixer = std::get<ShortConvSpec>(model.layers[2].mixer);
  EXPECT_EQ(mixer.in.path, "model.layers.2.conv.in_proj");
  EXPECT_EQ(mixer.in.out, 480);
  EXPECT_EQ(mixer.convolution, "model.layers.2.conv.conv");
  EXPECT_EQ(mixer.taps, 3);
  EXPECT_FALSE(mixer.in.bias || mixer.out.bias || mixer.convolution_bias);
  const auto& attention = std::get<AttentionSpec>(model.layers[1].mixer);
  EXPECT_EQ(attention.o.path, "model.layers.1.self_attn.out_proj");
  EXPECT_EQ(attention.q_norm->path, "model.layers.1.self_attn.q_layernorm");
  EXPECT_EQ(attention.k_norm->size, 32);
  EXPECT_EQ(attention.k_norm->eps, 0.25f);
  EXPECT_EQ(model.layers[1].pre_norm->path, "model.layers.1.operator_norm");
  EXPECT_EQ(model.layers[1].ff_pre_norm->path, "model.layers.1.ffn_norm");
  EXPECT_EQ(mlp(model).gate.path, "model.layers.0.feed_forward.w1");
  EXPECT_EQ(mlp(model).up.path, "model.layers.0.feed_forward.w3");
  const ModelSpec biased = spec("lfm2", R"("full_attn_idxs": [], "conv_bias": true,
                                           "conv_L_cache": 5)");
  EXPECT_EQ(kinds(biased), "cccc");
  const auto& other = std::get<ShortConvSpec>(biased.layers[0].mixer);
  EXPECT_TRUE(other.in.bias && other.out.bias && other.convolution_bias);
  EXPECT_EQ(other.taps, 5);
}

TEST(Lfm2, LayersByEitherKey) {
  EXPECT_EQ(kinds(spec("lfm2")), "aaaa");
  EXPECT_EQ(kinds(spec("lfm2", R"("full_attn_idxs": [3, 1])")), "caca");
  EXPECT_EQ(kinds(spec("lfm2", R"("full_attn_idxs": [3, 1],
      "layer_types": ["full_attention", "conv", "conv", "conv"])")),
            "accc");
}

TEST(Lfm2, WidthsOfFeedForwards) {
  const auto width = [](const std::string& more) { return mlp(spec("lfm2", more)).gate.out; };
  EXPECT_EQ(width({}), 256);  // 224, and whole multiples of 256
  EXPECT_EQ(width(R"("block_multiple_of": 32)"), 224);
  EXPECT_EQ(width(R"("block_multiple_of": 1, "intermediate_size": 100)"), 66);
  EXPECT_EQ(width(R"("block_multiple_of": 1, "intermediate_size": 100,
                     "block_ffn_dim_multiplier": 1.3)"),
            85);  // 85.8
  EXPECT_EQ(width(R"("block_auto_adjust_ff_dim": false)"), 336);
  EXPECT_EQ(width(R"("block_ff_dim": 60, "block_multiple_of": 8)"), 40);
  EXPECT_EQ(width(R"("intermediate_size": null)"), 8192);  // of 12288
  EXPECT_EQ(mlp(spec("lfm2_moe", R"("block_ff_dim": 60)")).gate.out, 336);
}

TEST(Lfm2, EitherNameOfTheTie) {
  EXPECT_FALSE(spec("lfm2", R"("tie_embedding": false)").head.tied);
  EXPECT_FALSE(spec("lfm2", R"("tie_word_embeddings": false)").head.tied);
  EXPECT_TRUE(spec("lfm2", R"("tie_embedding": true, "tie_word_embeddings": false)").head.tied);
  EXPECT_FALSE(
      spec("lfm2_moe", R"("tie_embedding": false, "tie_word_embeddings": true)").head.tied);
  EXPECT_FALSE(spec("llama", R"("tie_embedding": true)").head.tied);
}

TEST(Lfm2Moe, RoutedLayers) {
  const ModelSpec model = spec("lfm2_moe", R"("num_dense_layers": 1, "num_experts_per_tok": 3)");
  EXPECT_EQ(kinds(model), "cACC");
  EXPECT_EQ(mlp(model).gate.path, "model.layers.0.feed_forward.gate_proj");
  const MoeSpec& experts = moe(model, 1);
  EXPECT_EQ(experts.router.path, "model.layers.1.feed_forward.gate");
  EXPECT_EQ(experts.correction, "model.layers.1.feed_forward.expert_bias");
  EXPECT_EQ(experts.rule, RouterRule::kSigmoid);
  EXPECT_EQ(experts.top_k, 3);
  EXPECT_EQ(experts.gate.out, 32);
  EXPECT_TRUE(experts.renormalize);
  EXPECT_EQ(experts.least_sum, 1e-6f);
  const ModelSpec other = spec("lfm2_moe", R"("use_expert_bias": false, "norm_topk_prob": false,
                                              "routed_scaling_factor": 2.5)");
  EXPECT_EQ(kinds(other), "caCC");
  EXPECT_EQ(moe(other, 2).correction, "");
  EXPECT_EQ(moe(other, 2).weight_scale, 2.5f);
  EXPECT_FALSE(moe(other, 2).renormalize);
  EXPECT_EQ(moe(other, 2).top_k, 4);
}

TEST(Lfm2Moe, SourceNames) {
  const ModelConfig source = config("lfm2_moe", R"("num_dense_layers": 1)");
  // Without an index experts are promised as checkpoints of this type have them.
  const std::vector<SourceTensor> promised = sources_from_config(source, {});
  const auto has = [&](const std::string& name) {
    return std::any_of(promised.begin(), promised.end(),
                       [&](const SourceTensor& tensor) { return tensor.name == name; });
  };
  EXPECT_TRUE(has("model.layers.1.feed_forward.experts.7.w2.weight"));
  std::vector<SourceTensor> stored = promised;
  for (SourceTensor& tensor : stored) {
    const auto rename = [&](const std::string& from, const std::string& to) {
      const std::size_t at = tensor.name.find(from);
      if (at != std::string::npos) tensor.name.replace(at, from.size(), to);
    };
    rename("feed_forward.gate_proj", "feed_forward.w1");
    rename("feed_forward.up_proj", "feed_forward.w3");
    rename("feed_forward.down_proj", "feed_forward.w2");
    if (tensor.name.ends_with("conv.conv.weight")) tensor.shape = {160, 1, 3};
  }
  const Inventory inventory = build_inventory(source, stored);
  EXPECT_TRUE(inventory.warnings.empty());
  for (const FinalTensor& tensor : inventory.tensors)
    EXPECT_TRUE(tensor.role.matched) << tensor.name;
  const auto found = [&](const std::string& name) -> const FinalTensor& {
    return *std::find_if(inventory.tensors.begin(), inventory.tensors.end(),
                         [&](const FinalTensor& tensor) { return tensor.name == name; });
  };
  EXPECT_EQ(found("model.layers.0.feed_forward.down_proj.weight").source,
            "model.layers.0.feed_forward.w2.weight");
  EXPECT_EQ(found("model.layers.3.feed_forward.switch_mlp.up_proj.weight").shape,
            (std::vector<uint64_t>{8, 32, 160}));
  EXPECT_EQ(found("model.layers.0.conv.conv.weight").shape, (std::vector<uint64_t>{160, 3, 1}));
  EXPECT_FALSE(found("model.layers.0.conv.conv.weight").packable);
  EXPECT_FALSE(found("model.layers.1.feed_forward.expert_bias").packable);
}

TEST(Lfm2, MultimodalFilesAreWrittenFlat) {
  const ModelConfig source = ModelConfig::parse(
      R"({"model_type": "lfm2_vl", "eos_token_id": 7, "vision_config": {}, "text_config": {
          "hidden_size": 160, "intermediate_size": 336, "vocab_size": 331, "num_hidden_layers": 2,
          "num_attention_heads": 5, "num_key_value_heads": 1, "full_attn_idxs": [1]}})",
      "config.json");
  EXPECT_EQ(source.model_type(), "lfm2");
  const ModelSpec model = require_family(source).spec(source);
  EXPECT_EQ(kinds(model), "ca");
  Json written = source.root();
  require_family(source).complete_config(written, source);
  EXPECT_EQ(written.find("text_config"), nullptr);
  EXPECT_NE(written.find("eos_token_id"), nullptr);
  const ModelConfig again = ModelConfig::parse(dump_json(written), "config.json");
  EXPECT_EQ(again.outer_type(), "lfm2");
  EXPECT_EQ(require_family(again).spec(again), model);
  std::vector<SourceTensor> sources = sources_from_config(source, {});
  for (SourceTensor& tensor : sources) tensor.name.replace(0, 6, "model.language_model.");
  sources.push_back({"model.vision_tower.patches.weight", DType::kF32, {4, 4}});
  const Inventory inventory = build_inventory(source, sources);
  EXPECT_EQ(inventory.dropped.size(), 1u);
  EXPECT_EQ(inventory.tensors.front().name, "model.embed_tokens.weight");
}

TEST(Jamba, LayersByPeriodAndOffset) {
  const ModelSpec model = spec("jamba", R"("num_hidden_layers": 12, "tie_word_embeddings": true)");
  EXPECT_EQ(kinds(model), "sSsSaSsSsSsS");
  EXPECT_TRUE(model.ropes.empty());
  EXPECT_TRUE(model.head.tied);
  EXPECT_EQ(model.final_norm.path, "model.final_layernorm");
  const ModelSpec other = spec("jamba", R"("attn_layer_period": 3, "attn_layer_offset": 2,
      "expert_layer_period": 3, "expert_layer_offset": 1, "num_hidden_layers": 6)");
  EXPECT_EQ(kinds(other), "sSasSa");
  EXPECT_EQ(kinds(spec("jamba", R"("num_experts": 1)")), "ssss");
  EXPECT_EQ(kinds(spec("jamba", R"("num_local_experts": 0)")), "ssss");
}

TEST(Jamba, Blocks) {
  const ModelSpec model = spec("jamba", R"("attn_layer_period": 2, "attn_layer_offset": 1,
      "mamba_dt_rank": 12, "mamba_proj_bias": true, "mamba_conv_bias": false, "mamba_d_conv": 5,
      "mamba_expand": 3, "mamba_d_state": 6, "rms_norm_eps": 0.125)");
  EXPECT_EQ(kinds(model), "sAsA");
  const auto& attention = std::get<AttentionSpec>(model.layers[1].mixer);
  EXPECT_EQ(attention.rope, -1);
  EXPECT_EQ(attention.o.path, "model.layers.1.self_attn.o_proj");
  const auto& mamba = std::get<MambaSpec>(model.layers[2].mixer);
  EXPECT_EQ(mamba.inner, 480);
  EXPECT_EQ(mamba.parameters.out, 12 + 2 * 6);
  EXPECT_EQ(mamba.taps, 5);
  EXPECT_TRUE(mamba.in.bias && mamba.out.bias && mamba.step.bias);
  EXPECT_FALSE(mamba.convolution_bias);
  EXPECT_EQ(mamba.step_norm->path, "model.layers.2.mamba.dt_layernorm");
  EXPECT_EQ(mamba.step_norm->size, 12);
  EXPECT_EQ(mamba.c_norm->size, 6);
  EXPECT_EQ(mamba.b_norm->eps, 0.125f);
  EXPECT_EQ(model.layers[0].ff_pre_norm->path, "model.layers.0.pre_ff_layernorm");
  EXPECT_EQ(mlp(model).up.path, "model.layers.0.feed_forward.up_proj");
  const MoeSpec& experts = moe(model, 3);
  EXPECT_EQ(experts.router.path, "model.layers.3.feed_forward.router");
  EXPECT_EQ(experts.rule, RouterRule::kSoftmaxThenTopK);
  EXPECT_FALSE(experts.renormalize);
  EXPECT_EQ(experts.experts, 16);
  EXPECT_EQ(experts.top_k, 2);
  EXPECT_EQ(experts.gate.out, 336);
  const ModelSpec automatic = spec("jamba", R"("mamba_dt_rank": "auto")");
  EXPECT_EQ(std::get<MambaSpec>(automatic.layers[0].mixer).rank, 10);
}

TEST(Lfm2AndJamba, CompletedConfigsAreTheSameModelAndWhatStockReads) {
  const std::pair<const char*, const char*> cases[] = {
      {"lfm2", ""},
      {"lfm2", R"("full_attn_idxs": [2], "block_ffn_dim_multiplier": 1.3, "tie_embedding": true)"},
      {"lfm2", R"("block_auto_adjust_ff_dim": false, "num_key_value_heads": 5, "rope_theta": 77)"},
      {"lfm2_moe", ""},
      {"lfm2_moe",
       R"("use_expert_bias": false, "routed_scaling_factor": 2, "num_dense_layers": 0)"},
      {"jamba", ""},
      {"jamba", R"("mamba_dt_rank": "auto", "num_experts": 4, "attn_layer_period": 2,
                   "attn_layer_offset": 0)"},
  };
  for (const auto& [type, more] : cases) {
    const ModelConfig source = config(type, more);
    Json written = source.root();
    require_family(source).complete_config(written, source);
    const ModelConfig again = ModelConfig::parse(dump_json(written), "config.json");
    EXPECT_EQ(require_family(again).spec(again), require_family(source).spec(source)) << more;
    EXPECT_EQ(written.find("tie_embedding"), nullptr);
    std::vector<const char*> keys = {"num_key_value_heads", "max_position_embeddings"};
    if (std::string(type) == "jamba") {
      for (const char* key : {"attn_layer_period", "expert_layer_offset", "mamba_d_conv",
                              "mamba_d_state", "mamba_expand", "mamba_dt_rank", "rms_norm_eps"})
        keys.push_back(key);
    } else {
      for (const char* key : {"layer_types", "full_attn_idxs", "norm_eps", "conv_bias",
                              "conv_L_cache", "rope_theta", "intermediate_size"})
        keys.push_back(key);
      const bool dense = std::string(type) == "lfm2";
      for (const char* key : {"block_dim", "block_multiple_of", "block_ffn_dim_multiplier"})
        if (dense) keys.push_back(key);
      for (const char* key : {"num_dense_layers", "use_expert_bias", "norm_topk_prob"})
        if (!dense) keys.push_back(key);
    }
    for (const char* key : keys) EXPECT_NE(written.find(key), nullptr) << type << " " << key;
  }
}

TEST(Lfm2AndJamba, BadConfigsAreOneClearLine) {
  const struct {
    const char* type;
    const char* more;
    const char* expected;
  } kCases[] = {
      {"lfm2", R"("layer_types": ["conv"])", "layer_types: expected a list of 4 layers"},
      {"lfm2", R"("layer_types": ["conv", "conv", "mamba", "conv"])",
       "layer_types: expected conv or full_attention for layer 2, found mamba"},
      {"lfm2", R"("layer_types": ["conv", 3, "conv", "conv"])", "for layer 1, found no word"},
      {"lfm2", R"("full_attn_idxs": [4])",
       "full_attn_idxs: expected numbers of layers, from 0 to 3"},
      {"lfm2", R"("full_attn_idxs": "all")", "full_attn_idxs: expected a list of layers or null"},
      {"lfm2", R"("conv_L_cache": 0)", "conv_L_cache: expected an integer from 1 to 32, found 0"},
      {"lfm2", R"("conv_L_cache": 33)", "from 1 to 32, found 33"},
      {"lfm2", R"("conv_bias": 1)", "conv_bias: expected true or false, found 1"},
      {"lfm2", R"("norm_eps": 2)", "norm_eps: expected a number from 0 to 1"},
      {"lfm2", R"("block_ffn_dim_multiplier": 0)",
       "block_ffn_dim_multiplier: expected a finite number above 0, found 0"},
      {"lfm2", R"("block_ffn_dim_multiplier": 1e300)",
       "block_ffn_dim_multiplier: expected a number times 224"},
      {"lfm2", R"("intermediate_size": 1)", "intermediate_size: expected at least 2"},
      {"lfm2", R"("block_ff_dim": 1)", "block_ff_dim: expected at least 2"},
      {"lfm2", R"("block_multiple_of": 0)", "block_multiple_of: expected an integer from 1"},
      {"lfm2", R"("block_ff_dim": 0)", "block_ff_dim: expected an integer from 1"},
      {"lfm2", R"("num_key_value_heads": 2)", "2 does not divide the 5 attention heads"},
      {"lfm2", R"("hidden_size": 5000000, "num_attention_heads": 1, "head_dim": 32)",
       "hidden_size: the convolution has more than 2^22 channels"},
      {"lfm2_moe", R"("layer_types": null)", "layer_types: missing"},
      {"lfm2_moe", R"("num_experts_per_tok": 9)", "at most the 8 experts of num_experts, found 9"},
      {"lfm2_moe", R"("num_experts": 0)", "num_experts: expected at least 1 expert"},
      {"lfm2_moe", R"("routed_scaling_factor": -1)",
       "routed_scaling_factor: expected a number above 0 and at most 10^6, found -1"},
      {"lfm2_moe", R"("num_dense_layers": -1)", "num_dense_layers: expected an integer from 0"},
      {"jamba", R"("attn_layer_period": 0)", "attn_layer_period: expected an integer from 1"},
      {"jamba", R"("attn_layer_offset": 8)",
       "attn_layer_offset: expected less than attn_layer_period, 8, found 8"},
      {"jamba", R"("expert_layer_offset": 2)",
       "expert_layer_offset: expected less than expert_layer_period, 2, found 2"},
      {"jamba", R"("mamba_d_conv": 0)", "mamba_d_conv: expected an integer from 1 to 32, found 0"},
      {"jamba", R"("mamba_d_state": 5000)", "mamba_d_state: expected an integer from 1 to 4096"},
      {"jamba", R"("mamba_expand": 65)",
       "mamba_expand: expected an integer from 1 to 64, found 65"},
      {"jamba", R"("mamba_dt_rank": "some")", "mamba_dt_rank: expected an integer or \"auto\""},
      {"jamba", R"("mamba_conv_bias": "no")", "mamba_conv_bias: expected true or false"},
      {"jamba", R"("hidden_act": "gelu")", "supported: silu"},
      {"jamba", R"("num_experts": 4, "num_experts_per_tok": 5)", "at most the 4 experts"},
  };
  for (const auto& hostile : kCases) {
    try {
      spec(hostile.type, hostile.more);
      ADD_FAILURE() << "accepted: " << hostile.more;
    } catch (const Error& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find(hostile.expected), std::string::npos) << what;
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    }
  }
}

}  // namespace
}  // namespace jang
