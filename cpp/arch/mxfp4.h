// Experts packed as MXFP4, as gpt_oss is published: blocks of 32 values along a row, each a code of
// 4 bits (E2M1), and a byte (E8M0) that scales the block by 2^(byte - 127).
//
//   P.experts.gate_up_proj_blocks  U8 [E, 2I, D / 32, 16]   rows of gate and up in turn
//   P.experts.gate_up_proj_scales  U8 [E, 2I, D / 32]
//   P.experts.down_proj_blocks     U8 [E, D, I / 32, 16], and its scales likewise
//
// A byte holds two values, the first in its low bits. Every value is finite and exact in BF16 as
// long as the scale is at most kMxfp4LargestScale; other scales are refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arch/config.h"
#include "arch/inventory.h"
#include "io/checkpoint.h"

namespace jang {

inline constexpr int kMxfp4Bits = 4;
inline constexpr uint64_t kMxfp4Block = 32;
inline constexpr uint64_t kMxfp4BlockBytes = 16;
/// 6 * 2^(252 - 127) is the last largest value of a block below 2^128; 255 stands for NaN.
inline constexpr uint8_t kMxfp4LargestScale = 252;

/// Whether the config says that experts are stored so, of a model type that has a reader here.
/// Error{kConfigValue} for a quantization_config that is none.
bool is_mxfp4(const ModelConfig& config);

/// Finds the parts of packed tensors among the sources of a model.
class Mxfp4Splitter {
 public:
  /// Both outlive the object.
  Mxfp4Splitter(const ModelConfig& config, std::span<const SourceTensor> sources);

  /// Final tensors of source `index` if it is one of blocks, none if it is one of scales, whose
  /// blocks are there; nullopt for every other source. Throws Error{kMissingTensor | kTensorShape |
  /// kUnsupportedFormat} naming the tensor for parts that do not belong together.
  std::optional<std::vector<FinalTensor>> split(uint32_t index) const;

 private:
  uint32_t partner(const SourceTensor& source, std::string_view name) const;

  const ModelConfig& config_;
  std::span<const SourceTensor> sources_;
  std::map<std::string_view, uint32_t> by_name_;
};

/// Blocks and scales of one shape: what a reader of headers alone can tell.
struct Mxfp4Pair {
  std::string path;             // of both
  std::vector<uint64_t> shape;  // of the values
  const CheckpointTensor* blocks = nullptr;
  const CheckpointTensor* scales = nullptr;
};
std::vector<Mxfp4Pair> mxfp4_pairs(const Checkpoint& checkpoint);

/// Rows of a packed tensor, all axes but those of a row flattened.
class Mxfp4Rows {
 public:
  Mxfp4Rows(const Checkpoint& checkpoint, const CheckpointTensor& blocks,
            const CheckpointTensor& scales);

  /// Values [column, column + columns) of a row as BF16.
  void values(uint64_t row, uint64_t column, uint64_t columns, std::byte* out) const;
  /// A row as an affine triple of 5 bits in groups of 32, which holds the same values: `codes` [D *
  /// 5 / 8] bytes, `scales` and `biases` [D / 32] of BF16.
  void affine(uint64_t row, uint8_t* codes, uint8_t* scales, uint8_t* biases) const;

 private:
  /// Throws Error{kNonFinite} for a scale that makes values that are no numbers.
  uint8_t scale(uint64_t row, uint64_t block) const;

  const Checkpoint& checkpoint_;
  const CheckpointTensor& scales_tensor_;
  const uint8_t* blocks_;
  const uint8_t* scales_;
  uint64_t row_blocks_;
};

/// The triple that Mxfp4Rows::affine makes.
inline constexpr int kMxfp4AffineBits = 5;

}  // namespace jang
