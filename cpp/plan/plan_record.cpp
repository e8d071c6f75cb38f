#include "plan/plan_record.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/checked_math.h"
#include "base/error.h"
#include "io/json_fields.h"
#include "io/safetensors_writer.h"
#include "plan/plan_layout.h"

namespace jang {
namespace {

constexpr std::array kRoles = {
    Role::kOther,  Role::kEmbedding,       Role::kHead, Role::kRouter,    Role::kSharedExpert,
    Role::kExpert, Role::kLinearAttention, Role::kSsm,  Role::kAttention, Role::kMlp};
constexpr int64_t kMaxBits = 64;
// Sums of so many bytes stay far from the end of 64 bits.
constexpr uint64_t kMaxTensorBytes = uint64_t{1} << 56;
constexpr std::size_t kMaxTensors = 1'000'000;

template <typename Numbers>
Json array_json(const Numbers& numbers) {
  Json::Array out;
  for (const auto& number : numbers) out.emplace_back(number);
  return out;
}

uint64_t shard_file_bytes(const Plan& plan, uint32_t shard) {
  std::vector<OutputTensor> tensors;
  for (ShardTensor& tensor : shard_tensors(plan, shard))
    tensors.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape)});
  return layout_safetensors(std::move(tensors)).file_bytes;
}

Json tensor_json(const PlannedTensor& planned) {
  Json out = Json::Object{{"name", planned.tensor.name},
                          {"path", planned.tensor.path},
                          {"source", planned.tensor.source},
                          {"source_dtype", dtype_name(planned.tensor.stored_dtype())},
                          {"shape", array_json(planned.tensor.shape)},
                          {"role", role_name(planned.tensor.role.role)},
                          {"bytes", planned.bytes()}};
  if (planned.format) {
    out["bits"] = planned.format->bits;
    out["group_size"] = planned.format->group_size;
    if (planned.lattice) out["lattice"] = true;
  } else {
    out["dtype"] = dtype_name(planned.dtype);
  }
  return out;
}

Json allocation_json(const Allocation& allocation) {
  Json::Array floors;
  for (const FloorRow& row : allocation.floors) {
    floors.emplace_back(Json::Object{{"name", row.name},
                                     {"wanted", row.wanted},
                                     {"bits", row.bits},
                                     {"modules", row.modules},
                                     {"binding", row.binding}});
  }
  Json out = Json::Object{{"requested_bytes", allocation.requested_bytes},
                          {"lowest_bytes", allocation.lowest_bytes},
                          {"highest_bytes", allocation.highest_bytes},
                          {"measured", allocation.measured},
                          {"floors", std::move(floors)}};
  if (allocation.requested_bits) out["requested_bits"] = *allocation.requested_bits;
  return out;
}

DType parse_dtype_of(const JsonFields& fields, std::string_view key, bool weights_only) {
  const auto dtype = parse_dtype(fields.text(key));
  if (!dtype || (weights_only && !is_float_weight(*dtype)))
    fields.fail("a type that tensors have as " + std::string(key));
  return *dtype;
}

Role parse_role(const JsonFields& fields) {
  const std::string& name = fields.text("role");
  const auto found = std::find_if(kRoles.begin(), kRoles.end(),
                                  [&](Role role) { return role_name(role) == name; });
  if (found == kRoles.end()) fields.fail("a role");
  return *found;
}

PlannedTensor parse_tensor(const JsonFields& fields, DType metadata) {
  PlannedTensor planned;
  FinalTensor& tensor = planned.tensor;
  tensor.name = fields.text("name");
  tensor.path = fields.text("path");
  tensor.source = fields.text("source");
  if (tensor.name != tensor.path && tensor.name != tensor.path + ".weight")
    fields.fail("a path that the name follows from");
  tensor.dtype = parse_dtype_of(fields, "source_dtype", false);
  for (const int64_t n : fields.counts("shape")) tensor.shape.push_back(static_cast<uint64_t>(n));
  if (tensor.dtype == DType::kF8E4M3) {  // its values are products; the source knows the blocks
    tensor.dtype = DType::kF32;
    tensor.blocks.emplace();
  }
  tensor.role.role = parse_role(fields);
  const auto elements = checked_product(tensor.shape);
  constexpr uint64_t kMostElementBytes = 8;
  if (!elements || *elements > kMaxTensorBytes / kMostElementBytes)
    fields.fail("a shape of fewer elements");
  planned.dtype = metadata;
  if (!fields.has("bits")) {
    planned.dtype = parse_dtype_of(fields, "dtype", false);
    if (planned.dtype == DType::kF8E4M3) fields.fail("a type that is written as dtype");
  } else {
    AffineFormat format{static_cast<int>(fields.count("bits", kMaxBits)),
                        static_cast<int>(fields.count("group_size", 128)), metadata};
    if (!is_bit_width(format.bits)) fields.fail("2, 3, 4, 5, 6 or 8 bits");
    if (!is_group_size(format.group_size)) fields.fail("32, 64 or 128 as group_size");
    const bool matrix = tensor.shape.size() == 2 || tensor.shape.size() == 3;
    if (!matrix || tensor.columns() == 0 ||
        tensor.columns() % static_cast<uint64_t>(format.group_size) != 0)
      fields.fail("a matrix whose rows are whole groups of " + std::to_string(format.group_size));
    planned.format = format;
    planned.lattice = fields.has("lattice") && fields.flag("lattice");
  }
  if (fields.count("bytes") != planned.bytes())
    fields.fail("bytes " + std::to_string(planned.bytes()));
  return planned;
}

Allocation parse_allocation(const JsonFields& fields) {
  Allocation allocation;
  if (fields.has("requested_bits")) allocation.requested_bits = fields.number("requested_bits");
  allocation.requested_bytes = fields.count("requested_bytes");
  allocation.lowest_bytes = fields.count("lowest_bytes");
  allocation.highest_bytes = fields.count("highest_bytes");
  allocation.measured = fields.flag("measured");
  fields.each("floors", [&](const JsonFields& row) {
    allocation.floors.push_back({row.text("name"), static_cast<int>(row.count("wanted", kMaxBits)),
                                 static_cast<int>(row.count("bits", kMaxBits)),
                                 row.count("modules"), row.count("binding")});
  });
  return allocation;
}

/// What is listed must be what lay_out makes of the tensors.
void check_shards(const JsonFields& fields, const Plan& plan,
                  const std::vector<std::size_t>& listed) {
  const auto count = static_cast<uint32_t>(plan.shards.size());
  if (listed.size() != count) fields.fail(std::to_string(count) + " shards of at most shard_bytes");
  uint32_t shard = 0;
  fields.each("shards", [&](const JsonFields& row) {
    if (row.text("file") != shard_file_name(shard, count))
      row.fail("the file " + shard_file_name(shard, count));
    if (listed[shard] != plan.shards[shard].size())
      row.fail(std::to_string(plan.shards[shard].size()) + " tensors");
    const uint64_t bytes = shard_file_bytes(plan, shard);
    if (row.count("bytes") != bytes) row.fail("bytes " + std::to_string(bytes));
    ++shard;
  });
}

}  // namespace

Json plan_json(const Plan& plan, uint64_t shard_bytes) {
  Json::Array shards;
  const auto count = static_cast<uint32_t>(plan.shards.size());
  for (uint32_t shard = 0; shard < count; ++shard) {
    Json::Array tensors;
    for (const uint32_t index : plan.shards[shard])
      tensors.push_back(tensor_json(plan.tensors[index]));
    shards.emplace_back(Json::Object{{"file", shard_file_name(shard, count)},
                                     {"bytes", shard_file_bytes(plan, shard)},
                                     {"tensors", std::move(tensors)}});
  }
  Json out = Json::Object{{"profile", plan.profile},
                          {"dtype", dtype_name(plan.activation_dtype)},
                          {"tied_head", plan.tied_head},
                          {"parameters", plan.parameters},
                          {"shard_bytes", shard_bytes},
                          {"shards", std::move(shards)},
                          {"warnings", array_json(plan.warnings)}};
  if (plan.target_bits) out["target_bits"] = *plan.target_bits;
  if (plan.allocation) out["allocation"] = allocation_json(*plan.allocation);
  return out;
}

Plan parse_plan(const Json& json, const std::string& file, const std::string& where) {
  const JsonFields fields(json, file, where);
  Plan plan;
  plan.profile = fields.text("profile");
  plan.activation_dtype = parse_dtype_of(fields, "dtype", true);
  plan.tied_head = fields.flag("tied_head");
  plan.parameters = fields.count("parameters");
  plan.warnings = fields.texts("warnings");
  if (fields.has("target_bits")) plan.target_bits = fields.number("target_bits");
  if (const auto allocation = fields.object("allocation"))
    plan.allocation = parse_allocation(*allocation);
  const uint64_t shard_bytes = fields.count("shard_bytes");
  if (shard_bytes == 0) fields.fail("shard_bytes above 0");

  std::vector<std::size_t> listed;
  std::set<std::string, std::less<>> names;
  uint64_t bytes = 0;
  fields.each("shards", [&](const JsonFields& shard) {
    const std::size_t before = plan.tensors.size();
    shard.each("tensors", [&](const JsonFields& row) {
      PlannedTensor planned = parse_tensor(row, plan.activation_dtype);
      if (!names.insert(planned.tensor.name).second) row.fail("a name that no other tensor has");
      bytes += planned.bytes();
      if (bytes > kMaxTensorBytes || plan.tensors.size() == kMaxTensors)
        row.fail("fewer tensors, or smaller ones");
      plan.tensors.push_back(std::move(planned));
    });
    listed.push_back(plan.tensors.size() - before);
  });
  try {
    lay_out(plan, shard_bytes);
  } catch (const Error& error) {  // a layout that no safetensors file can have
    throw Error(ErrorCode::kConfigValue, file, error.tensor(), where + ": " + error.message());
  }
  check_shards(fields, plan, listed);
  return plan;
}

}  // namespace jang
