// Sizes to the byte, shards, and the sums that reports print.
#include <gtest/gtest.h>

#include <set>

#include "io/safetensors_writer.h"
#include "plan/plan.h"
#include "plan/shapes.h"

namespace jang {
namespace {

Plan plan_of(const test::Headers& headers, const std::string& profile) {
  PlanOptions options;
  options.profile = profile;
  return make_plan(headers.config, headers.inventory(), options);
}

TEST(Layout, BytesOfATriple) {
  const Plan plan = plan_of(test::llama_headers({}), "4S");  // attention 5 bits
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.tensor.path != "model.layers.0.self_attn.k_proj") continue;
    // 128 rows of 256: 160 bytes of codes, 4 groups of 2 + 2 bytes
    EXPECT_EQ(planned.bytes(), 128u * (160 + 16));
  }
  ASSERT_EQ(plan.shards.size(), 1u);
  std::set<std::string> names;
  uint64_t payload = 0;
  for (const ShardTensor& tensor : shard_tensors(plan, 0)) {
    EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
    payload += OutputTensor{tensor.name, tensor.dtype, tensor.shape}.bytes();
    if (tensor.name == "model.layers.0.self_attn.k_proj.weight") {
      EXPECT_EQ(tensor.dtype, DType::kU32);
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{128, 40}));
    }
    if (tensor.name == "model.layers.0.self_attn.k_proj.scales") {
      EXPECT_EQ(tensor.dtype, DType::kBF16);
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{128, 4}));
    }
  }
  EXPECT_EQ(payload, plan.payload_bytes);
  EXPECT_EQ(shard_file_name(0, 3), "model-00001-of-00003.safetensors");
}

TEST(Layout, FileSizesMatchTheWriter) {
  const Plan plan = plan_of(test::hybrid_headers(test::kShapeA), "2S");
  uint64_t bytes = 0, payload = 0;
  std::set<uint32_t> seen;
  for (uint32_t shard = 0; shard < plan.shards.size(); ++shard) {
    std::vector<OutputTensor> tensors;
    uint64_t shard_payload = 0;
    for (const ShardTensor& tensor : shard_tensors(plan, shard)) {
      tensors.push_back({tensor.name, tensor.dtype, tensor.shape});
      shard_payload += tensors.back().bytes();
    }
    for (const uint32_t index : plan.shards[shard]) EXPECT_TRUE(seen.insert(index).second);
    EXPECT_LE(shard_payload, uint64_t{5} << 30);
    if (shard + 1 < plan.shards.size()) {  // the next module would not have fitted
      const uint64_t next = plan.tensors[plan.shards[shard + 1][0]].bytes();
      EXPECT_GT(shard_payload + next, uint64_t{5} << 30);
    }
    payload += shard_payload;
    bytes += layout_safetensors(std::move(tensors)).file_bytes;
  }
  EXPECT_GT(plan.shards.size(), 5u);
  EXPECT_EQ(seen.size(), plan.tensors.size());
  EXPECT_EQ(bytes, plan.file_bytes);
  EXPECT_EQ(payload, plan.payload_bytes);
  EXPECT_DOUBLE_EQ(plan.bits_per_weight,
                   8.0 * static_cast<double>(bytes) / static_cast<double>(plan.parameters));
}

TEST(Layout, AHugeModuleGetsItsOwnShard) {
  test::DenseShape shape;
  shape.layers = 1;
  shape.hidden = 8192;
  shape.vocabulary = 2'000'000;  // 16.4e9 weights in each of embedding and head
  const Plan plan = plan_of(test::llama_headers(shape), "4L");
  ASSERT_EQ(plan.shards.size(), 3u);
  EXPECT_EQ(plan.shards[0].size(), 1u);
  EXPECT_EQ(plan.tensors[plan.shards[0][0]].tensor.path, "model.embed_tokens");
  EXPECT_EQ(plan.shards[2].size(), 1u);
  EXPECT_EQ(plan.tensors[plan.shards[2][0]].tensor.path, "lm_head");
}

TEST(Layout, LayerOrderAndGlobalPair) {
  test::DenseShape shape;
  shape.layers = 12;
  const Plan plan = plan_of(test::llama_headers(shape), "4L");
  EXPECT_EQ(plan.tensors.front().tensor.path, "model.embed_tokens");
  EXPECT_EQ(plan.tensors.back().tensor.path, "lm_head");
  int64_t layer = -1;
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.tensor.role.layer < 0) continue;
    EXPECT_GE(planned.tensor.role.layer, layer);
    layer = planned.tensor.role.layer;
  }
  EXPECT_EQ(plan.attention_bits, 8);
  EXPECT_EQ(plan.mlp_bits, 4);
  // 48 attention modules and the head at 8 bits, 36 MLP modules and the embedding at 4
  EXPECT_EQ(plan.global.bits, 8);
  EXPECT_EQ(plan.global.group_size, 64);
}

TEST(Layout, RoleRowsAddUp) {
  const Plan plan = plan_of(test::hybrid_headers(test::kShapeB), "4L");
  uint64_t tensors = 0, weights = 0, bytes = 0;
  for (const RoleRow& row : plan.roles) {
    tensors += row.tensors;
    weights += row.weights;
    bytes += row.bytes;
    if (row.role == "router") {
      EXPECT_DOUBLE_EQ(row.bits, 16.0);
    }
    if (row.role == "expert") {
      EXPECT_DOUBLE_EQ(row.bits, 4.0);
    }
    if (row.role == "attention") {
      EXPECT_DOUBLE_EQ(row.bits, 8.0);
    }
  }
  EXPECT_EQ(tensors, plan.tensors.size());
  EXPECT_EQ(weights, plan.parameters);
  EXPECT_EQ(bytes, plan.payload_bytes);
  EXPECT_NEAR(plan.average_bits_stored, plan.average_bits + 0.5, 1e-9);
}

}  // namespace
}  // namespace jang
