// Weights as 8-bit floats (E4M3) with a scale a block: what config.json says of them, which tensors
// belong together, and their values.
//
// A tensor X of codes [.., out, in] has its scales in X_scale_inv [.., ceil(out / block rows),
// ceil(in / block columns)]; the last block of a row or column may be cut short. A value is the
// code's float times the scale, one product rounded to nearest even in f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arch/config.h"
#include "arch/inventory.h"
#include "io/checkpoint.h"

namespace jang {

/// The blocks of quantization_config with the method fp8; nullopt for another method or none.
/// Error{kUnsupportedFormat} for fp8 of a kind that is not read here, Error{kConfigValue} for a
/// block size that is none.
std::optional<ScaleBlocks> stated_blocks(const ModelConfig& config);

/// "X_scale_inv" of "X".
std::string scales_name(std::string_view codes_name);
/// "X" of "X_scale_inv"; empty for another name.
std::string_view scaled_name(std::string_view name) noexcept;

/// Holds every F8_E4M3 tensor against its scales and the scales against the blocks, but for what
/// conversion and runtime drop. Without `blocks` there must be neither. Error{kMissingTensor |
/// kTripleShape | kUnsupportedFormat} naming the tensor.
void check_block_scales(const ModelConfig& config, std::span<const SourceTensor> sources,
                        const std::optional<ScaleBlocks>& blocks);

/// Bytes of a tensor, from `offset` in it.
struct TensorBytes {
  const CheckpointTensor* tensor = nullptr;
  uint64_t offset = 0, bytes = 0;
};
/// Scales of `bytes` codes from `offset` on (at least one), in whole rows; both checked before.
TensorBytes scales_of_codes(const Checkpoint& checkpoint, const CheckpointTensor& codes,
                            const ScaleBlocks& blocks, uint64_t offset, uint64_t bytes);

/// One source tensor of codes, its scales found; both checked before.
class ScaledCodes {
 public:
  ScaledCodes(const Checkpoint& checkpoint, const CheckpointTensor& codes,
              const ScaleBlocks& blocks);

  const CheckpointTensor& scales() const noexcept { return *scales_; }
  /// Values [column, column + columns) of a row, all axes but the last flattened; 4 bytes each.
  void row(uint64_t row, uint64_t column, uint64_t columns, std::byte* out) const;
  float value(uint64_t row, uint64_t column) const;

 private:
  float scale(uint64_t row, uint64_t block) const;

  const CheckpointTensor* scales_;
  const std::byte* codes_;
  const std::byte* scale_data_;
  ScaleBlocks blocks_;
  uint64_t rows_, columns_;              // of a matrix
  uint64_t scale_rows_, scale_columns_;  // of its scales
};

/// gather_values (source_values.h) of a tensor with blocks: its values in F32.
void gather_scaled(const Checkpoint& checkpoint, const FinalTensor& tensor, uint64_t row,
                   uint64_t rows, uint64_t column, uint64_t columns, std::byte* out);

}  // namespace jang
