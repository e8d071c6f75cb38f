// K profiles: the bound over many random shapes, and the order in which they pay.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "plan/plan.h"
#include "plan/shapes.h"

namespace jang {
namespace {

using test::DenseShape;

Plan plan_of(const test::Headers& headers, const std::string& profile) {
  PlanOptions options;
  options.profile = profile;
  return make_plan(headers.config, headers.inventory(), options);
}

std::map<std::string, int> widths(const Plan& plan) {
  std::map<std::string, int> out;
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.format) out[planned.tensor.path] = planned.format->bits;
  }
  return out;
}

TEST(Budget, NeverOverTheTarget) {
  std::mt19937 random(20240817);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int round = 0; round < 400; ++round) {
    DenseShape shape;
    shape.layers = pick(1, 24);
    shape.heads = pick(1, 6);
    shape.kv_heads = 1;
    shape.head_dim = 32 * pick(1, 4);
    shape.hidden = 32 * pick(1, 20);
    shape.intermediate = 32 * pick(1, 60);
    shape.vocabulary = pick(1, 40) * (round % 3 == 0 ? 1000 : 10);
    shape.tied = round % 2 == 0;
    const test::Headers headers = test::llama_headers(shape);
    for (const int target : {3, 4, 5, 6}) {
      const Plan plan = plan_of(headers, std::to_string(target) + "K");
      uint64_t bits = 0, weights = 0;
      for (const PlannedTensor& planned : plan.tensors) {
        if (!planned.format) continue;
        weights += planned.tensor.elements();
        bits += planned.tensor.elements() * static_cast<uint64_t>(planned.format->bits);
        EXPECT_GE(planned.format->bits, target == 3 ? 2 : 3);
      }
      ASSERT_LE(bits, weights * static_cast<uint64_t>(target))
          << target << "K, layers " << shape.layers << ", hidden " << shape.hidden;
      EXPECT_DOUBLE_EQ(plan.target_bits.value(), target);
    }
  }
}

TEST(Budget, HybridHeadersStayWholeAndUnderTheTarget) {
  const test::Headers headers = test::hybrid_headers(test::kShapeB);
  for (const int target : {3, 4, 5, 6}) {
    const Plan plan = plan_of(headers, std::to_string(target) + "K");
    EXPECT_LE(plan.average_bits, target);
    EXPECT_GT(plan.average_bits, target - 0.01);
  }
}

TEST(Budget, PaysFromTheMiddleUpThenGateThenDown) {
  DenseShape shape;
  shape.layers = 16;
  shape.hidden = 512;
  shape.intermediate = 4096;
  shape.heads = 2;
  shape.kv_heads = 1;
  shape.vocabulary = 1000;
  const auto bits = widths(plan_of(test::llama_headers(shape), "4K"));
  const auto at = [&](int layer, const std::string& part) {
    return bits.at("model.layers." + std::to_string(layer) + "." + part);
  };
  // attention climbs: under 5 % of the weights, so to 8
  EXPECT_EQ(at(8, "self_attn.q_proj"), 8);
  EXPECT_EQ(at(0, "self_attn.o_proj"), 8);
  EXPECT_EQ(bits.at("lm_head"), 8);
  EXPECT_EQ(bits.at("model.embed_tokens"), 4);
  // edges climb a rung and are never lowered first
  for (const int layer : {0, 1, 14, 15}) {
    for (const char* part : {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      EXPECT_EQ(at(layer, part), 5) << layer << part;
    }
  }
  // the two middle layers pay first, and within a distance up before gate before down
  EXPECT_EQ(at(7, "mlp.up_proj"), 3);
  EXPECT_EQ(at(8, "mlp.up_proj"), 3);
  for (int layer = 2; layer < 14; ++layer) {
    EXPECT_LE(at(layer, "mlp.up_proj"), at(layer, "mlp.gate_proj")) << layer;
    EXPECT_LE(at(layer, "mlp.gate_proj"), at(layer, "mlp.down_proj")) << layer;
  }
  for (int layer = 2; layer < 7; ++layer) {  // closer to the edge never has less
    EXPECT_GE(at(layer, "mlp.up_proj"), at(layer + 1, "mlp.up_proj")) << layer;
  }
}

TEST(Budget, LargeAttentionClimbsHalfAsFar) {
  const auto bits = widths(plan_of(test::llama_headers(test::kLlama8B), "4K"));
  EXPECT_EQ(bits.at("model.layers.9.self_attn.q_proj"), 6);
  EXPECT_EQ(bits.at("model.layers.0.self_attn.q_proj"), 8);  // and one rung at the edge
}

TEST(Budget, WarnsWhenMostOfTheMlpPays) {
  const Plan dense = plan_of(test::llama_headers(test::kLlama8B), "4K");
  ASSERT_EQ(dense.warnings.size(), 1u);
  EXPECT_NE(dense.warnings[0].find("of the MLP weights were lowered to 3 bits"), std::string::npos);
  EXPECT_LE(dense.average_bits, 4.0);
  const Plan sparse = plan_of(test::hybrid_headers(test::kShapeB), "4K");
  for (const std::string& warning : sparse.warnings) {
    EXPECT_EQ(warning.find("lowered"), std::string::npos) << warning;
  }
}

TEST(Budget, TooSmallToPayTakesBackWhatItRaised) {
  DenseShape shape;
  shape.layers = 2;  // both layers are edges: nothing may be lowered
  const Plan plan = plan_of(test::llama_headers(shape), "4K");
  EXPECT_LE(plan.average_bits, 4.0);
  for (const auto& [path, bits] : widths(plan)) EXPECT_EQ(bits, 4) << path;
}

}  // namespace
}  // namespace jang
