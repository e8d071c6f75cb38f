// One row a module or tensor, then sums by role. Widths are those that opening the directory has
// checked; JANG v1 keeps its widths in payloads, so there they follow from sizes, and shapes are
// read where they are stored.
#include "convert/inspect.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string_view>

#include "arch/block_scales.h"
#include "arch/directory.h"
#include "arch/general_roles.h"
#include "arch/mxfp4.h"
#include "base/checked_math.h"
#include "io/json.h"

namespace jang {
namespace {

constexpr std::string_view kQweight = ".qweight";
constexpr int64_t kDefaultBlock = 64;  // of a v1 directory that states none
constexpr int64_t kMaxBlock = 1 << 20;
constexpr uint64_t kMaxAxes = 8;

/// A row of the tables below, before it is summed up.
struct Row {
  InspectedTensor tensor;
  double bits = 0;  // of a stored weight
  bool quantized = false;
};

uint64_t element_count(const std::vector<uint64_t>& shape) {
  uint64_t count = 1;
  for (const uint64_t n : shape) count *= n;  // bounded: the header check has multiplied them
  return count;
}

const Json* quantization_of(const ModelDirectory& directory) {
  return directory.jang_config ? directory.jang_config->find("quantization") : nullptr;
}

std::optional<std::string> text_member(const Json* object, std::string_view key) {
  const Json* found = object != nullptr ? object->find(key) : nullptr;
  if (found == nullptr || !found->is_string()) return std::nullopt;
  return found->as_string();
}

Row plain_row(const Checkpoint& checkpoint, const CheckpointTensor& tensor) {
  Row row;
  row.tensor = {tensor.name,
                std::string(dtype_name(tensor.dtype)),
                tensor.shape,
                std::nullopt,
                std::nullopt,
                tensor.bytes(),
                checkpoint.files()[tensor.file]};
  row.bits = 8.0 * dtype_size(tensor.dtype);
  return row;
}

bool is_scales_of_codes(const Checkpoint& checkpoint, const CheckpointTensor& tensor) {
  const std::string_view codes_name = scaled_name(tensor.name);
  const CheckpointTensor* codes = codes_name.empty() ? nullptr : checkpoint.find(codes_name);
  return codes != nullptr && codes->dtype == DType::kF8E4M3;
}

/// Experts packed as MXFP4, blocks and scales in one row; `used` gets what they are.
std::vector<Row> packed_rows(const ModelDirectory& directory,
                             std::set<const CheckpointTensor*>& used) {
  const Checkpoint& checkpoint = directory.checkpoint;
  std::vector<Row> rows;
  if (directory.format != DirectoryFormat::kHf || !is_mxfp4(directory.config)) return rows;
  for (const Mxfp4Pair& pair : mxfp4_pairs(checkpoint)) {
    Row row;
    row.tensor = plain_row(checkpoint, *pair.blocks).tensor;
    row.tensor.name = pair.path;
    row.tensor.shape = pair.shape;
    row.tensor.bits = kMxfp4Bits;
    row.tensor.group_size = static_cast<int>(kMxfp4Block);
    row.tensor.bytes += pair.scales->bytes();
    row.bits = kMxfp4Bits;
    row.quantized = true;
    rows.push_back(std::move(row));
    used.insert({pair.blocks, pair.scales});
  }
  return rows;
}

std::vector<Row> affine_rows(const ModelDirectory& directory) {
  const Checkpoint& checkpoint = directory.checkpoint;
  std::set<const CheckpointTensor*> used;
  std::vector<Row> rows = packed_rows(directory, used);
  for (const QuantizedModule& module : directory.modules) {
    Row row;
    row.tensor = {module.path,
                  std::string(dtype_name(module.weight->dtype)),
                  module.shape,
                  module.width.bits,
                  module.width.group_size,
                  module.weight->bytes() + module.scales->bytes() + module.biases->bytes(),
                  checkpoint.files()[module.weight->file]};
    row.bits = module.width.bits;
    row.quantized = true;
    rows.push_back(std::move(row));
    used.insert({module.weight, module.scales, module.biases});
  }
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (used.contains(&tensor)) continue;
    if (is_scales_of_codes(checkpoint, tensor)) continue;  // counted with its codes
    rows.push_back(plain_row(checkpoint, tensor));
    if (tensor.dtype != DType::kF8E4M3) continue;
    const CheckpointTensor* scales = checkpoint.find(scales_name(tensor.name));
    if (scales != nullptr) rows.back().tensor.bytes += scales->bytes();
  }
  return rows;
}

/// The shape that a v1 module states, if it goes with so many weights.
std::optional<std::vector<uint64_t>> stated_shape(const Checkpoint& checkpoint,
                                                  const CheckpointTensor& tensor,
                                                  uint64_t weights) {
  if (tensor.dtype != DType::kI64 || tensor.elements() > kMaxAxes) return std::nullopt;
  std::vector<uint64_t> shape(tensor.elements());
  std::memcpy(shape.data(), checkpoint.data(tensor).data(), tensor.bytes());
  const auto product = checked_product(shape);
  if (!product || *product != weights) return std::nullopt;
  return shape;
}

std::vector<Row> v1_rows(const ModelDirectory& directory) {
  const Checkpoint& checkpoint = directory.checkpoint;
  int64_t block = kDefaultBlock;
  if (const Json* quantization = quantization_of(directory); quantization != nullptr) {
    const Json* found = quantization->find("block_size");
    if (found != nullptr) found->get_integer(1, kMaxBlock, block);
  }
  std::map<std::string, Row, std::less<>> modules;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (!tensor.name.ends_with(kQweight)) continue;
    Row row;
    row.tensor = plain_row(checkpoint, tensor).tensor;
    row.tensor.name.resize(tensor.name.size() - kQweight.size());
    row.quantized = true;
    modules.emplace(row.tensor.name, std::move(row));
  }
  std::vector<Row> rows;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const std::size_t dot = tensor.name.rfind('.');
    const auto module = modules.find(std::string_view(tensor.name).substr(0, dot));
    if (dot == std::string::npos || module == modules.end()) {
      rows.push_back(plain_row(checkpoint, tensor));
      continue;
    }
    Row& row = module->second;
    const std::string_view part = std::string_view(tensor.name).substr(dot);
    if (part == kQweight) continue;
    row.tensor.bytes += tensor.bytes();
    // The logical shape is a payload; headers tell how many blocks there are.
    if (part == ".scales") row.tensor.shape = {tensor.elements() * static_cast<uint64_t>(block)};
  }
  for (auto& [path, row] : modules) {
    const CheckpointTensor* codes = checkpoint.find(path + std::string(kQweight));
    const uint64_t weights = element_count(row.tensor.shape);
    row.bits =
        weights == 0 ? 0 : 8.0 * static_cast<double>(codes->bytes()) / static_cast<double>(weights);
    row.tensor.group_size = static_cast<int>(block);
    if (const CheckpointTensor* shape = checkpoint.find(path + ".shape"); shape != nullptr) {
      if (auto stated = stated_shape(checkpoint, *shape, weights))
        row.tensor.shape = std::move(*stated);
    }
    if (path.ends_with(".weight")) row.tensor.name.resize(path.size() - 7);
    const int whole = static_cast<int>(row.bits);
    if (whole == row.bits) row.tensor.bits = whole;
    rows.push_back(std::move(row));
  }
  return rows;
}

bool counts_as_weights(const Row& row) {
  if (row.quantized) return true;
  const auto dtype = parse_dtype(row.tensor.dtype);
  return dtype && (is_float_weight(*dtype) || *dtype == DType::kF8E4M3);
}

void sum_up(const std::vector<Row>& rows, Inspection& result) {
  struct Sum {
    RoleRow row;
    double bits = 0;
  };
  std::map<Role, Sum> roles;
  double quantized_bits = 0, plain_bits = 0;
  uint64_t quantized = 0, plain = 0;
  for (const Row& row : rows) {
    if (!counts_as_weights(row)) continue;
    const uint64_t weights = element_count(row.tensor.shape);
    const double bits = row.bits * static_cast<double>(weights);
    Sum& sum = roles[role_in_model(row.tensor.name, row.tensor.shape, result.model_type).role];
    sum.row.tensors += 1;
    sum.row.weights += weights;
    sum.row.bytes += row.tensor.bytes;
    sum.bits += bits;
    (row.quantized ? quantized_bits : plain_bits) += bits;
    (row.quantized ? quantized : plain) += weights;
  }
  result.parameters = quantized + plain;
  const auto mean = [](double bits, uint64_t n) {
    return n == 0 ? 0.0 : bits / static_cast<double>(n);
  };
  result.average_bits = quantized != 0 ? mean(quantized_bits, quantized) : mean(plain_bits, plain);
  result.bits_per_weight = mean(8.0 * static_cast<double>(result.bytes), result.parameters);
  for (auto& [role, sum] : roles) {
    sum.row.role = role_name(role);
    sum.row.bits = mean(sum.bits, sum.row.weights);
    result.roles.push_back(std::move(sum.row));
  }
}

}  // namespace

Inspection inspect_directory(const std::filesystem::path& path) {
  const ModelDirectory directory = open_model_directory(path);
  Inspection result;
  result.format = format_name(directory.format);
  result.model_type = directory.config.model_type();
  result.profile = text_member(quantization_of(directory), "profile");
  result.method = text_member(quantization_of(directory), "quantization_method");
  result.bytes = directory.checkpoint.file_bytes();
  std::vector<Row> rows =
      directory.format == DirectoryFormat::kJangV1 ? v1_rows(directory) : affine_rows(directory);
  const bool packed =
      directory.format == DirectoryFormat::kHf &&
      std::any_of(rows.begin(), rows.end(), [](const Row& r) { return r.quantized; });
  if (packed) result.method = "mxfp4";
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.tensor.name < b.tensor.name; });
  sum_up(rows, result);
  for (Row& row : rows) result.tensors.push_back(std::move(row.tensor));
  return result;
}

}  // namespace jang
