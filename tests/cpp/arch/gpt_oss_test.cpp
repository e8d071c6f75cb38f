// gpt_oss: defaults, where values of its sources lie, what the written config says, and what a bare
// config promises. What is refused is in tests/python/test_gpt_oss.py, too.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "arch/config.h"
#include "arch/family.h"
#include "arch/inventory.h"
#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

using Shape = std::vector<uint64_t>;

ModelConfig config(const std::string& more = {}, int layers = 4) {
  return ModelConfig::parse(R"({"model_type": "gpt_oss", "hidden_size": 64,
    "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 331,
    "num_local_experts": 3, "num_experts_per_tok": 2, "num_hidden_layers": )" +
                                std::to_string(layers) + (more.empty() ? "" : ", " + more) + "}",
                            "config.json");
}

ModelSpec spec(const std::string& more = {}) {
  const ModelConfig source = config(more);
  return require_family(source).spec(source);
}

/// Reads what the family writes for a source.
ModelSpec again(const std::string& more) {
  const ModelConfig source = config(more);
  Json written = source.root();
  require_family(source).complete_config(written, source);
  const ModelConfig config = ModelConfig::parse(dump_json(written), "config.json");
  return require_family(config).spec(config);
}

TEST(GptOss, Defaults) {
  const ModelSpec model = spec();
  const RopeSpec& rope = model.ropes.front();
  EXPECT_EQ(rope.type, RopeType::kYarn);
  EXPECT_EQ(rope.rotated, 64);
  EXPECT_DOUBLE_EQ(rope.theta, 150000.0);
  EXPECT_DOUBLE_EQ(rope.factor, 32.0);
  EXPECT_DOUBLE_EQ(rope.magnitude, 0.1 * std::log(32.0) + 1.0);
  EXPECT_EQ(rope.original_positions, 4096);
  EXPECT_FALSE(rope.truncate);
  EXPECT_EQ(model.max_positions, 131072);
  EXPECT_FALSE(model.head.tied);
  for (std::size_t i = 0; i < 4; ++i) {
    const auto& mixer = std::get<AttentionSpec>(model.layers[i].mixer);
    EXPECT_EQ(mixer.window, i % 2 == 0 ? 128 : 0);
    EXPECT_EQ(mixer.head_dim, 64);
    EXPECT_EQ(mixer.sinks, "model.layers." + std::to_string(i) + ".self_attn.sinks");
    EXPECT_TRUE(mixer.q.bias && mixer.k.bias && mixer.v.bias && mixer.o.bias);
    const auto& moe = std::get<MoeSpec>(*model.layers[i].feed_forward);
    EXPECT_EQ(moe.rule, RouterRule::kTopKThenSoftmax);
    EXPECT_EQ(moe.gate.path, "model.layers." + std::to_string(i) + ".mlp.experts.gate_proj");
    EXPECT_EQ(moe.router.path, "model.layers." + std::to_string(i) + ".mlp.router");
    EXPECT_TRUE(moe.router.bias && moe.gate.bias && moe.up.bias && moe.down.bias);
    EXPECT_FALSE(moe.renormalize);
    ASSERT_TRUE(moe.clamped);
    EXPECT_FLOAT_EQ(moe.clamped->limit, 7.0f);
    EXPECT_FLOAT_EQ(moe.clamped->slope, 1.702f);
  }
}

TEST(GptOss, TheWrittenConfigIsTheSameModel) {
  const std::string yarn = R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0,
      "original_max_position_embeddings": 32, "truncate": false})";
  for (const std::string& more :
       {std::string(), std::string(R"("swiglu_limit": 2.5, "swiglu_alpha": 1.1)"), yarn,
        std::string(R"("rope_scaling": {"rope_type": "default"}, "rope_theta": 1e4)"),
        std::string(R"("rope_parameters": {"rope_type": "default", "rope_theta": 5e4})"),
        std::string(R"("rope_parameters": {"rope_type": "linear", "factor": 2.0})"),
        std::string(R"("sliding_window": null)"),
        std::string(R"("sliding_window": 9, "layer_types": ["full_attention",
            "sliding_attention", "sliding_attention", "full_attention"])"),
        std::string(R"("head_dim": 32, "tie_word_embeddings": true)")}) {
    EXPECT_EQ(spec(more), again(more)) << more;
  }
  // Biases that stock always has are written, if as zeros.
  ModelSpec without = spec(R"("attention_bias": false)");
  EXPECT_FALSE(std::get<AttentionSpec>(without.layers[0].mixer).q.bias);
  require_family(config()).add_stock_biases(without);
  EXPECT_EQ(without, again(R"("attention_bias": false)"));
}

std::vector<SourceTensor> sources(const std::string& more = {},
                                  const std::vector<std::string>& names = {}) {
  return sources_from_config(config(more, 1), names);
}

const SourceTensor* find_source(const std::vector<SourceTensor>& list, const std::string& name) {
  for (const SourceTensor& tensor : list)
    if (tensor.name == name) return &tensor;
  return nullptr;
}

const FinalTensor& find(const Inventory& inventory, const std::string& name) {
  for (const FinalTensor& tensor : inventory.tensors)
    if (tensor.name == name) return tensor;
  throw Error(ErrorCode::kMissingTensor, {}, name, "missing");
}

constexpr const char* kExperts = "model.layers.0.mlp.experts.";

TEST(GptOss, TransposedSourcesLieInTurn) {
  const std::vector<SourceTensor> list = sources();
  const std::string experts = kExperts;
  ASSERT_NE(find_source(list, experts + "gate_up_proj"), nullptr);
  EXPECT_EQ(find_source(list, experts + "gate_up_proj")->shape, (Shape{3, 64, 192}));
  EXPECT_EQ(find_source(list, experts + "gate_up_proj_bias")->shape, (Shape{3, 192}));
  EXPECT_EQ(find_source(list, experts + "down_proj")->shape, (Shape{3, 96, 64}));
  EXPECT_EQ(find_source(list, experts + "down_proj_bias")->shape, (Shape{3, 64}));
  EXPECT_EQ(find_source(list, "model.layers.0.self_attn.sinks")->shape, (Shape{4}));
  const Inventory inventory = build_inventory(config({}, 1), list);
  EXPECT_TRUE(inventory.warnings.empty());
  for (const FinalTensor& tensor : inventory.tensors) EXPECT_TRUE(tensor.obstacle.empty());

  const FinalTensor& up = find(inventory, experts + "up_proj.weight");
  EXPECT_EQ(up.shape, (Shape{3, 96, 64}));
  EXPECT_TRUE(up.packable);
  const SourceValue at = locate_value(up, 2 * 96 + 7, 5);
  EXPECT_EQ(at.row, 2u * 64u + 5u);
  EXPECT_EQ(at.column, 15u);
  const SourceValue down = locate_value(find(inventory, experts + "down_proj.weight"), 64 + 3, 9);
  EXPECT_EQ(down.row, 96u + 9u);
  EXPECT_EQ(down.column, 3u);
  const FinalTensor& bias = find(inventory, experts + "up_proj.bias");
  EXPECT_EQ(bias.shape, (Shape{3, 96}));
  EXPECT_FALSE(bias.packable);
  const SourceValue bias_at = locate_value(bias, 2, 10);
  EXPECT_EQ(bias_at.row, 2u);
  EXPECT_EQ(bias_at.column, 21u);
  EXPECT_EQ(find(inventory, "model.layers.0.mlp.router.weight").role.role, Role::kRouter);
}

TEST(GptOss, BareConfigsPromiseWhatTheyStore) {
  const std::string packed = R"("quantization_config": {"quant_method": "mxfp4"})";
  const std::vector<SourceTensor> list = sources(packed);
  const std::string experts = kExperts;
  ASSERT_NE(find_source(list, experts + "gate_up_proj_blocks"), nullptr);
  EXPECT_EQ(find_source(list, experts + "gate_up_proj_blocks")->shape, (Shape{3, 192, 2, 16}));
  EXPECT_EQ(find_source(list, experts + "gate_up_proj_scales")->shape, (Shape{3, 192, 2}));
  EXPECT_EQ(find_source(list, experts + "down_proj_scales")->shape, (Shape{3, 64, 3}));
  EXPECT_EQ(find_source(list, experts + "gate_up_proj"), nullptr);
  // The same final tensors as of the transposed source.
  const Inventory a = build_inventory(config(packed, 1), list);
  const Inventory b = build_inventory(config({}, 1), sources());
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  EXPECT_EQ(a.parameters, b.parameters);
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    EXPECT_EQ(a.tensors[i].name, b.tensors[i].name);
    EXPECT_EQ(a.tensors[i].shape, b.tensors[i].shape);
    EXPECT_EQ(a.tensors[i].dtype, b.tensors[i].dtype);
  }
  // An index has the last word about what is stored, and written names may be a source, too.
  std::vector<std::string> names;
  for (const SourceTensor& tensor : list) names.push_back(tensor.name);
  EXPECT_EQ(sources(packed, names).size(), list.size());
  EXPECT_EQ(sources({}, names).size(), list.size());
  names.clear();
  for (const FinalTensor& tensor : b.tensors) names.push_back(tensor.name);
  EXPECT_EQ(sources({}, names).size(), b.tensors.size());
}

TEST(GptOss, CodesWithoutAWordInTheConfigAreRefused) {
  const std::vector<SourceTensor> list =
      sources(R"("quantization_config": {"quant_method": "mxfp4"})");
  try {
    build_inventory(config({}, 1), list);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupportedFormat);
    EXPECT_NE(error.message().find("found U8"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace jang
