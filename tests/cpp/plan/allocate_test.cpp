// `--bits` and `--size`: exact targets over many shapes, floors, options on top, losses from
// outside.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "base/error.h"
#include "plan/plan.h"
#include "plan/prior.h"
#include "plan/shapes.h"

namespace jang {
namespace {

using test::DenseShape;
using test::Headers;

Plan plan_of(const Headers& headers, PlanOptions options) {
  return make_plan(headers.config, headers.inventory(), options);
}

PlanOptions to_bits(double bits) {
  PlanOptions options;
  options.target = SizeTarget{bits, std::nullopt};
  return options;
}

PlanOptions to_bytes(uint64_t bytes) {
  PlanOptions options;
  options.target = SizeTarget{std::nullopt, bytes};
  return options;
}

const PlannedTensor& find(const Plan& plan, const std::string& path) {
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.tensor.path == path) return planned;
  }
  throw std::out_of_range(path);
}

std::map<std::string, std::pair<int, int>> formats(const Plan& plan) {
  std::map<std::string, std::pair<int, int>> out;
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.format) {
      out[planned.tensor.path] = {planned.format->bits, planned.format->group_size};
    }
  }
  return out;
}

const FloorRow& floor_of(const Plan& plan, const std::string& name) {
  for (const FloorRow& row : plan.allocation->floors) {
    if (row.name == name) return row;
  }
  throw std::out_of_range(name);
}

std::string refusal(const Headers& headers, const PlanOptions& options) {
  try {
    plan_of(headers, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    return error.what();
  }
  return {};
}

TEST(Allocation, NeverOverTheTargetOverManyShapes) {
  std::mt19937 random(20250214);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  int planned = 0;
  for (int round = 0; round < 300; ++round) {
    DenseShape shape;
    shape.layers = pick(1, 12);
    shape.heads = pick(1, 6);
    shape.kv_heads = 1;
    shape.head_dim = 32 * pick(1, 4);
    shape.hidden = 32 * pick(1, 20);
    shape.intermediate = round % 7 == 0 ? pick(1, 900) : 32 * pick(1, 60);
    shape.vocabulary = pick(1, 40) * (round % 3 == 0 ? 1000 : 10);
    shape.tied = round % 2 == 0;
    const Headers headers = test::llama_headers(shape);
    const Plan widest = plan_of(headers, to_bits(60));
    const uint64_t low = widest.allocation->lowest_bytes;
    const uint64_t high = widest.allocation->highest_bytes;
    ASSERT_EQ(widest.file_bytes, high);
    ASSERT_FALSE(widest.warnings.empty());
    for (int i = 0; i < 10; ++i) {
      const uint64_t budget = std::uniform_int_distribution<uint64_t>(low, high)(random);
      const Plan plan = plan_of(headers, to_bytes(budget));
      ASSERT_LE(plan.file_bytes, budget) << round;
      ASSERT_GE(plan.file_bytes, low);
      ++planned;
    }
    ASSERT_EQ(plan_of(headers, to_bytes(low)).file_bytes, low);
    ASSERT_NE(refusal(headers, to_bytes(low - 1)), "");
  }
  EXPECT_EQ(planned, 3000);
}

TEST(Allocation, FillsATenthOfAPercent) {
  const Headers models[] = {test::llama_headers(test::kLlama8B),
                            test::hybrid_headers(test::kShapeA),
                            test::hybrid_headers(test::kShapeB)};
  for (const Headers& headers : models) {
    for (const double bits : {2.6, 3.0, 3.25, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0}) {
      const Plan plan = plan_of(headers, to_bits(bits));
      EXPECT_LE(plan.bits_per_weight, bits);
      EXPECT_GT(plan.bits_per_weight, bits * 0.999) << bits;
      EXPECT_EQ(plan.target_bits, bits);
    }
  }
}

TEST(Allocation, MoreBytesNeverLoseMore) {
  const Headers headers = test::llama_headers(test::kLlama8B);
  double before = 0;
  for (const double bits : {3.0, 3.5, 4.0, 4.5, 5.5, 6.5, 8.0}) {
    const Plan plan = plan_of(headers, to_bits(bits));
    EXPECT_GT(plan.average_bits, before) << bits;
    before = plan.average_bits;
  }
}

TEST(Allocation, NamesAndRecordsTheTarget) {
  const Headers headers = test::llama_headers({});
  const Plan by_bits = plan_of(headers, to_bits(4.25));
  EXPECT_EQ(by_bits.profile, "bits-4.25");
  ASSERT_TRUE(by_bits.allocation);
  EXPECT_EQ(by_bits.allocation->requested_bits, 4.25);
  EXPECT_FALSE(by_bits.allocation->measured);
  const uint64_t bytes = by_bits.allocation->requested_bytes;
  EXPECT_EQ(bytes, static_cast<uint64_t>(4.25 * static_cast<double>(by_bits.parameters) / 8));
  const Plan by_size = plan_of(headers, to_bytes(bytes));
  EXPECT_EQ(by_size.profile, "size-" + std::to_string(bytes));
  EXPECT_EQ(formats(by_size), formats(by_bits));
  PlanOptions profile;
  profile.profile = "4L";
  EXPECT_FALSE(plan_of(headers, profile).allocation);
}

TEST(Allocation, DoesNotDependOnTheOrderOfTheSources) {
  Headers headers = test::llama_headers({});
  const auto expected = formats(plan_of(headers, to_bits(4.1)));
  std::mt19937 random(3);
  for (int i = 0; i < 5; ++i) {
    std::shuffle(headers.tensors.begin(), headers.tensors.end(), random);
    EXPECT_EQ(formats(plan_of(headers, to_bits(4.1))), expected);
  }
}

TEST(Allocation, RefusesWithTheInterval) {
  const Headers headers = test::llama_headers(test::kLlama8B);
  const std::string message = refusal(headers, to_bits(1.5));
  EXPECT_NE(message.find("the target of 1.500 bits per weight"), std::string::npos) << message;
  EXPECT_NE(message.find("the files can take 2.25"), std::string::npos) << message;
  EXPECT_NE(message.find("to 8.25"), std::string::npos) << message;
  for (const double bits : {0.0, -1.0, 65.0, std::nan("")}) {
    EXPECT_NE(refusal(headers, to_bits(bits)), "") << bits;
  }
  PlanOptions both;
  both.target = SizeTarget{4.0, 1000};
  EXPECT_NE(refusal(headers, both), "");
}

TEST(Allocation, FloorsOfTheTableWhereTheyAreCheap) {
  const Headers headers = test::llama_headers(test::kLlama8B);
  const Plan plan = plan_of(headers, to_bits(6));
  EXPECT_GE(find(plan, "lm_head").format->bits, 6);
  EXPECT_GE(find(plan, "model.embed_tokens").format->bits, 4);
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.format && planned.tensor.role.role == Role::kAttention) {
      EXPECT_GE(planned.format->bits, 4) << planned.tensor.path;
    }
  }
  EXPECT_EQ(floor_of(plan, "head").bits, 6);
  EXPECT_EQ(floor_of(plan, "head").wanted, 6);
  EXPECT_EQ(floor_of(plan, "attention").modules, 128u);
}

TEST(Allocation, FloorsGiveWayWhereTheyCost) {
  DenseShape shape;  // embedding and head are half of it
  shape.layers = 6;
  shape.hidden = 256;
  shape.vocabulary = 16384;
  const Headers headers = test::llama_headers(shape);
  const Plan plan = plan_of(headers, to_bits(3));
  EXPECT_EQ(floor_of(plan, "head").wanted, 6);
  EXPECT_LT(floor_of(plan, "head").bits, 6);
  EXPECT_GT(plan.bits_per_weight, 2.99);
  // at the narrow end floors give way altogether
  const Plan narrow = plan_of(headers, to_bytes(plan.allocation->lowest_bytes + 4000));
  EXPECT_LE(narrow.file_bytes, plan.allocation->lowest_bytes + 4000);
}

// Floors included, a size is never expected to be worse than a profile of the same bytes.
TEST(Allocation, NotWorseThanProfilesOfTheSameSize) {
  DenseShape small;
  small.layers = 6;
  small.hidden = 256;
  small.vocabulary = 16384;
  for (const Headers& headers : {test::llama_headers(small), test::llama_headers(test::kLlama8B)}) {
    for (const char* profile : {"uniform-3", "uniform-4", "uniform-6", "JANG_3K", "JANG_4K",
                                "JANG_4S", "JANG_2M", "mixed_3_4", "tiered-4L"}) {
      PlanOptions options;
      options.profile = profile;
      const Plan ours = plan_of(headers, options);
      const Plan sized = plan_of(headers, to_bytes(ours.file_bytes));
      EXPECT_LE(sized.prior_loss, ours.prior_loss) << profile;
    }
  }
}

TEST(Allocation, RoutersDecaysAndVectorsStayOutOfIt) {
  const Headers headers = test::hybrid_headers(test::kShapeB);
  const Plan plan = plan_of(headers, to_bits(3));
  const std::string base = "language_model.model.layers.";
  EXPECT_FALSE(find(plan, base + "7.mlp.gate").format);
  EXPECT_FALSE(find(plan, base + "7.mlp.shared_expert_gate").format);
  EXPECT_FALSE(find(plan, base + "0.linear_attn.conv1d").format);
  EXPECT_EQ(find(plan, base + "0.linear_attn.in_proj_a").format->bits, 8);
  EXPECT_GE(find(plan, base + "0.linear_attn.out_proj").format->bits, 5);
  EXPECT_GE(find(plan, base + "3.self_attn.k_proj").format->bits, 4);
  EXPECT_LE(find(plan, base + "7.mlp.switch_mlp.up_proj").format->bits, 3);
}

TEST(Allocation, OptionsAreFixedAndCount) {
  const Headers headers = test::hybrid_headers(test::kShapeB);
  PlanOptions options = to_bits(3.75);
  options.router_bits = 8;
  options.expert_floor = 3;
  options.rules = {parse_width_rule("*.o_proj=2:64"), parse_width_rule("*lm_head=none")};
  const Plan plan = plan_of(headers, options);
  const std::string base = "language_model.model.layers.";
  EXPECT_EQ(find(plan, base + "7.mlp.gate").format->bits, 8);
  EXPECT_EQ(find(plan, base + "7.self_attn.o_proj").format->bits, 2);
  EXPECT_EQ(find(plan, base + "7.self_attn.o_proj").format->group_size, 64);
  EXPECT_FALSE(find(plan, "language_model.lm_head").format);
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.tensor.role.role == Role::kExpert) {
      EXPECT_GE(planned.format->bits, 3);
    }
  }
  EXPECT_LE(plan.bits_per_weight, 3.75);
  EXPECT_GT(plan.bits_per_weight, 3.745);
}

TEST(Allocation, OneGroupSizeForAll) {
  const Headers headers = test::llama_headers(test::kLlama8B);
  PlanOptions options = to_bits(4);
  options.group_size = 32;
  for (const auto& [path, format] : formats(plan_of(headers, options))) {
    EXPECT_EQ(format.second, 32) << path;
  }
  // narrow matrices take what divides them: 64, then 32, then nothing
  DenseShape shape;
  shape.hidden = 192;
  shape.intermediate = 96;
  const Plan mixed = plan_of(test::llama_headers(shape), to_bits(5));
  EXPECT_EQ(find(mixed, "model.layers.0.mlp.up_proj").format->group_size, 64);
  EXPECT_EQ(find(mixed, "model.layers.0.mlp.down_proj").format->group_size, 32);
  shape.intermediate = 100;
  const Plan odd = plan_of(test::llama_headers(shape), to_bits(6));
  EXPECT_FALSE(find(odd, "model.layers.0.mlp.down_proj").format);
}

TEST(Allocation, ThePriorLossComparesPlans) {
  const Headers headers = test::llama_headers(test::kLlama8B);
  const auto by_profile = [&](const std::string& profile) {
    PlanOptions options;
    options.profile = profile;
    return plan_of(headers, options);
  };
  // one format for all matrices: only its error differs
  const double four = by_profile("uniform-4").prior_loss, five = by_profile("uniform-5").prior_loss;
  EXPECT_NEAR(five / four, prior_error(5, 64) / prior_error(4, 64), 1e-12);
  for (const char* profile : {"JANG_2M", "JANG_3L", "JANG_4L", "JANG_4K", "tiered-4L"}) {
    const Plan plan = by_profile(profile);
    const Plan other = plan_of(headers, to_bytes(plan.file_bytes));
    EXPECT_LT(other.prior_loss, plan.prior_loss) << profile;
  }
  // what is left unquantized loses nothing
  PlanOptions none;
  none.rules = {parse_width_rule("*=none")};
  EXPECT_EQ(plan_of(headers, none).prior_loss, 0);
}

TEST(Allocation, MeasuredLossesDecide) {
  const Headers headers = test::llama_headers(test::kLlama8B);
  const std::string path = "model.layers.15.mlp.gate_proj";
  const int before = find(plan_of(headers, to_bits(4)), path).format->bits;
  ASSERT_LT(before, 8);
  PlanOptions options = to_bits(4);
  ModuleLoss& loss = options.losses[path];
  double error = 1e9;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    loss.errors.push_back({bits, 128, error});
    error /= 4;
  }
  loss.sensitivity = 1e9;
  const Plan plan = plan_of(headers, options);
  EXPECT_EQ(find(plan, path).format->bits, 8);
  EXPECT_TRUE(plan.allocation->measured);
  // a width that was not measured is not taken; errors alone are weighed as the prior's are
  options.losses[path] = {{{3, 64, 1.0}}, std::nullopt};
  EXPECT_EQ(find(plan_of(headers, options), path).format->bits, 3);
  options.losses[path] = {{{3, 32, 1.0}}, std::nullopt};
  EXPECT_NE(refusal(headers, options), "");
  options.losses[path] = {{{3, 128, std::nan("")}}, std::nullopt};
  EXPECT_NE(refusal(headers, options), "");
}

}  // namespace
}  // namespace jang
