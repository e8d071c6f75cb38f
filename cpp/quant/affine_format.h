// The MLX-affine format as code: w(r, c) = s(r, c/g) * q(r, c) + b(r, c/g), q an unsigned code of
// `bits` bits.
//
//   codes   [rows][columns * bits / 8] bytes   one little-endian bit stream a row, code i in stream
//   bits
//                                              [i*bits, (i+1)*bits), lowest bit first; rows share
//                                              no word
//   scales  [rows][columns / group_size]       F32, F16 or BF16
//   biases  like scales
//
// A stack of experts is the same with `experts * rows` rows. Specification: docs/format.md,
// sections 1-3.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/dtype.h"

namespace jang {

inline constexpr std::array<int, 6> kBitWidths = {2, 3, 4, 5, 6, 8};
inline constexpr std::array<int, 3> kGroupSizes = {32, 64, 128};

constexpr bool is_bit_width(int bits) noexcept {
  for (const int b : kBitWidths) {
    if (b == bits) return true;
  }
  return false;
}
constexpr bool is_group_size(int group) noexcept {
  return group == 32 || group == 64 || group == 128;
}

struct AffineFormat {
  int bits = 4;
  int group_size = 64;
  DType metadata = DType::kBF16;  // of scales and biases: F32, F16 or BF16

  constexpr uint64_t row_bytes(uint64_t columns) const noexcept {
    return columns / 8 * static_cast<uint64_t>(bits);
  }
  constexpr uint64_t row_groups(uint64_t columns) const noexcept {
    return columns / static_cast<uint64_t>(group_size);
  }
  constexpr uint32_t max_code() const noexcept { return (1u << bits) - 1u; }
  bool operator==(const AffineFormat&) const = default;
};

/// The source of a panel: `rows` rows of `columns` values of a float type, rows contiguous, any
/// alignment.
struct SourcePanel {
  const std::byte* data = nullptr;
  DType dtype = DType::kBF16;
  uint64_t rows = 0;
  uint64_t columns = 0;
};

/// Where a quantizer puts a panel's rows.
struct AffinePanel {
  std::byte* codes = nullptr;   // rows * row_bytes
  std::byte* scales = nullptr;  // rows * row_groups elements of `metadata`
  std::byte* biases = nullptr;
};

}  // namespace jang
