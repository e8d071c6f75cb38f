// Configs of nemotron_h and falcon_h1: what becomes of them and of their tensors, the factors that
// falcon_h1's own checkpoints leave in the config, and one clear line for bad ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "arch/config.h"
#include "arch/expert_spelling.h"
#include "arch/family.h"
#include "arch/folded_factors.h"
#include "arch/inventory.h"
#include "arch/spec_tensors.h"
#include "base/error.h"
#include "io/json.h"
#include "io/json_fields.h"

namespace jang {
namespace {

using Shape = std::vector<uint64_t>;

std::string base_of(const std::string& type) {
  if (type == "nemotron_h") {
    return R"("hidden_size": 160, "vocab_size": 331, "num_attention_heads": 5,
        "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 224, "mamba_num_heads": 12,
        "mamba_head_dim": 16, "n_groups": 3, "ssm_state_size": 32, "n_routed_experts": 8,
        "num_experts_per_tok": 3, "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 96)";
  }
  return R"("hidden_size": 160, "vocab_size": 331, "num_attention_heads": 5,
      "num_key_value_heads": 1, "intermediate_size": 224, "num_hidden_layers": 2,
      "mamba_d_ssm": 288, "mamba_n_heads": 18, "mamba_d_head": 16, "mamba_n_groups": 3,
      "mamba_d_state": 32)";
}

/// Keys of `more` come first and so beat those of the base.
ModelConfig config(const std::string& type, const std::string& more = {}) {
  Json values = parse_json("{" + base_of(type) + "}", "config.json", ErrorCode::kConfigSyntax);
  JsonLimits limits;
  limits.non_finite = true;
  const Json changes =
      parse_json("{" + more + "}", "config.json", ErrorCode::kConfigSyntax, limits);
  for (const auto& [key, value] : changes.as_object()) values[key] = value;
  values["model_type"] = type;
  return ModelConfig::parse(dump_json(values), "config.json");
}

ModelSpec spec(const std::string& type, const std::string& more = {}) {
  const ModelConfig parsed = config(type, more);
  return require_family(parsed).spec(parsed);
}

const std::string kFour = R"("hybrid_override_pattern": "M*-E")";

/// A letter for each layer, as in the pattern.
std::string kinds(const ModelSpec& model) {
  std::string out;
  for (const LayerSpec& layer : model.layers) {
    if (std::holds_alternative<Mamba2Spec>(layer.mixer)) {
      out += 'M';
    } else if (std::holds_alternative<AttentionSpec>(layer.mixer)) {
      out += '*';
    } else {
      EXPECT_TRUE(std::holds_alternative<NoMixerSpec>(layer.mixer));
      out += std::holds_alternative<MoeSpec>(*layer.feed_forward) ? 'E' : '-';
    }
  }
  return out;
}

TEST(NemotronH, LayersByListAndByPattern) {
  EXPECT_EQ(kinds(spec("nemotron_h", kFour)), "M*-E");
  EXPECT_EQ(kinds(spec("nemotron_h", R"("layers_block_type":
      ["mamba", "linear_attention", "attention", "full_attention", "mlp", "moe"])")),
            "MM**-E");
  EXPECT_EQ(kinds(spec("nemotron_h", R"("layer_types": ["mlp", "moe"])")), "-E");
  // All of them, where they agree.
  EXPECT_EQ(kinds(spec("nemotron_h", R"("layers_block_type": ["moe"], "layer_types": ["moe"],
      "hybrid_override_pattern": "E", "num_hidden_layers": 1)")),
            "E");
  // How many there are follows from their names.
  EXPECT_EQ(config("nemotron_h", kFour).layers(), 4);
  EXPECT_EQ(config("nemotron_h", R"("layers_block_type": ["mlp", "moe"])").layers(), 2);
}

TEST(NemotronH, EachLayerIsOneBranch) {
  const ModelSpec model = spec("nemotron_h", kFour + R"(, "layer_norm_epsilon": 0.25,
      "tie_word_embeddings": true)");
  EXPECT_TRUE(model.ropes.empty());
  EXPECT_FALSE(model.head.tied);  // whatever the flag says
  EXPECT_EQ(model.embedding.path, "backbone.embeddings");
  EXPECT_EQ(model.final_norm.path, "backbone.norm_f");
  for (std::size_t i = 0; i < 4; ++i) {
    const LayerSpec& layer = model.layers[i];
    const bool mixes = i < 2;
    EXPECT_EQ(layer.pre_norm.has_value(), mixes);
    EXPECT_EQ(layer.ff_pre_norm.has_value(), !mixes);
    EXPECT_EQ(layer.feed_forward.has_value(), !mixes);
    const NormSpec& norm = mixes ? *layer.pre_norm : *layer.ff_pre_norm;
    EXPECT_EQ(norm.path, "backbone.layers." + std::to_string(i) + ".norm");
    EXPECT_EQ(norm.eps, 0.25f);
  }
  const auto& mamba = std::get<Mamba2Spec>(model.layers[0].mixer);
  EXPECT_EQ(mamba.in.path, "backbone.layers.0.mixer.in_proj");
  EXPECT_EQ(mamba.in.out, 192 + 192 + 2 * 3 * 32 + 12);
  EXPECT_EQ(mamba.norm->size, 192);
  EXPECT_FALSE(mamba.norm_before_gate);
  EXPECT_EQ(mamba.least_step, 1e-3f);
  EXPECT_TRUE(std::isinf(mamba.largest_step));
  EXPECT_TRUE(mamba.convolution_bias);
  EXPECT_FALSE(mamba.in.bias || mamba.out.bias);
  const auto& attention = std::get<AttentionSpec>(model.layers[1].mixer);
  EXPECT_EQ(attention.o.path, "backbone.layers.1.mixer.o_proj");
  EXPECT_EQ(attention.rope, -1);
  EXPECT_FALSE(attention.q.bias);
  const auto& mlp = std::get<PlainMlpSpec>(*model.layers[2].feed_forward);
  EXPECT_EQ(mlp.up.path, "backbone.layers.2.mixer.up_proj");
  EXPECT_EQ(mlp.up.out, 224);
  EXPECT_EQ(mlp.activation, Activation::kReluSquared);
}

TEST(NemotronH, OldNamesAndBiases) {
  const ModelSpec model = spec("nemotron_h", R"("hybrid_override_pattern": "M-*", "use_bias": true,
      "mamba_conv_bias": false, "mamba_n_groups": 4, "mamba_d_conv": 3, "mamba_dt_min": 0.5,
      "mlp_bias": true, "num_key_value_heads": null, "time_step_limit": [0.1, 0.2],
      "attention_bias": true)");
  const auto& mamba = std::get<Mamba2Spec>(model.layers[0].mixer);
  EXPECT_EQ(mamba.groups, 4);
  EXPECT_EQ(mamba.taps, 3);
  EXPECT_EQ(mamba.least_step, 0.5f);
  EXPECT_TRUE(std::isinf(mamba.largest_step));  // the limit is not looked at
  EXPECT_TRUE(mamba.in.bias && mamba.out.bias);
  EXPECT_FALSE(mamba.convolution_bias);
  EXPECT_TRUE(std::get<PlainMlpSpec>(*model.layers[1].feed_forward).down.bias);
  const auto& attention = std::get<AttentionSpec>(model.layers[2].mixer);
  EXPECT_EQ(attention.n_kv_heads, 5);
  EXPECT_FALSE(attention.q.bias);
}

TEST(NemotronH, RoutedBlocks) {
  const ModelSpec model = spec("nemotron_h", R"("hybrid_override_pattern": "E",
      "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2, "norm_topk_prob": false)");
  const auto& moe = std::get<MoeSpec>(*model.layers[0].feed_forward);
  EXPECT_FALSE(moe.gated());
  EXPECT_EQ(moe.router.path, "backbone.layers.0.mixer.gate");
  EXPECT_EQ(moe.correction, "backbone.layers.0.mixer.gate.e_score_correction_bias");
  EXPECT_EQ(moe.up.path, "backbone.layers.0.mixer.switch_mlp.fc1");
  EXPECT_EQ(moe.down.path, "backbone.layers.0.mixer.switch_mlp.fc2");
  EXPECT_EQ(moe.up.out, 32);
  EXPECT_EQ(moe.up.in, 160);
  EXPECT_EQ(moe.rule, RouterRule::kSigmoid);
  EXPECT_EQ(moe.groups, 4);
  EXPECT_EQ(moe.open_groups, 2);
  EXPECT_EQ(moe.weight_scale, 2.5f);
  EXPECT_FALSE(moe.renormalize);
  EXPECT_EQ(moe.activation, Activation::kReluSquared);
  EXPECT_FALSE(moe.latent_in || moe.latent_out);
  ASSERT_TRUE(moe.shared && moe.shared->plain);
  EXPECT_EQ(moe.shared->plain->up.path, "backbone.layers.0.mixer.shared_experts.up_proj");
  EXPECT_EQ(moe.shared->plain->up.out, 96);
  const ModelSpec other = spec("nemotron_h", R"("hybrid_override_pattern": "E",
      "moe_latent_size": 64, "mlp_bias": true)");
  const auto& latent = std::get<MoeSpec>(*other.layers[0].feed_forward);
  EXPECT_EQ(latent.up.in, 64);
  EXPECT_EQ(latent.down.out, 64);
  EXPECT_EQ(latent.router.in, 160);
  EXPECT_EQ(latent.latent_in->path, "backbone.layers.0.mixer.fc1_latent_proj");
  EXPECT_EQ(latent.latent_out->out, 160);
  EXPECT_TRUE(latent.latent_in->bias && latent.shared->plain->up.bias);
}

TEST(NemotronH, SourceNames) {
  const ModelConfig source = config("nemotron_h", kFour + R"(, "moe_latent_size": 64)");
  const auto has = [](const std::vector<SourceTensor>& tensors, const std::string& name) {
    return std::any_of(tensors.begin(), tensors.end(),
                       [&](const SourceTensor& tensor) { return tensor.name == name; });
  };
  const std::vector<SourceTensor> promised = sources_from_config(source, {});
  EXPECT_TRUE(has(promised, "backbone.layers.3.mixer.experts.7.up_proj.weight"));
  EXPECT_TRUE(has(promised, "backbone.layers.3.mixer.experts.0.down_proj.weight"));
  std::vector<SourceTensor> fused;
  for (const SourceTensor& tensor : promised) {
    const std::size_t at = tensor.name.find(".experts.");
    if (at == std::string::npos) {
      fused.push_back(tensor);
      // In memory the backbone has another name.
      if (tensor.name.starts_with("backbone.")) fused.back().name.replace(0, 9, "model.");
      continue;
    }
    if (!tensor.name.ends_with(".experts.0.up_proj.weight")) continue;
    fused.push_back({"model.layers.3.mixer.experts.up_proj", DType::kBF16, {8, 32, 64}});
    fused.push_back({"model.layers.3.mixer.experts.down_proj", DType::kBF16, {8, 64, 32}});
  }
  fused.push_back({"mtp.layers.0.norm.weight", DType::kBF16, {160}});
  for (const auto& stored : {promised, fused}) {
    const Inventory inventory = build_inventory(source, stored);
    const auto found = [&](const std::string& name) -> const FinalTensor& {
      return *std::find_if(inventory.tensors.begin(), inventory.tensors.end(),
                           [&](const FinalTensor& tensor) { return tensor.name == name; });
    };
    for (const FinalTensor& tensor : inventory.tensors)
      EXPECT_TRUE(tensor.role.matched) << tensor.name;
    const FinalTensor& up = found("backbone.layers.3.mixer.switch_mlp.fc1.weight");
    EXPECT_EQ(up.shape, (Shape{8, 32, 64}));
    EXPECT_EQ(up.role.part, Part::kUp);
    EXPECT_TRUE(up.packable);
    EXPECT_EQ(found("backbone.layers.3.mixer.switch_mlp.fc2.weight").shape, (Shape{8, 64, 32}));
    EXPECT_FALSE(found("backbone.layers.3.mixer.gate.weight").packable);
    EXPECT_FALSE(inventory.tied_head);
  }
}

TEST(FalconH1, TwoMixersSideBySide) {
  const ModelSpec model = spec("falcon_h1", R"("attention_bias": true, "rope_theta": 77,
      "lm_head_multiplier": 0.5, "embedding_multiplier": 4)");
  ASSERT_EQ(model.layers.size(), 2u);
  const LayerSpec& layer = model.layers[1];
  const auto& mixer = std::get<ParallelMixerSpec>(layer.mixer);
  EXPECT_EQ(layer.pre_norm->path, "model.layers.1.input_layernorm");
  EXPECT_EQ(layer.ff_pre_norm->path, "model.layers.1.pre_ff_layernorm");
  EXPECT_EQ(mixer.attention.q.path, "model.layers.1.self_attn.q_proj");
  EXPECT_TRUE(mixer.attention.o.bias);
  EXPECT_EQ(mixer.attention.head_dim, 32);
  EXPECT_EQ(mixer.mamba.in.path, "model.layers.1.mamba.in_proj");
  EXPECT_EQ(mixer.mamba.in.out, 288 + 288 + 2 * 3 * 32 + 18);
  EXPECT_FALSE(mixer.mamba.norm);
  EXPECT_EQ(std::get<GatedMlpSpec>(*layer.feed_forward).down.path,
            "model.layers.1.feed_forward.down_proj");
  EXPECT_EQ(model.final_norm.path, "model.final_layernorm");
  EXPECT_EQ(model.ropes.front().theta, 77.0);
  EXPECT_EQ(model.embedding.scale, 1.0f);
  EXPECT_EQ(model.head.multiplier, 1.0f);
  EXPECT_EQ(model.head.tied_multiplier, 0.125f);
}

TEST(FalconH1, StateSpaces) {
  const auto mamba = [](const std::string& more) {
    return std::get<ParallelMixerSpec>(spec("falcon_h1", more).layers[0].mixer).mamba;
  };
  const Mamba2Spec normed = mamba(R"("mamba_rms_norm": true, "mamba_norm_before_gate": false,
      "mamba_proj_bias": true, "projectors_bias": false, "mamba_conv_bias": false,
      "mamba_d_conv": 2, "time_step_limit": [0.25, Infinity])");
  ASSERT_TRUE(normed.norm);
  EXPECT_EQ(normed.norm->path, "model.layers.0.mamba.norm");
  EXPECT_FALSE(normed.norm_before_gate || normed.convolution_bias || normed.out.bias);
  EXPECT_TRUE(normed.in.bias);
  EXPECT_EQ(normed.taps, 2);
  EXPECT_EQ(normed.least_step, 0.25f);
  EXPECT_TRUE(mamba(R"("mamba_rms_norm": true)").norm_before_gate);
  EXPECT_TRUE(mamba(R"("projectors_bias": true)").out.bias);
  // null: a multiple of the hidden size; absent: a number of its own.
  EXPECT_EQ(mamba(R"("mamba_d_ssm": null, "mamba_n_heads": 15, "mamba_d_head": "auto",
      "mamba_expand": 3)")
                .head_dim,
            32);
}

const RowFactor& factor(const TensorFactors& factors, const std::string& name,
                        std::size_t part = 0) {
  const auto it = factors.find(name);
  static const RowFactor kNone{0, 0, 0.0f};
  return it == factors.end() || it->second.size() <= part ? kNone : it->second[part];
}

TEST(FalconH1, FactorsOfWeightsAndBiases) {
  const TensorFactors factors = factors_of(config("falcon_h1", R"("attention_bias": true,
      "mlp_bias": true, "mamba_proj_bias": true, "projectors_bias": true,
      "embedding_multiplier": 2, "lm_head_multiplier": 0.5, "attention_in_multiplier": 3,
      "attention_out_multiplier": 5, "key_multiplier": 7, "ssm_in_multiplier": 11,
      "ssm_out_multiplier": 13, "ssm_multipliers": [1, 2, 3, 4, 5], "mlp_multipliers": [17, 19])"));
  const auto value = [&](const std::string& name) { return factor(factors, name).factor; };
  EXPECT_EQ(value("model.embed_tokens.weight"), 2.0f);
  EXPECT_EQ(value("lm_head.weight"), 0.5f);
  const std::string layer = "model.layers.1.", attention = layer + "self_attn.";
  EXPECT_EQ(value(attention + "q_proj.weight"), 3.0f);
  EXPECT_EQ(value(attention + "k_proj.weight"), 21.0f);
  EXPECT_EQ(value(attention + "v_proj.weight"), 3.0f);
  EXPECT_EQ(value(attention + "o_proj.weight"), 5.0f);
  EXPECT_EQ(value(attention + "k_proj.bias"), 7.0f);
  EXPECT_EQ(value(attention + "o_proj.bias"), 5.0f);
  EXPECT_FALSE(factors.contains(attention + "q_proj.bias"));  // a factor of its input alone
  EXPECT_EQ(value(layer + "mamba.out_proj.weight"), 13.0f);
  EXPECT_EQ(value(layer + "mamba.out_proj.bias"), 13.0f);
  EXPECT_EQ(value(layer + "feed_forward.gate_proj.weight"), 17.0f);
  EXPECT_EQ(value(layer + "feed_forward.gate_proj.bias"), 17.0f);
  EXPECT_EQ(value(layer + "feed_forward.down_proj.weight"), 19.0f);
  EXPECT_FALSE(factors.contains(layer + "feed_forward.up_proj.weight"));
  // z, x, B, C and steps; of the bias those of z have the factor 1 and are not there.
  const std::vector<uint64_t> ends = {288, 576, 672, 768, 786};
  const auto& rows = factors.at(layer + "mamba.in_proj.weight");
  ASSERT_EQ(rows.size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(rows[i].begin, i == 0 ? 0 : ends[i - 1]);
    EXPECT_EQ(rows[i].end, ends[i]);
    EXPECT_EQ(rows[i].factor, 11.0f * static_cast<float>(i + 1));
  }
  EXPECT_EQ(factor(factors, layer + "mamba.in_proj.bias").begin, 288u);
  EXPECT_EQ(factor(factors, layer + "mamba.in_proj.bias", 3).factor, 5.0f);
  EXPECT_TRUE(factors_of(config("falcon_h1")).empty());
  EXPECT_TRUE(factors_of(config("nemotron_h", kFour)).empty());
}

TEST(FalconH1, FactorsAreThoseOfRawConvolutions) {
  for (const bool raw : {true, false}) {
    const ModelConfig source = config("falcon_h1", R"("key_multiplier": 7,
        "embedding_multiplier": 2, "lm_head_multiplier": 3, "tie_word_embeddings": true)");
    std::vector<SourceTensor> stored = sources_from_config(source, {});
    for (SourceTensor& tensor : stored) {
      if (raw && tensor.name.ends_with("conv1d.weight"))
        tensor.shape = {tensor.shape[0], 1, tensor.shape[1]};
      // The only copy of a tied matrix, under the head's name.
      if (tensor.name == "model.embed_tokens.weight") tensor.name = "lm_head.weight";
    }
    const Inventory inventory = build_inventory(source, stored);
    EXPECT_TRUE(inventory.tied_head);
    std::size_t with = 0;
    for (const FinalTensor& tensor : inventory.tensors) {
      EXPECT_TRUE(tensor.role.matched && tensor.obstacle.empty()) << tensor.name;
      with += tensor.factors.empty() ? 0 : 1;
      if (!raw || tensor.name != "model.embed_tokens.weight") continue;
      EXPECT_EQ(tensor.source, "lm_head.weight");
      EXPECT_EQ(tensor.factors.front().factor, 2.0f);
      EXPECT_EQ(tensor.factors.front().end, 331u);
    }
    EXPECT_EQ(with, raw ? 3u : 0u);
  }
}

TEST(NemotronAndFalcon, WrittenConfigsSayTheSame) {
  const std::vector<std::pair<const char*, std::string>> cases = {
      {"nemotron_h", kFour},
      {"nemotron_h", R"("layer_types": ["mamba", "mlp"], "mamba_n_groups": 2, "mamba_d_conv": 3,
          "mamba_conv_bias": false, "mamba_dt_min": 0.25, "use_bias": true, "n_routed_experts": 0,
          "num_key_value_heads": null)"},
      {"nemotron_h", kFour + R"(, "moe_latent_size": 64, "n_group": 2, "mlp_bias": true)"},
      {"falcon_h1", ""},
      {"falcon_h1", R"("mamba_d_ssm": null, "mamba_n_heads": 20, "mamba_d_head": "auto",
          "mamba_n_groups": 4, "mamba_rms_norm": true, "tie_word_embeddings": true,
          "rope_parameters": {"rope_type": "linear", "rope_theta": 100, "factor": 2},
          "num_key_value_heads": null, "ssm_multipliers": [1, 2, 3, 4, 5],
          "mlp_multipliers": null, "key_multiplier": 0.25, "time_step_limit": [0.5, Infinity])"},
  };
  for (const auto& [type, more] : cases) {
    const ModelConfig source = config(type, more);
    Json written = source.root();
    require_family(source).complete_config(written, source);
    const ModelConfig again = ModelConfig::parse(dump_json(written), "config.json");
    EXPECT_EQ(require_family(again).spec(again), require_family(source).spec(source)) << more;
    const bool nemotron = std::string(type) == "nemotron_h";
    if (!nemotron) {
      EXPECT_EQ(factors_of(again).size(), factors_of(source).size());
      EXPECT_TRUE(written.find(kFactorsFoldedKey)->as_bool());
    }
    std::vector<const char*> keys = {"num_key_value_heads",     "head_dim",
                                     "max_position_embeddings", "tie_word_embeddings",
                                     "time_step_limit",         "num_hidden_layers"};
    for (const char* key : {"layers_block_type", "mamba_num_heads", "n_groups", "conv_kernel",
                            "use_conv_bias", "mamba_proj_bias", "layer_norm_epsilon", "mlp_bias"})
      if (nemotron) keys.push_back(key);
    for (const char* key : {"mamba_d_ssm", "mamba_rms_norm", "rope_theta", "rms_norm_eps",
                            "ssm_multipliers", "mlp_multipliers", "attention_in_multiplier",
                            "projectors_bias", "mamba_norm_before_gate"})
      if (!nemotron) keys.push_back(key);
    for (const char* key : keys) EXPECT_NE(written.find(key), nullptr) << type << " " << key;
    for (const char* key : {"layer_types", "mamba_n_groups", "mamba_dt_min"})
      EXPECT_TRUE(!nemotron || written.find(key) == nullptr) << key;
  }
}

TEST(NemotronAndFalcon, BadConfigsAreOneClearLine) {
  const struct {
    const char* type;
    std::string more;
    const char* expected;
  } kCases[] = {
      {"nemotron_h", "", "layers_block_type: missing, and so is hybrid_override_pattern"},
      {"nemotron_h", R"("hybrid_override_pattern": "MX")",
       "hybrid_override_pattern: expected M, *, - or E for layer 1, found \"X\""},
      {"nemotron_h", R"("hybrid_override_pattern": "")", "expected 1 to"},
      {"nemotron_h", R"("hybrid_override_pattern": 3)",
       "hybrid_override_pattern: expected a string, found 3"},
      {"nemotron_h", R"("layers_block_type": "M")", "expected a list of layer types"},
      {"nemotron_h", R"("layers_block_type": ["mlp", "conv"])",
       "expected mamba, attention, mlp or moe for layer 1, found \"conv\""},
      {"nemotron_h", R"("layers_block_type": [7])", "for layer 0, found \"\""},
      {"nemotron_h", kFour + R"(, "layers_block_type": ["mlp"])",
       "hybrid_override_pattern: expected the layers of layers_block_type"},
      {"nemotron_h", kFour + R"(, "num_hidden_layers": 5)",
       "num_hidden_layers: expected the 4 layers of hybrid_override_pattern, found 5"},
      {"nemotron_h", kFour + R"(, "mlp_hidden_act": "silu")",
       "mlp_hidden_act: \"silu\" is not supported in a nemotron_h model; supported: relu2"},
      {"nemotron_h", kFour + R"(, "mamba_hidden_act": "gelu")", "supported: silu"},
      {"nemotron_h", kFour + R"(, "time_step_min": -1)",
       "time_step_min: expected a number from 0 on"},
      {"nemotron_h", kFour + R"(, "time_step_min": NaN)", "expected a number from 0 on"},
      {"nemotron_h", kFour + R"(, "n_groups": 5)", "n_groups: 5 does not divide the 12 heads"},
      {"nemotron_h", kFour + R"(, "mamba_num_heads": 3000, "mamba_head_dim": 2000)",
       "more than 2^22 channels"},
      {"nemotron_h", kFour + R"(, "num_key_value_heads": 2)", "2 does not divide the 5"},
      {"nemotron_h", kFour + R"(, "num_experts_per_tok": 9)", "at most the 8 experts"},
      {"nemotron_h", kFour + R"(, "n_group": 3)", "n_group: expected a divisor of the 8 experts"},
      {"nemotron_h", kFour + R"(, "moe_latent_size": 0)", "moe_latent_size: expected an integer"},
      {"nemotron_h", kFour + R"(, "layer_norm_epsilon": 2)", "layer_norm_epsilon: expected"},
      {"falcon_h1", R"("mamba_d_ssm": 290)",
       "mamba_n_heads: expected mamba_n_heads * mamba_d_head to be the 290 inner channels, found "
       "288"},
      {"falcon_h1", R"("mamba_d_ssm": null)", "to be mamba_expand * hidden_size, 320, found 288"},
      {"falcon_h1", R"("mamba_d_ssm": 5000000)", "mamba_d_ssm: expected an integer from 1 to"},
      {"falcon_h1", R"("mamba_d_conv": 1)", "mamba_d_conv: expected at least 2, found 1"},
      {"falcon_h1", R"("key_multiplier": 0)",
       "key_multiplier: expected a multiplier from 10^-6 to 10^6"},
      {"falcon_h1", R"("key_multiplier": "big")", "key_multiplier: expected a multiplier"},
      {"falcon_h1", R"("embedding_multiplier": Infinity)", "embedding_multiplier: expected"},
      {"falcon_h1", R"("ssm_multipliers": [1, 2])",
       "ssm_multipliers: expected a list of 5 multipliers or null"},
      {"falcon_h1", R"("ssm_multipliers": [1, 2, 3, 4, NaN])", "ssm_multipliers: expected a mult"},
      {"falcon_h1", R"("mlp_multipliers": 2)", "mlp_multipliers: expected a list of 2"},
      {"falcon_h1", R"("hidden_act": "gelu")", "supported: silu"},
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
