// Versions 1.0 (a width and an offset for each block), 1.1 (one width, a shape) and 1.2 (biases in
// place of zero points). What a version leaves open is not guessed.
#include "arch/v1_modules.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string_view>

#include "arch/final_names.h"
#include "arch/inventory.h"
#include "arch/spec_tensors.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "quant/affine_format.h"

namespace jang {
namespace {

constexpr std::string_view kCodes = ".qweight";
constexpr std::string_view kScales = ".scales";
constexpr std::string_view kZeros = ".zeros";
constexpr std::string_view kBiases = ".biases";
constexpr std::string_view kBits = ".bits";
constexpr std::string_view kShape = ".shape";
constexpr std::string_view kBitMap = ".bit_map";
constexpr std::string_view kBlockOffsets = ".block_offsets";
constexpr std::array<std::string_view, 8> kParts = {kCodes, kScales, kZeros,  kBiases,
                                                    kBits,  kShape,  kBitMap, kBlockOffsets};
constexpr std::string_view kWeight = ".weight";
constexpr int64_t kDefaultBlock = 64;
constexpr int64_t kMaxBlock = 1 << 20;
constexpr uint64_t kMaxAxis = uint64_t{1} << 40;

std::string_view part_of(std::string_view name) {
  for (const std::string_view part : kParts) {
    if (name.size() > part.size() && name.ends_with(part)) return part;
  }
  return {};
}

/// Fused experts are parameters of their own, not weights of a layer: sources name them bare.
std::string source_name(const std::string& base) {
  if (base.ends_with(kWeight) || base.ends_with(".experts.gate_up_proj") ||
      base.ends_with(".experts.down_proj")) {
    return base;
  }
  return base + std::string(kWeight);
}

/// Element `index` of a payload that may start at any byte.
template <typename T>
T element(std::span<const std::byte> payload, uint64_t index) {
  T value;
  std::memcpy(&value, payload.data() + index * sizeof(T), sizeof(T));
  return value;
}

class ModuleReader {
 public:
  ModuleReader(const Checkpoint& checkpoint, const std::string& base, int block)
      : checkpoint_(checkpoint), base_(base), block_(static_cast<uint64_t>(block)) {
    module_.codes = checkpoint.find(base + std::string(kCodes));
    module_.source = source_name(base);
    module_.width.group_size = block;
    require(*module_.codes, DType::kU8);
    module_.scales = &part(kScales, DType::kF16);
    const bool zeros = find(kZeros) != nullptr, biases = find(kBiases) != nullptr;
    if (zeros && biases) fail(*find(kBiases), "beside " + find(kZeros)->name + ": one is expected");
    if (!zeros && !biases) {
      throw Error(
          ErrorCode::kMissingTensor, file(*module_.codes), base_ + std::string(kZeros),
          "missing beside " + module_.codes->name + ", and so is " + base_ + std::string(kBiases));
    }
    module_.zero_points = zeros;
    module_.offsets = &part(zeros ? kZeros : kBiases, DType::kF16);
    if (module_.offsets->elements() != module_.scales->elements()) {
      fail(*module_.offsets, "expected " + std::to_string(module_.scales->elements()) +
                                 " values like the scales, found " +
                                 std::to_string(module_.offsets->elements()));
    }
  }

  bool blocks_have_widths() const { return find(kBitMap) != nullptr; }
  const std::string& source() const { return module_.source; }

  /// Version 1.0, whose shape nobody but the architecture knows.
  V1Module read_block_widths(const std::vector<uint64_t>* known) {
    for (const std::string_view surplus : {kBits, kShape, kBiases}) {
      if (const CheckpointTensor* found = find(surplus))
        fail(*found, "beside " + base_ + std::string(kBitMap) + ": no version has both");
    }
    if (known == nullptr) {
      throw Error(ErrorCode::kUnsupportedFormat, file(*module_.codes), module_.codes->name,
                  "JANG 1.0 does not store the shape, and no architecture known here has this "
                  "module");
    }
    set_shape(*known);
    check_block_widths();
    check_sizes();
    return std::move(module_);
  }

  V1Module read_one_width() {
    if (const CheckpointTensor* found = find(kBlockOffsets))
      fail(*found, "without " + base_ + std::string(kBitMap));
    const CheckpointTensor& bits = part(kBits, DType::kU8);
    if (bits.elements() != 1)
      fail(bits, "expected one width, found " + std::to_string(bits.elements()));
    set_bits(bits, element<uint8_t>(checkpoint_.data(bits), 0));
    const CheckpointTensor& shape = part(kShape, DType::kI64);
    if (shape.elements() != 2 && shape.elements() != 3)
      fail(shape, "expected 2 or 3 axes, found " + std::to_string(shape.elements()));
    std::vector<uint64_t> axes;
    for (uint64_t i = 0; i < shape.elements(); ++i) {
      const auto axis = element<int64_t>(checkpoint_.data(shape), i);
      if (axis < 1 || static_cast<uint64_t>(axis) > kMaxAxis) {
        fail(shape, "expected axes of 1 to 2^40, found " + std::to_string(axis));
      }
      axes.push_back(static_cast<uint64_t>(axis));
    }
    set_shape(axes);
    check_sizes();
    return std::move(module_);
  }

 private:
  const CheckpointTensor* find(std::string_view part) const {
    return checkpoint_.find(base_ + std::string(part));
  }
  const CheckpointTensor& part(std::string_view name, DType dtype) const {
    const CheckpointTensor* found = find(name);
    if (found == nullptr) {
      throw Error(ErrorCode::kMissingTensor, file(*module_.codes), base_ + std::string(name),
                  "missing beside " + module_.codes->name);
    }
    require(*found, dtype);
    return *found;
  }
  void require(const CheckpointTensor& tensor, DType dtype) const {
    if (tensor.dtype == dtype) return;
    fail(tensor, "expected " + std::string(dtype_name(dtype)) + ", found " +
                     std::string(dtype_name(tensor.dtype)));
  }
  const std::string& file(const CheckpointTensor& tensor) const {
    return checkpoint_.files()[tensor.file];
  }
  [[noreturn]] void fail(const CheckpointTensor& tensor, const std::string& message,
                         ErrorCode code = ErrorCode::kTripleShape) const {
    throw Error(code, file(tensor), tensor.name, message);
  }

  void set_bits(const CheckpointTensor& from, int bits) {
    if (!is_bit_width(bits)) {
      fail(from, "expected a width of 2, 3, 4, 5, 6 or 8 bits, found " + std::to_string(bits));
    }
    module_.width.bits = bits;
  }

  void set_shape(const std::vector<uint64_t>& shape) {
    module_.shape = shape;
    const auto weights = checked_product(shape);
    if (!weights || *weights == 0) {
      fail(*module_.codes, "expected a matrix with weights, found shape " + shape_text(shape));
    }
    weights_ = *weights;
    if (shape.back() % block_ != 0) {
      fail(*module_.codes,
           "blocks of " + std::to_string(block_) + " weights run over the ends of rows of " +
               std::to_string(shape.back()) + "; such groups are not affine JANG",
           ErrorCode::kUnsupportedFormat);
    }
    if (module_.scales->elements() != weights_ / block_) {
      fail(*module_.scales, "expected " + std::to_string(weights_ / block_) +
                                " values for the shape " + shape_text(shape) + " in blocks of " +
                                std::to_string(block_) + ", found " +
                                std::to_string(module_.scales->elements()));
    }
  }

  void check_block_widths() {
    const CheckpointTensor& map = part(kBitMap, DType::kU8);
    const CheckpointTensor& offsets = part(kBlockOffsets, DType::kU32);
    const uint64_t blocks = weights_ / block_;
    for (const CheckpointTensor* tensor : {&map, &offsets}) {
      if (tensor->elements() == blocks) continue;
      fail(*tensor, "expected " + std::to_string(blocks) + " values, one a block, found " +
                        std::to_string(tensor->elements()));
    }
    const auto widths = checkpoint_.data(map);
    const auto places = checkpoint_.data(offsets);
    set_bits(map, element<uint8_t>(widths, 0));
    const uint64_t step = block_ * static_cast<uint64_t>(module_.width.bits) / 8;
    for (uint64_t k = 0; k < blocks; ++k) {
      const int bits = element<uint8_t>(widths, k);
      if (bits != module_.width.bits) {
        fail(map,
             "block 0 has " + std::to_string(module_.width.bits) + " bits and block " +
                 std::to_string(k) + " " + std::to_string(bits) +
                 "; a matrix of several widths is not affine JANG",
             ErrorCode::kUnsupportedFormat);
      }
      const auto place = element<uint32_t>(places, k);
      if (place != k * step) {
        fail(offsets, "block " + std::to_string(k) + ": expected offset " +
                          std::to_string(k * step) + ", found " + std::to_string(place));
      }
    }
  }

  void check_sizes() const {
    const auto bits = checked_mul(weights_, static_cast<uint64_t>(module_.width.bits));
    if (bits && *bits / 8 == module_.codes->bytes()) return;
    fail(*module_.codes, "expected " + (bits ? std::to_string(*bits / 8) : "more than 2^61") +
                             " bytes for the shape " + shape_text(module_.shape) + " at " +
                             std::to_string(module_.width.bits) + " bits, found " +
                             std::to_string(module_.codes->bytes()));
  }

  const Checkpoint& checkpoint_;
  const std::string& base_;
  const uint64_t block_;
  uint64_t weights_ = 0;
  V1Module module_;
};

/// Shapes that config.json promises for the sources of these names, all that there are.
std::map<std::string, std::vector<uint64_t>, std::less<>> promised_shapes(
    const ModelDirectory& directory, std::span<const std::string> names) {
  std::map<std::string, std::vector<uint64_t>, std::less<>> shapes;
  try {
    for (SourceTensor& tensor : sources_from_config(directory.config, names))
      shapes.emplace(std::move(tensor.name), std::move(tensor.shape));
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIndexMismatch) {
      const bool stored = std::find(names.begin(), names.end(), error.tensor()) != names.end();
      throw Error(stored ? ErrorCode::kExtraTensor : ErrorCode::kMissingTensor,
                  directory.path.filename().string(), error.tensor(),
                  stored ? "config.json has no such tensor"
                         : "config.json promises it, and no file has it");
    }
    // Whoever needs a shape then says that there is none.
    if (error.code() != ErrorCode::kUnsupportedModel) throw;
  }
  return shapes;
}

}  // namespace

std::string v1_base(const std::string& name) {
  const std::string_view part = part_of(name);
  return part.empty() ? std::string() : name.substr(0, name.size() - part.size());
}

int v1_block_size(const Json& jang_config, const std::string& file) {
  int64_t block = kDefaultBlock;
  const Json* quantization = jang_config.find("quantization");
  const Json* found = quantization != nullptr ? quantization->find("block_size") : nullptr;
  if (found != nullptr && !found->get_integer(1, kMaxBlock, block)) {
    throw Error(
        ErrorCode::kConfigValue, file, {},
        "quantization.block_size: expected an integer of 1 to " + std::to_string(kMaxBlock));
  }
  if (!is_group_size(static_cast<int>(block))) {
    throw Error(ErrorCode::kUnsupportedFormat, file, {},
                "quantization.block_size " + std::to_string(block) +
                    ": groups of affine JANG have 32, 64 or 128 weights");
  }
  return static_cast<int>(block);
}

V1Contents read_v1_modules(const ModelDirectory& directory) {
  const Checkpoint& checkpoint = directory.checkpoint;
  const std::string file =
      directory.jang_config_file.empty() ? "config.json" : directory.jang_config_file;
  const int block = v1_block_size(*directory.jang_config, file);
  std::vector<std::string> bases, names;
  V1Contents contents;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const std::string base = v1_base(tensor.name);
    // The inventory leaves out towers and the like, by their names alone.
    if (base.empty() || is_dropped(directory.config, tensor.name)) {
      contents.plain.push_back(&tensor);
      names.push_back(tensor.name);
    } else if (tensor.name.ends_with(kCodes)) {
      bases.push_back(base);
      names.push_back(source_name(base));
    } else if (checkpoint.find(base + std::string(kCodes)) == nullptr) {
      throw Error(ErrorCode::kMissingTensor, checkpoint.files()[tensor.file],
                  base + std::string(kCodes), "missing beside " + tensor.name);
    }
  }
  std::optional<std::map<std::string, std::vector<uint64_t>, std::less<>>> promised;
  for (const std::string& base : bases) {
    ModuleReader reader(checkpoint, base, block);
    if (!reader.blocks_have_widths()) {
      contents.modules.push_back(reader.read_one_width());
      continue;
    }
    if (!promised) promised = promised_shapes(directory, names);
    const auto known = promised->find(reader.source());
    contents.modules.push_back(
        reader.read_block_widths(known == promised->end() ? nullptr : &known->second));
  }
  return contents;
}

}  // namespace jang
