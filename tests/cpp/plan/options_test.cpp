// Options over a profile: rules, routers, floors, dtypes; and what happens to a tied head.
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "plan/plan.h"
#include "plan/shapes.h"
#include "plan/widths.h"

namespace jang {
namespace {

using test::DenseShape;
using test::Headers;

const PlannedTensor& find(const Plan& plan, const std::string& path) {
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.tensor.path == path) return planned;
  }
  throw std::out_of_range(path);
}

Plan plan_of(const Headers& headers, PlanOptions options) {
  if (options.profile == "JANG_4K") options.profile = "4L";
  return make_plan(headers.config, headers.inventory(), options);
}

TEST(Glob, FollowsFnmatch) {
  struct Case {
    const char *pattern, *text;
    bool matches;
  };
  constexpr Case kCases[] = {
      {"*", "a.b", true},
      {"*.v_proj", "model.layers.3.self_attn.v_proj", true},
      {"v_proj", "a.v_proj", false},
      {"a?c", "abc", true},
      {"a?c", "ac", false},
      {"l.[0-3].x", "l.2.x", true},
      {"l.[0-3].x", "l.4.x", false},
      {"l.[!0-3].x", "l.4.x", true},
      {"l.[!0-3].x", "l.1.x", false},
      {"a[b", "a[b", true},
      {"[]]x", "]x", true},
      {"A", "a", false},
      {"*a*b*c", "xxaxxbxxc", true},
      {"*a*b*c", "xxaxxcxxb", false},
      {"", "", true},
      {"", "a", false},
      {"a*", "a", true},
      {"**", "", true},
  };
  for (const Case& c : kCases) {
    EXPECT_EQ(glob_match(c.pattern, c.text), c.matches) << c.pattern << " " << c.text;
  }
}

TEST(Rules, Parse) {
  const WidthRule plain = parse_width_rule("*.down_proj=6");
  EXPECT_EQ(plain.pattern, "*.down_proj");
  EXPECT_EQ(plain.bits, 6);
  EXPECT_FALSE(plain.group_size);
  EXPECT_EQ(parse_width_rule("a=4:128").group_size, 128);
  EXPECT_FALSE(parse_width_rule("a=none").bits);
  EXPECT_EQ(parse_width_rule("a=b=2").pattern, "a=b");
  for (const char* text : {"", "a", "=4", "a=", "a=7", "a=4:16", "a=4:", "a=1", "a=x", "a=4x"}) {
    EXPECT_THROW(parse_width_rule(text), Error) << text;
  }
}

TEST(Rules, LastMatchWinsAndUnmatchedFails) {
  const Headers headers = test::llama_headers({});
  PlanOptions options;
  options.rules = {parse_width_rule("*.mlp.*=3:32"), parse_width_rule("*.2.mlp.down_proj=8"),
                   parse_width_rule("lm_head=none")};
  const Plan plan = plan_of(headers, options);
  EXPECT_EQ(find(plan, "model.layers.0.mlp.up_proj").format->bits, 3);
  EXPECT_EQ(find(plan, "model.layers.0.mlp.up_proj").format->group_size, 32);
  EXPECT_EQ(find(plan, "model.layers.2.mlp.down_proj").format->bits, 8);
  EXPECT_FALSE(find(plan, "lm_head").format);
  EXPECT_EQ(find(plan, "model.layers.0.self_attn.q_proj").format->bits, 8);

  options.rules = {parse_width_rule("*.w_proj=4")};
  EXPECT_THROW(plan_of(headers, options), Error);
  // a norm is no module that can be quantized
  options.rules = {parse_width_rule("model.norm=4")};
  EXPECT_THROW(plan_of(headers, options), Error);
}

TEST(Options, Refused) {
  const Headers headers = test::llama_headers({});
  const auto refuses = [&](auto change) {
    PlanOptions options;
    change(options);
    try {
      plan_of(headers, options);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kArgument;
    }
    return false;
  };
  EXPECT_TRUE(refuses([](PlanOptions& o) { o.group_size = 16; }));
  EXPECT_TRUE(refuses([](PlanOptions& o) { o.router_bits = 4; }));
  EXPECT_TRUE(refuses([](PlanOptions& o) { o.expert_floor = 7; }));
  EXPECT_TRUE(refuses([](PlanOptions& o) { o.dtype = DType::kU8; }));
  EXPECT_TRUE(refuses([](PlanOptions& o) { o.profile = "5X"; }));
}

TEST(Options, RoutersAndFloor) {
  const Headers headers = test::hybrid_headers(test::kShapeB);
  const std::string mlp = "language_model.model.layers.7.mlp.";
  PlanOptions options;
  options.profile = "2S";
  EXPECT_FALSE(find(plan_of(headers, options), mlp + "gate").format);
  options.router_bits = 8;
  options.expert_floor = 3;
  const Plan plan = plan_of(headers, options);
  EXPECT_EQ(find(plan, mlp + "gate").format->bits, 8);
  EXPECT_EQ(find(plan, mlp + "gate").format->group_size, 64);
  EXPECT_EQ(find(plan, mlp + "shared_expert_gate").format->bits, 8);
  EXPECT_EQ(find(plan, mlp + "switch_mlp.up_proj").format->bits, 3);
  EXPECT_EQ(find(plan, mlp + "shared_expert.up_proj").format->bits, 4);
}

TEST(Options, AFloorIsHeldInsideABudget) {
  const Headers headers = test::hybrid_headers(test::kShapeB);
  PlanOptions options;
  options.profile = "JANG_4K ";
  options.expert_floor = 4;
  const Plan plan = make_plan(headers.config, headers.inventory(), options);
  EXPECT_LE(plan.average_bits, 4.0);
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.tensor.role.role == Role::kExpert) {
      EXPECT_GE(planned.format->bits, 4);
    }
  }
}

TEST(Options, ColumnsByRole) {
  const Headers headers = test::hybrid_headers(test::kShapeB);
  PlanOptions options;
  options.profile = "2L";  // MLP 2, attention 8, embedding 6, head 8
  const Plan plan = plan_of(headers, options);
  const std::string base = "language_model.model.layers.";
  EXPECT_EQ(find(plan, base + "3.self_attn.q_proj").format->bits, 8);
  EXPECT_EQ(find(plan, base + "0.linear_attn.in_proj_qkv").format->bits, 6);
  EXPECT_EQ(find(plan, base + "0.linear_attn.in_proj_a").format->bits, 8);
  EXPECT_EQ(find(plan, base + "0.linear_attn.out_proj").format->bits, 2);
  EXPECT_EQ(find(plan, base + "0.mlp.shared_expert.gate_proj").format->bits, 6);
  EXPECT_EQ(find(plan, base + "0.mlp.switch_mlp.gate_proj").format->bits, 2);
  EXPECT_EQ(find(plan, "language_model.model.embed_tokens").format->bits, 6);
  EXPECT_EQ(find(plan, "language_model.lm_head").format->bits, 8);
  EXPECT_FALSE(find(plan, base + "0.linear_attn.conv1d").format);
  EXPECT_FALSE(find(plan, base + "0.linear_attn.norm").format);
  EXPECT_EQ(find(plan, base + "0.linear_attn.A_log").dtype, DType::kF32);  // as in the source
  EXPECT_EQ(plan.activation_dtype, DType::kBF16);
}

TEST(Options, ATiedEmbeddingTakesTheLargerColumn) {
  DenseShape shape;
  shape.tied = true;
  PlanOptions options;
  options.profile = "4M";  // embedding 4, head 6
  const Plan plan = plan_of(test::llama_headers(shape), options);
  EXPECT_EQ(find(plan, "model.embed_tokens").format->bits, 6);
  EXPECT_TRUE(plan.tied_head);
  EXPECT_THROW(find(plan, "lm_head"), std::out_of_range);
  options.profile = "6K";
  EXPECT_LE(plan_of(test::llama_headers(shape), options).average_bits, 6.0);
}

TEST(Options, Dtypes) {
  Headers headers = test::llama_headers({});
  for (SourceTensor& tensor : headers.tensors) tensor.dtype = DType::kF32;
  headers.tensors[0].dtype = DType::kF16;
  const Plan as_source = plan_of(headers, {});
  EXPECT_EQ(as_source.activation_dtype, DType::kF32);  // of most weights
  EXPECT_EQ(find(as_source, "model.embed_tokens").format->metadata, DType::kF32);
  EXPECT_EQ(find(as_source, "model.norm").dtype, DType::kF32);
  PlanOptions options;
  options.dtype = DType::kBF16;
  const Plan cast = plan_of(headers, options);
  EXPECT_EQ(cast.activation_dtype, DType::kBF16);
  EXPECT_EQ(find(cast, "model.layers.0.mlp.up_proj").format->metadata, DType::kBF16);
  EXPECT_EQ(find(cast, "model.norm").dtype, DType::kBF16);
  EXPECT_LT(cast.file_bytes, as_source.file_bytes);
}

TEST(Options, NothingDividesAnOddWidth) {
  DenseShape shape;
  shape.intermediate = 500;
  const Plan plan = plan_of(test::llama_headers(shape), {});
  EXPECT_FALSE(find(plan, "model.layers.0.mlp.down_proj").format);
  EXPECT_TRUE(find(plan, "model.layers.0.mlp.up_proj").format);
  ASSERT_FALSE(plan.warnings.empty());
  EXPECT_NE(plan.warnings[0].find("no group size divides its 500 inputs"), std::string::npos);
}

}  // namespace
}  // namespace jang
