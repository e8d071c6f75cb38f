// Shards in layer order, sizes to the byte, and the sums that reports print.
#include "plan/plan_layout.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <tuple>

#include "io/safetensors_writer.h"

namespace jang {
namespace {

constexpr std::size_t kRoles = static_cast<std::size_t>(Role::kMlp) + 1;

void cut_shards(Plan& plan, uint64_t shard_bytes) {
  uint64_t filled = 0;
  for (uint32_t i = 0; i < plan.tensors.size(); ++i) {
    const uint64_t bytes = plan.tensors[i].bytes();
    // A module larger than a shard gets one of its own.
    if (plan.shards.empty() || (filled != 0 && filled + bytes > shard_bytes)) {
      plan.shards.emplace_back();
      filled = 0;
    }
    plan.shards.back().push_back(i);
    filled += bytes;
    plan.payload_bytes += bytes;
  }
}

void measure_files(Plan& plan) {
  for (uint32_t shard = 0; shard < plan.shards.size(); ++shard) {
    std::vector<OutputTensor> tensors;
    for (ShardTensor& tensor : shard_tensors(plan, shard)) {
      tensors.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape)});
    }
    plan.file_bytes += layout_safetensors(std::move(tensors)).file_bytes;
  }
}

void choose_global(Plan& plan) {
  struct Count {
    uint64_t modules = 0, weights = 0;
  };
  std::map<std::pair<int, int>, Count> pairs;
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.format) continue;
    Count& count = pairs[{planned.format->bits, planned.format->group_size}];
    ++count.modules;
    count.weights += planned.tensor.elements();
  }
  plan.global = AffineFormat{4, 64, plan.activation_dtype};
  Count best;
  for (const auto& [pair, count] : pairs) {  // ascending: of equals, fewer bits stay
    if (std::tie(count.modules, count.weights) <= std::tie(best.modules, best.weights)) continue;
    best = count;
    plan.global.bits = pair.first;
    plan.global.group_size = pair.second;
  }
}

int most_common_bits(const Plan& plan, std::initializer_list<Role> roles) {
  std::map<int, uint64_t> weights;
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.format ||
        std::find(roles.begin(), roles.end(), planned.tensor.role.role) == roles.end()) {
      continue;
    }
    weights[planned.format->bits] += planned.tensor.elements();
  }
  int bits = 0;
  uint64_t most = 0;
  for (const auto& [width, count] : weights) {
    if (count > most) std::tie(bits, most) = std::tuple(width, count);
  }
  return bits;
}

void sum_up(Plan& plan) {
  struct Sums {
    uint64_t tensors = 0, weights = 0, bytes = 0;
    double bits = 0;
  };
  std::array<Sums, kRoles> roles{};
  double code_bits = 0;
  uint64_t quantized = 0, quantized_bytes = 0;
  for (const PlannedTensor& planned : plan.tensors) {
    const uint64_t weights = planned.tensor.elements();
    const int width = planned.format ? planned.format->bits : 8 * dtype_size(planned.dtype);
    const double bits = static_cast<double>(weights) * width;
    Sums& row = roles[static_cast<std::size_t>(planned.tensor.role.role)];
    ++row.tensors;
    row.weights += weights;
    row.bytes += planned.bytes();
    row.bits += bits;
    if (!planned.format) continue;
    code_bits += bits;
    quantized += weights;
    quantized_bytes += planned.bytes();
  }
  const auto ratio = [](double a, uint64_t b) { return b == 0 ? 0.0 : a / static_cast<double>(b); };
  plan.average_bits = ratio(code_bits, quantized);
  plan.average_bits_stored = ratio(8 * static_cast<double>(quantized_bytes), quantized);
  plan.bits_per_weight = ratio(8 * static_cast<double>(plan.file_bytes), plan.parameters);
  for (std::size_t i = 0; i < kRoles; ++i) {
    if (roles[i].tensors == 0) continue;
    plan.roles.push_back({std::string(role_name(static_cast<Role>(i))), roles[i].tensors,
                          roles[i].weights, ratio(roles[i].bits, roles[i].weights),
                          roles[i].bytes});
  }
}

}  // namespace

uint64_t PlannedTensor::bytes() const noexcept {
  const uint64_t elements = tensor.elements();
  if (!format) return elements * static_cast<uint64_t>(dtype_size(dtype));
  const uint64_t columns = tensor.columns();
  const uint64_t rows = columns == 0 ? 0 : elements / columns;
  const uint64_t metadata = 2 * static_cast<uint64_t>(dtype_size(format->metadata));
  return rows * (format->row_bytes(columns) + format->row_groups(columns) * metadata);
}

void lay_out(Plan& plan, uint64_t shard_bytes) {
  cut_shards(plan, shard_bytes);
  measure_files(plan);
  choose_global(plan);
  plan.attention_bits = most_common_bits(plan, {Role::kAttention});
  plan.mlp_bits = most_common_bits(plan, {Role::kMlp, Role::kExpert});
  sum_up(plan);
}

std::vector<ShardTensor> shard_tensors(const Plan& plan, uint32_t shard) {
  std::vector<ShardTensor> out;
  for (const uint32_t index : plan.shards[shard]) {
    const PlannedTensor& planned = plan.tensors[index];
    const FinalTensor& tensor = planned.tensor;
    if (!planned.format) {
      out.push_back({tensor.name, planned.dtype, tensor.shape, index, ShardTensor::Piece::kPlain});
      continue;
    }
    const AffineFormat& format = *planned.format;
    std::vector<uint64_t> codes = tensor.shape;
    codes.back() = format.row_bytes(tensor.columns()) / 4;
    std::vector<uint64_t> groups = tensor.shape;
    groups.back() = format.row_groups(tensor.columns());
    out.push_back({tensor.path + ".weight", DType::kU32, std::move(codes), index,
                   ShardTensor::Piece::kCodes});
    out.push_back(
        {tensor.path + ".scales", format.metadata, groups, index, ShardTensor::Piece::kScales});
    out.push_back(
        {tensor.path + ".biases", format.metadata, groups, index, ShardTensor::Piece::kBiases});
  }
  return out;
}

std::string shard_file_name(uint32_t shard, uint32_t count) {
  std::array<char, 48> name{};
  std::snprintf(name.data(), name.size(), "model-%05u-of-%05u.safetensors", shard + 1, count);
  return name.data();
}

}  // namespace jang
