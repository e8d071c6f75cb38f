// The baselines of stock mlx-lm: layer lists of the mixed recipes, rules for routers.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "arch/family.h"
#include "arch/spec_tensors.h"
#include "base/error.h"
#include "plan/plan.h"
#include "plan/shapes.h"

namespace jang {
namespace {

using test::DenseShape;
using test::Headers;

Plan plan_of(const Headers& headers, const std::string& profile,
             std::optional<int> group = std::nullopt) {
  PlanOptions options;
  options.profile = profile;
  options.group_size = group;
  return make_plan(headers.config, headers.inventory(), options);
}

std::map<std::string, AffineFormat> formats(const Plan& plan) {
  std::map<std::string, AffineFormat> out;
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.format) out[planned.tensor.path] = *planned.format;
  }
  return out;
}

TEST(Mixed, HighLayers) {
  const std::map<int64_t, std::set<int>> expected = {
      {16, {0, 1, 4, 7, 10, 13, 14, 15}},
      {28, {0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27}},
      {32, {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}},
  };
  for (const auto& [layers, high] : expected) {
    DenseShape shape;
    shape.layers = layers;
    const auto found = formats(plan_of(test::llama_headers(shape), "mixed_2_6"));
    for (int layer = 0; layer < layers; ++layer) {
      const std::string base = "model.layers." + std::to_string(layer) + ".";
      const int bits = high.contains(layer) ? 6 : 2;
      EXPECT_EQ(found.at(base + "self_attn.v_proj").bits, bits) << layers << " " << layer;
      EXPECT_EQ(found.at(base + "mlp.down_proj").bits, bits) << layers << " " << layer;
      EXPECT_EQ(found.at(base + "self_attn.q_proj").bits, 2);
      EXPECT_EQ(found.at(base + "mlp.up_proj").bits, 2);
    }
    EXPECT_EQ(found.at("lm_head").bits, 6);
    EXPECT_EQ(found.at("model.embed_tokens").bits, 2);
  }
}

TEST(Mixed, TiedEmbeddingAndRoutersTakeTheLowWidth) {
  DenseShape tied;
  tied.tied = true;
  EXPECT_EQ(formats(plan_of(test::llama_headers(tied), "mixed_3_4")).at("model.embed_tokens").bits,
            3);
  const auto hybrid = formats(plan_of(test::hybrid_headers(test::kShapeB), "mixed_3_6"));
  EXPECT_EQ(hybrid.at("language_model.model.layers.0.mlp.gate").bits, 3);
  EXPECT_EQ(hybrid.at("language_model.model.layers.0.mlp.shared_expert_gate").bits, 3);
  EXPECT_EQ(hybrid.at("language_model.model.layers.0.mlp.switch_mlp.down_proj").bits, 6);
  EXPECT_EQ(hybrid.at("language_model.model.layers.39.mlp.switch_mlp.down_proj").bits, 6);
  EXPECT_EQ(hybrid.at("language_model.model.layers.5.mlp.switch_mlp.down_proj").bits, 3);
}

TEST(Mixed, NeedsADownProjection) {
  Headers headers;
  headers.config = ModelConfig::parse(
      R"({"model_type": "mamba2", "num_hidden_layers": 1, "tie_word_embeddings": true,
          "hidden_size": 256, "vocab_size": 512, "num_heads": 8})",
      "config.json");
  for (SpecTensor& tensor : spec_tensors(require_family(headers.config).spec(headers.config)))
    headers.add(std::move(tensor.name), std::move(tensor.shape));
  EXPECT_THROW(plan_of(headers, "mixed_2_6"), Error);
  EXPECT_NO_THROW(plan_of(headers, "uniform-4"));
}

TEST(Uniform, EveryMatrixAndStockRules) {
  const auto dense = formats(plan_of(test::llama_headers({}), "uniform-4"));
  for (const auto& [path, format] : dense) {
    EXPECT_EQ(format.bits, 4) << path;
    EXPECT_EQ(format.group_size, 64) << path;
  }
  EXPECT_TRUE(dense.contains("model.embed_tokens"));
  EXPECT_TRUE(dense.contains("lm_head"));

  const auto hybrid = formats(plan_of(test::hybrid_headers(test::kShapeB), "uniform-3", 128));
  const std::string mlp = "language_model.model.layers.0.mlp.";
  EXPECT_EQ(hybrid.at(mlp + "gate").bits, 8);
  EXPECT_EQ(hybrid.at(mlp + "gate").group_size, 64);
  EXPECT_EQ(hybrid.at(mlp + "shared_expert_gate").bits, 8);
  EXPECT_EQ(hybrid.at(mlp + "switch_mlp.gate_proj").bits, 3);
  EXPECT_EQ(hybrid.at(mlp + "switch_mlp.gate_proj").group_size, 128);
}

TEST(Uniform, OnlyTheGlobalGroupCounts) {
  DenseShape shape;
  shape.intermediate = 416;  // 32 divides it, 64 does not
  const Headers headers = test::llama_headers(shape);
  const auto uniform = formats(plan_of(headers, "uniform-4"));
  EXPECT_FALSE(uniform.contains("model.layers.0.mlp.down_proj"));
  EXPECT_TRUE(uniform.contains("model.layers.0.mlp.up_proj"));
  for (const char* recipe : {"uniform-4", "mixed_3_4"}) {
    const std::vector<std::string> warnings = plan_of(headers, recipe).warnings;
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_TRUE(warnings[0].starts_with("4 matrices with ")) << warnings[0];
    EXPECT_NE(warnings[0].find("groups of 64 do not divide"), std::string::npos) << warnings[0];
    EXPECT_TRUE(plan_of(headers, recipe, 32).warnings.empty());
  }
  const auto jang = formats(plan_of(headers, "4L"));
  EXPECT_EQ(jang.at("model.layers.0.mlp.down_proj").group_size, 32);
  EXPECT_EQ(jang.at("model.layers.0.mlp.up_proj").group_size, 64);
}

TEST(Uniform, GraniteKeepsThreeProjectionsAtEight) {
  Headers headers = test::llama_headers({});
  Json config = headers.config.root();
  config["model_type"] = "granite";
  headers.config = ModelConfig::parse(dump_json(config), "config.json");
  const auto found = formats(plan_of(headers, "uniform-4"));
  EXPECT_EQ(found.at("model.layers.1.self_attn.o_proj").bits, 8);
  EXPECT_EQ(found.at("model.layers.1.mlp.down_proj").bits, 8);
  EXPECT_EQ(found.at("lm_head").bits, 8);
  EXPECT_EQ(found.at("model.layers.1.self_attn.q_proj").bits, 4);
}

}  // namespace
}  // namespace jang
