// How keys and values are kept: blocks of kKvBlock positions of one layer and one kv head, keys and
// values apart, each block contiguous and 64-byte aligned.
//
// A row is one position's vector, padded so that kernels read whole registers. The parts of a block
// follow one another:
//   f32, f16, bf16  [kKvBlock][padded] elements, zeros behind dim
//   q8              [kKvBlock][padded] int8, zeros behind dim; [kKvBlock] f32: x ~ scale * code
//   q4              [kKvBlock][padded / 2] bytes, [kKvBlock][padded / kKvGroup] uint32
// q4: x ~ s * code + z per group of kKvGroup channels; byte i of a group holds the code of channel
// i in its low and of channel i + 16 in its high half; a group's word is s as bf16 in the high half
// and z as bf16 in the low one. Codes behind dim are as of the group's first channel.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jang::kernels {

enum class KvType : uint8_t { kF32, kF16, kBF16, kQ8, kQ4 };
inline constexpr int kKvTypes = 5;
inline constexpr int kKvBlock = 64;
inline constexpr int kKvGroup = 32;  // channels of a q4 group

// Static, so that no instruction-set folder shares their code with another.

/// Channels of a row with its padding.
static constexpr int64_t kv_padded(KvType type, int64_t dim) {
  const int64_t step = type == KvType::kQ4 ? kKvGroup : 16;
  return (dim + step - 1) / step * step;
}
/// Bytes of the elements or codes of a row.
static constexpr int64_t kv_row_bytes(KvType type, int64_t dim) {
  const int64_t padded = kv_padded(type, dim);
  switch (type) {
    case KvType::kF32:
      return padded * 4;
    case KvType::kF16:
    case KvType::kBF16:
      return padded * 2;
    case KvType::kQ8:
      return padded;
    case KvType::kQ4:
      break;
  }
  return padded / 2;
}
static constexpr int64_t kv_block_bytes(KvType type, int64_t dim) {
  const int64_t words = type == KvType::kQ8   ? 1
                        : type == KvType::kQ4 ? kv_padded(type, dim) / kKvGroup
                                              : 0;
  return kKvBlock * (kv_row_bytes(type, dim) + 4 * words);
}

/// The history of one layer and one kv head.
struct KvView {
  const uint8_t* const* key_blocks;    // [ceil(length / kKvBlock)]
  const uint8_t* const* value_blocks;  // as many
  int64_t length;
  int key_dim;
  int value_dim;
  KvType type;
};

}  // namespace jang::kernels
