#include "arch/block_scales.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "arch/final_names.h"
#include "arch/spec_tensors.h"
#include "base/error.h"
#include "base/float16.h"
#include "base/float8.h"

namespace jang {
namespace {

constexpr std::string_view kConfigKey = "quantization_config";
constexpr std::string_view kSuffix = "_scale_inv";

[[noreturn]] void refuse(const ModelConfig& config, const std::string& what) {
  throw Error(ErrorCode::kUnsupportedFormat, config.file(), {},
              "quantized by \"fp8\" (quantization_config.quant_method) " + what,
              "FP8 is read as E4M3 codes with one scale a block, activations unquantized");
}

std::string shown(const Json& value) { return dump_json(value).substr(0, 40); }

/// Refuses a text that is present and other than the one that is read here.
void require_text(const ModelConfig& config, const Json& settings, std::string_view key,
                  std::string_view wanted) {
  const Json* found = settings.find(key);
  if (found == nullptr || found->is_null()) return;
  if (found->is_string() && found->as_string() == wanted) return;
  refuse(config, "with " + std::string(key) + " " + shown(*found) + "; expected \"" +
                     std::string(wanted) + "\"");
}

uint64_t blocks_along(uint64_t elements, uint64_t block) { return (elements + block - 1) / block; }

std::vector<uint64_t> scales_shape(const std::vector<uint64_t>& codes, const ScaleBlocks& blocks) {
  std::vector<uint64_t> shape = codes;
  const std::size_t rank = codes.size();
  shape[rank - 2] = blocks_along(codes[rank - 2], blocks.rows);
  shape[rank - 1] = blocks_along(codes[rank - 1], blocks.columns);
  return shape;
}

void check_codes(const SourceTensor& codes, const ScaleBlocks& blocks) {
  const std::size_t rank = codes.shape.size();
  if (rank != 2 && rank != 3) {
    throw Error(
        ErrorCode::kTripleShape, {}, codes.name,
        "expected a matrix or a stack of them in F8_E4M3, found shape " + shape_text(codes.shape));
  }
  // Joined from halves that were cut into blocks each, or cut as a whole: the file does not say.
  const uint64_t rows = codes.shape[rank - 2];
  if (rank == 3 && codes.name.ends_with("gate_up_proj") && rows / 2 % blocks.rows != 0) {
    throw Error(ErrorCode::kUnsupportedFormat, {}, codes.name,
                "blocks of " + std::to_string(blocks.rows) + " rows do not divide the " +
                    std::to_string(rows / 2) +
                    " rows of gate and up, so that their scales cannot be told apart");
  }
}

void check_pair(const SourceTensor& codes, const SourceTensor& scales, const ScaleBlocks& blocks) {
  const std::vector<uint64_t> expected = scales_shape(codes.shape, blocks);
  const bool usable = scales.dtype == DType::kF32 || scales.dtype == DType::kBF16;
  if (usable && scales.shape == expected) return;
  throw Error(ErrorCode::kTripleShape, {}, scales.name,
              "expected F32 or BF16 " + shape_text(expected) + ", blocks of " +
                  std::to_string(blocks.rows) + " x " + std::to_string(blocks.columns) + " of " +
                  shape_text(codes.shape) + ", found " + std::string(dtype_name(scales.dtype)) +
                  " " + shape_text(scales.shape));
}

}  // namespace

std::optional<ScaleBlocks> stated_blocks(const ModelConfig& config) {
  const Json* settings = config.find(kConfigKey);
  if (settings == nullptr || !settings->is_object()) return std::nullopt;
  const Json* method = settings->find("quant_method");
  if (method == nullptr || !method->is_string() || method->as_string() != "fp8")
    return std::nullopt;
  require_text(config, *settings, "fmt", "e4m3");
  require_text(config, *settings, "activation_scheme", "dynamic");
  require_text(config, *settings, "expert_dtype", "fp8");
  constexpr std::string_view kSize = "weight_block_size";
  const Json* size = settings->find(kSize);
  if (size == nullptr || size->is_null())
    refuse(config, "without a weight_block_size that says which weights share a scale");
  const std::string key = std::string(kConfigKey) + "." + std::string(kSize);
  std::array<int64_t, 2> block{};
  const bool pair = size->is_array() && size->as_array().size() == block.size();
  for (std::size_t i = 0; i < block.size(); ++i) {
    if (pair && size->as_array()[i].get_integer(1, ModelConfig::kMaxDim, block[i])) continue;
    config.fail(key, "expected two integers in 1.." + std::to_string(ModelConfig::kMaxDim) +
                         ", found " + shown(*size));
  }
  return ScaleBlocks{static_cast<uint64_t>(block[0]), static_cast<uint64_t>(block[1])};
}

std::string scales_name(std::string_view codes_name) {
  return std::string(codes_name) + std::string(kSuffix);
}

std::string_view scaled_name(std::string_view name) noexcept {
  return name.ends_with(kSuffix) ? name.substr(0, name.size() - kSuffix.size())
                                 : std::string_view();
}

void check_block_scales(const ModelConfig& config, std::span<const SourceTensor> sources,
                        const std::optional<ScaleBlocks>& blocks) {
  std::map<std::string_view, const SourceTensor*> kept;
  for (const SourceTensor& source : sources) {
    if (!is_dropped(config, source.name)) kept.emplace(source.name, &source);
  }
  for (const auto& [name, source] : kept) {
    if (source->dtype == DType::kF8E4M3) {
      if (!blocks) {
        throw Error(ErrorCode::kUnsupportedFormat, {}, source->name,
                    "F8_E4M3, but config.json has no quantization_config that states its blocks");
      }
      check_codes(*source, *blocks);
      const auto scales = kept.find(scales_name(name));
      if (scales == kept.end()) {
        throw Error(ErrorCode::kMissingTensor, {}, scales_name(name),
                    "missing beside " + source->name + ", which is F8_E4M3");
      }
      check_pair(*source, *scales->second, *blocks);
    } else if (const std::string_view scaled = scaled_name(name); !scaled.empty()) {
      const auto codes = kept.find(scaled);
      if (blocks && codes != kept.end() && codes->second->dtype == DType::kF8E4M3) continue;
      throw Error(ErrorCode::kUnsupportedFormat, {}, source->name,
                  "scales of a quantized tensor; expected F8_E4M3 codes beside them, found " +
                      (codes == kept.end() ? std::string("none")
                                           : std::string(dtype_name(codes->second->dtype))));
    }
  }
}

TensorBytes scales_of_codes(const Checkpoint& checkpoint, const CheckpointTensor& codes,
                            const ScaleBlocks& blocks, uint64_t offset, uint64_t bytes) {
  const CheckpointTensor* const scales = checkpoint.find(scales_name(codes.name));
  JANG_ASSERT(scales != nullptr && codes.dtype == DType::kF8E4M3 && bytes > 0);
  const std::size_t rank = codes.shape.size();
  const uint64_t rows = codes.shape[rank - 2], columns = codes.shape[rank - 1];
  const auto scale_row = [&](uint64_t row) {
    return row / rows * scales->shape[rank - 2] + row % rows / blocks.rows;
  };
  const uint64_t first = scale_row(offset / columns);
  const uint64_t last = scale_row((offset + bytes - 1) / columns);
  const uint64_t row_bytes =
      scales->shape[rank - 1] * static_cast<uint64_t>(dtype_size(scales->dtype));
  return {scales, first * row_bytes, (last - first + 1) * row_bytes};
}

ScaledCodes::ScaledCodes(const Checkpoint& checkpoint, const CheckpointTensor& codes,
                         const ScaleBlocks& blocks)
    : scales_(checkpoint.find(scales_name(codes.name))),
      codes_(checkpoint.data(codes).data()),
      blocks_(blocks) {
  JANG_ASSERT(scales_ != nullptr && codes.dtype == DType::kF8E4M3);
  scale_data_ = checkpoint.data(*scales_).data();
  const std::size_t rank = codes.shape.size();
  rows_ = codes.shape[rank - 2];
  columns_ = codes.shape[rank - 1];
  scale_rows_ = scales_->shape[rank - 2];
  scale_columns_ = scales_->shape[rank - 1];
}

float ScaledCodes::scale(uint64_t row, uint64_t block) const {
  const uint64_t scale_row = row / rows_ * scale_rows_ + row % rows_ / blocks_.rows;
  const uint64_t index = scale_row * scale_columns_ + block;
  if (scales_->dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, scale_data_ + index * sizeof value, sizeof value);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, scale_data_ + index * sizeof bits, sizeof bits);
  return bf16_to_float(bits);
}

void ScaledCodes::row(uint64_t row, uint64_t column, uint64_t columns, std::byte* out) const {
  const std::byte* const codes = codes_ + row * columns_;
  const uint64_t end = column + columns;
  while (column < end) {
    const uint64_t block = column / blocks_.columns;
    const uint64_t stop = std::min(end, (block + 1) * blocks_.columns);
    const float factor = scale(row, block);
    for (; column < stop; ++column) {
      const float value = e4m3_to_float(std::to_integer<uint8_t>(codes[column])) * factor;
      std::memcpy(out, &value, sizeof value);
      out += sizeof value;
    }
  }
}

float ScaledCodes::value(uint64_t row, uint64_t column) const {
  return e4m3_to_float(std::to_integer<uint8_t>(codes_[row * columns_ + column])) *
         scale(row, column / blocks_.columns);
}

void gather_scaled(const Checkpoint& checkpoint, const FinalTensor& tensor, uint64_t row,
                   uint64_t rows, uint64_t column, uint64_t columns, std::byte* out) {
  while (rows > 0) {
    const SourceValue at = locate_value(tensor, row, column);
    const ScaledCodes source(checkpoint, checkpoint.tensors()[at.tensor], *tensor.blocks);
    uint64_t count = 0;
    if (tensor.transposed) {
      const uint64_t matrix = tensor.shape[tensor.shape.size() - 2];
      count = std::min(rows, matrix - row % matrix);
      for (uint64_t r = 0; r < count; ++r) {
        for (uint64_t c = 0; c < columns; ++c) {
          const float value = source.value(at.row + c, at.column + r * tensor.transposed->step);
          std::memcpy(out + (r * columns + c) * sizeof value, &value, sizeof value);
        }
      }
    } else {
      count = std::min(rows, locate_row(tensor, row).available);
      for (uint64_t r = 0; r < count; ++r) {
        source.row(at.row + r, column, columns, out + r * columns * sizeof(float));
      }
    }
    out += count * columns * sizeof(float);
    row += count;
    rows -= count;
  }
}

}  // namespace jang
