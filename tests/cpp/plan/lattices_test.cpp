// Lattices of a source in planning: a width that is chosen prefers them, one that the user chose
// does not move, and no plan grows by them.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "io/json.h"
#include "plan/plan.h"
#include "plan/plan_document.h"
#include "plan/shapes.h"

namespace jang {
namespace {

constexpr const char* kUp = "model.layers.1.mlp.up_proj";
constexpr const char* kQuery = "model.layers.1.self_attn.q_proj";

Plan plan_of(const PlanOptions& options, const test::Headers& headers = test::llama_headers({})) {
  return make_plan(headers.config, headers.inventory(), options);
}

const PlannedTensor& find(const Plan& plan, const std::string& path) {
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.tensor.path == path) return planned;
  }
  throw std::out_of_range(path);
}

void expect_format(const Plan& plan, const std::string& path, int bits, int group, bool lattice) {
  const PlannedTensor& planned = find(plan, path);
  EXPECT_EQ(planned.format->bits, bits) << path;
  EXPECT_EQ(planned.format->group_size, group) << path;
  EXPECT_EQ(planned.lattice, lattice) << path;
}

PlanOptions options_for(const std::string& profile, Lattices lattices) {
  PlanOptions options;
  options.profile = profile;
  options.lattices = std::move(lattices);
  return options;
}

/// The same lattice for every matrix of a model.
Lattices everywhere(const Lattice& lattice, const test::Headers& headers) {
  Lattices lattices;
  for (const FinalTensor& tensor : headers.inventory().tensors) {
    if (tensor.packable) lattices[tensor.path] = {lattice};
  }
  return lattices;
}

TEST(Lattices, ProfilesTakeThoseOfNoMoreBits) {
  // 4L: 4 bits for the MLP, 8 for attention.
  const Plan plan = plan_of(options_for("JANG_4L", {{kUp, {{4, 32}}}, {kQuery, {{5, 128}}}}));
  expect_format(plan, kUp, 4, 32, true);
  expect_format(plan, kQuery, 5, 128, true);
  expect_format(plan, "model.layers.0.mlp.up_proj", 4, 64, false);
  expect_format(plan_of(options_for("JANG_4L", {{kUp, {{5, 32}}}})), kUp, 4, 64, false);
  expect_format(plan_of(options_for("JANG_3L", {{kUp, {{4, 32}}}})), kUp, 3, 64, false);
}

TEST(Lattices, TheLargestShareThatTheWidthAllows) {
  const Lattices lattices = {{kUp, {{2, 64, 0.995}, {4, 64, 1.0}}}};
  expect_format(plan_of(options_for("JANG_4L", lattices)), kUp, 4, 64, true);
  expect_format(plan_of(options_for("JANG_3L", lattices)), kUp, 2, 64, true);
  expect_format(plan_of(options_for("uniform-8", lattices)), kUp, 4, 64, true);
}

TEST(Lattices, AnExplicitGroupSizeIsKept) {
  PlanOptions options = options_for("JANG_4L", {{kUp, {{4, 32}}}, {kQuery, {{4, 64}}}});
  options.group_size = 64;
  const Plan plan = plan_of(options);
  expect_format(plan, kUp, 4, 64, false);
  expect_format(plan, kQuery, 4, 64, true);
}

TEST(Lattices, RulesWinAndMayHoldOneToo) {
  PlanOptions options = options_for("JANG_4L", {{kUp, {{4, 64}}}, {kQuery, {{4, 64}}}});
  options.rules = {parse_width_rule("*.up_proj=3"), parse_width_rule("*.1.*.q_proj=6:32")};
  const Plan plan = plan_of(options);
  expect_format(plan, kUp, 3, 64, false);
  expect_format(plan, kQuery, 6, 32, true);  // groups of 32 within those of 64, bits to spare
  options.rules = {parse_width_rule("*.q_proj=6:128"), parse_width_rule("*.up_proj=none")};
  const Plan wide = plan_of(options);
  expect_format(wide, kQuery, 6, 128, false);
  EXPECT_FALSE(find(wide, kUp).format);
}

TEST(Lattices, KProfilesStayAtTheirMean) {
  const test::Headers headers = test::llama_headers(test::kLlama8B);
  for (const int target : {3, 4, 5, 6}) {
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      const std::string profile = "JANG_" + std::to_string(target) + "K";
      const Plan without = plan_of(options_for(profile, {}), headers);
      const Plan plan = plan_of(options_for(profile, everywhere({bits, 32}, headers)), headers);
      EXPECT_LE(plan.average_bits, target) << profile << " " << bits;
      for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
        if (!plan.tensors[i].format) continue;
        EXPECT_EQ(plan.tensors[i].lattice, bits <= without.tensors[i].format->bits);
        EXPECT_LE(plan.tensors[i].format->bits, without.tensors[i].format->bits);
      }
    }
  }
}

TEST(Lattices, ASizeTakesThemForNothingLost) {
  const test::Headers headers = test::llama_headers(test::kLlama8B);
  PlanOptions options = options_for("", everywhere({4, 32}, headers));
  options.target = SizeTarget{4.6, std::nullopt};
  const Plan narrow = plan_of(options, headers);
  EXPECT_LE(narrow.file_bytes, narrow.allocation->requested_bytes);
  EXPECT_GT(narrow.prior_loss, 0);
  // 4 bits in groups of 32 in bf16 are 5 bits a weight; whatever is above that buys nothing.
  options.target = SizeTarget{5.01, std::nullopt};
  const Plan plan = plan_of(options, headers);
  EXPECT_EQ(plan.prior_loss, 0);
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.format) continue;
    expect_format(plan, planned.tensor.path, 4, 32, true);
  }
  for (const double bits : {6.0, 9.0, 60.0}) {
    options.target = SizeTarget{bits, std::nullopt};
    EXPECT_EQ(plan_of(options, headers).file_bytes, plan.file_bytes) << bits;
  }
  // Some matrices only: the others share what is left.
  options.target = SizeTarget{5.01, std::nullopt};
  options.lattices = {{kUp, {{3, 128}}}};
  const Plan mixed = plan_of(options, headers);
  expect_format(mixed, kUp, 3, 128, true);
  EXPECT_LT(mixed.prior_loss, [&] {
    options.lattices.clear();
    return plan_of(options, headers).prior_loss;
  }());
}

TEST(Lattices, FloorsAreForWhatLosesSomething) {
  const test::Headers headers = test::llama_headers(test::kLlama8B);
  PlanOptions options = options_for("", everywhere({2, 64}, headers));
  options.target = SizeTarget{5.0, std::nullopt};
  const Plan plan = plan_of(options, headers);
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.format) continue;
    expect_format(plan, planned.tensor.path, 2, 64, true);
  }
  for (const FloorRow& row : plan.allocation->floors) EXPECT_EQ(row.binding, 0u) << row.name;
}

TEST(Lattices, WhatMissesThemCounts) {
  const test::Headers headers = test::llama_headers(test::kLlama8B);
  PlanOptions options = options_for("", {{kUp, {{2, 64, 0.99}, {4, 64, 1.0}}}});
  options.target = SizeTarget{3.0, std::nullopt};
  expect_format(plan_of(options, headers), kUp, 2, 64, true);
  options.target = SizeTarget{60.0, std::nullopt};
  expect_format(plan_of(options, headers), kUp, 4, 64, true);
}

TEST(Lattices, TheDocumentCountsThem) {
  const test::Headers headers = test::llama_headers({});
  const Plan plan = plan_of(options_for("JANG_4L", {{kUp, {{4, 32}}}, {kQuery, {{4, 32}}}}));
  ConversionRecord record;
  record.method = "mse";
  const auto document = [&] {
    return parse_json(jang_config_json(plan, headers.config, record), "jang_config.json",
                      ErrorCode::kConfigSyntax);
  };
  EXPECT_EQ(document().find("quantization")->find("lattices"), nullptr);
  record.lattices[kUp] = {1000, 1000};
  record.lattices[kQuery] = {1000, 996};
  const Json written = document();
  const Json& quantization = *written.find("quantization");
  const Json& lattices = *quantization.find("lattices");
  const auto number = [](const Json& object, const char* key) {
    int64_t value = -1;
    object.find(key)->get_integer(0, INT64_MAX, value);
    return value;
  };
  EXPECT_EQ(number(lattices, "tensors"), 2);
  EXPECT_EQ(number(lattices, "lossless_tensors"), 1);
  EXPECT_EQ(number(lattices, "groups"), 2000);
  EXPECT_EQ(number(lattices, "lossless_groups"), 1996);
  EXPECT_DOUBLE_EQ(lattices.find("share")->as_double(), 0.998);
  const Json& manifest = *quantization.find("tensor_quantization_manifest");
  EXPECT_EQ(manifest.find(kQuery)->find("solver")->as_string(), "lattice");
  EXPECT_EQ(number(*manifest.find(kQuery), "lossless_groups"), 996);
  EXPECT_EQ(manifest.find("lm_head")->find("solver")->as_string(), "mse");
  EXPECT_EQ(manifest.find("lm_head")->find("lossless_groups"), nullptr);
}

}  // namespace
}  // namespace jang
