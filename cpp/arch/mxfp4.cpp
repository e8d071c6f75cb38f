#include "arch/mxfp4.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "arch/spec_tensors.h"
#include "base/error.h"
#include "base/float16.h"

namespace jang {
namespace {

constexpr std::string_view kBlocks = "_blocks", kScales = "_scales";
constexpr std::string_view kExperts = ".experts.";

// E2M1: a sign, two bits of exponent, one of mantissa. In halves, so that they are whole numbers.
constexpr std::array<int, 16> kHalves = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
// What an affine code of 0 stands for, in halves.
constexpr int kLowest = -12;

/// Both values of a byte as two codes of 5 bits, the first in the low ones.
constexpr std::array<uint16_t, 256> kCodePairs = [] {
  std::array<uint16_t, 256> pairs{};
  for (std::size_t byte = 0; byte < pairs.size(); ++byte) {
    const int first = kHalves[byte & 15] - kLowest, second = kHalves[byte >> 4] - kLowest;
    pairs[byte] = static_cast<uint16_t>(first | (second << kMxfp4AffineBits));
  }
  return pairs;
}();

/// 2^(scale - 127), which is subnormal for 0.
float power_of(uint8_t scale) {
  const uint32_t bits = scale == 0 ? uint32_t{1} << 22 : static_cast<uint32_t>(scale) << 23;
  return std::bit_cast<float>(bits);
}

void store_bf16(float value, uint8_t* out) {
  const uint16_t word = float_to_bf16(value);
  std::memcpy(out, &word, sizeof word);
}

bool is_part(std::string_view name, std::string_view suffix) {
  return name.find(kExperts) != std::string_view::npos &&
         (name.ends_with("gate_up_proj" + std::string(suffix)) ||
          name.ends_with("down_proj" + std::string(suffix)));
}

[[noreturn]] void fail_shape(const SourceTensor& tensor, const std::string& expected) {
  throw Error(ErrorCode::kTensorShape, {}, tensor.name,
              "expected " + expected + ", found shape " + shape_text(tensor.shape));
}

void require_bytes(const SourceTensor& tensor) {
  if (tensor.dtype == DType::kU8) return;
  throw Error(
      ErrorCode::kUnsupportedFormat, {}, tensor.name,
      "expected U8, a part of MXFP4 weights, found " + std::string(dtype_name(tensor.dtype)));
}

}  // namespace

bool is_mxfp4(const ModelConfig& config) {
  const Json* settings = config.find("quantization_config");
  if (settings == nullptr || config.model_type() != "gpt_oss") return false;
  if (!settings->is_object()) config.fail("quantization_config", "expected an object");
  const Json* method = settings->find("quant_method");
  return method != nullptr && method->is_string() && method->as_string() == "mxfp4";
}

Mxfp4Splitter::Mxfp4Splitter(const ModelConfig& config, std::span<const SourceTensor> sources)
    : config_(config), sources_(sources) {
  for (uint32_t i = 0; i < sources.size(); ++i) by_name_.emplace(sources[i].name, i);
}

uint32_t Mxfp4Splitter::partner(const SourceTensor& source, std::string_view name) const {
  const auto it = by_name_.find(name);
  if (it != by_name_.end()) return it->second;
  throw Error(ErrorCode::kMissingTensor, {}, std::string(name), "missing beside " + source.name);
}

std::optional<std::vector<FinalTensor>> Mxfp4Splitter::split(uint32_t index) const {
  const SourceTensor& source = sources_[index];
  const std::string_view name = source.name;
  if (is_part(name, kScales)) {
    partner(source,
            std::string(name.substr(0, name.size() - kScales.size())) + std::string(kBlocks));
    require_bytes(source);
    return std::vector<FinalTensor>{};
  }
  if (!is_part(name, kBlocks)) return std::nullopt;
  const std::string base(name.substr(0, name.size() - kBlocks.size()));
  const uint32_t scales_index = partner(source, base + std::string(kScales));
  const SourceTensor& scales = sources_[scales_index];
  require_bytes(source);
  const auto& s = source.shape;
  const bool down = base.ends_with("down_proj");
  const std::string_view columns_key = down ? "intermediate_size" : "hidden_size";
  const auto columns =
      static_cast<uint64_t>(config_.required_integer(columns_key, 1, ModelConfig::kMaxDim));
  if (s.size() != 4 || s[3] != kMxfp4BlockBytes || columns % kMxfp4Block != 0 ||
      s[2] != columns / kMxfp4Block) {
    fail_shape(source, "[experts, rows, " + std::string(columns_key) + " / 32, 16] with " +
                           std::string(columns_key) + " " + std::to_string(columns));
  }
  if (!down && s[1] % 2 != 0) fail_shape(source, "an even number of rows, gate and up in turn");
  if (scales.shape != std::vector<uint64_t>{s[0], s[1], s[2]})
    fail_shape(scales, shape_text(std::vector<uint64_t>{s[0], s[1], s[2]}) + " like its blocks");
  const auto part = [&](const std::string& path, uint64_t first, uint64_t step) {
    FinalTensor tensor;
    tensor.name = path + ".weight";
    tensor.source = source.name;
    tensor.shape = {s[0], s[1] / step, columns};
    tensor.dtype = DType::kBF16;
    tensor.scales = scales_index;
    for (uint64_t e = 0; e < s[0]; ++e)
      tensor.ranges.push_back({index, e * s[1] + first, s[1] / step, step});
    return tensor;
  };
  if (down) return std::vector<FinalTensor>{part(base, 0, 1)};
  const std::string block = base.substr(0, base.size() - std::string_view("gate_up_proj").size());
  return std::vector<FinalTensor>{part(block + "gate_proj", 0, 2), part(block + "up_proj", 1, 2)};
}

std::vector<Mxfp4Pair> mxfp4_pairs(const Checkpoint& checkpoint) {
  std::vector<Mxfp4Pair> pairs;
  for (const CheckpointTensor& blocks : checkpoint.tensors()) {
    if (!is_part(blocks.name, kBlocks)) continue;
    const std::string path = blocks.name.substr(0, blocks.name.size() - kBlocks.size());
    const CheckpointTensor* scales = checkpoint.find(path + std::string(kScales));
    const auto& s = blocks.shape;
    if (scales == nullptr || blocks.dtype != DType::kU8 || scales->dtype != DType::kU8) continue;
    if (s.size() != 4 || s[3] != kMxfp4BlockBytes) continue;
    if (scales->shape != std::vector<uint64_t>{s[0], s[1], s[2]}) continue;
    pairs.push_back({path, {s[0], s[1], s[2] * kMxfp4Block}, &blocks, scales});
  }
  return pairs;
}

Mxfp4Rows::Mxfp4Rows(const Checkpoint& checkpoint, const CheckpointTensor& blocks,
                     const CheckpointTensor& scales)
    : checkpoint_(checkpoint),
      scales_tensor_(scales),
      blocks_(reinterpret_cast<const uint8_t*>(checkpoint.data(blocks).data())),
      scales_(reinterpret_cast<const uint8_t*>(checkpoint.data(scales).data())),
      row_blocks_(scales.shape.back()) {}

uint8_t Mxfp4Rows::scale(uint64_t row, uint64_t block) const {
  const uint8_t found = scales_[row * row_blocks_ + block];
  if (found <= kMxfp4LargestScale) return found;
  throw Error(ErrorCode::kNonFinite, checkpoint_.files()[scales_tensor_.file], scales_tensor_.name,
              "row " + std::to_string(row) + ", block " + std::to_string(block) +
                  ": expected a scale of at most " + std::to_string(kMxfp4LargestScale) +
                  ", found " + std::to_string(found) +
                  (found == 255 ? ", which is NaN" : ", beyond which values are infinite"));
}

void Mxfp4Rows::values(uint64_t row, uint64_t column, uint64_t columns, std::byte* out) const {
  const uint8_t* const codes = blocks_ + row * row_blocks_ * kMxfp4BlockBytes;
  auto* words = reinterpret_cast<uint8_t*>(out);
  for (uint64_t c = column; c < column + columns;) {
    const uint64_t block = c / kMxfp4Block;
    const float half = 0.5f * power_of(scale(row, block));
    const uint64_t end = std::min(column + columns, (block + 1) * kMxfp4Block);
    for (; c < end; ++c, words += 2) {
      const int code = codes[c / 2] >> (c % 2 * 4) & 15;
      store_bf16(half * static_cast<float>(kHalves[static_cast<std::size_t>(code)]), words);
    }
  }
}

void Mxfp4Rows::affine(uint64_t row, uint8_t* codes, uint8_t* scales, uint8_t* biases) const {
  const uint8_t* packed = blocks_ + row * row_blocks_ * kMxfp4BlockBytes;
  for (uint64_t block = 0; block < row_blocks_; ++block) {
    const float half = 0.5f * power_of(scale(row, block));
    store_bf16(half, scales + 2 * block);
    store_bf16(half * static_cast<float>(kLowest), biases + 2 * block);
    // Four bytes of two codes each become five.
    for (uint64_t i = 0; i < kMxfp4BlockBytes; i += 4, packed += 4, codes += 5) {
      uint64_t stream = 0;
      for (int b = 0; b < 4; ++b)
        stream |= static_cast<uint64_t>(kCodePairs[packed[b]]) << (2 * kMxfp4AffineBits * b);
      for (int b = 0; b < 5; ++b) codes[b] = static_cast<uint8_t>(stream >> (8 * b));
    }
  }
}

}  // namespace jang
