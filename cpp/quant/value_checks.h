// What quantizers refuse: values that are not finite, scales and biases beyond their type. The
// messages name row and column; the caller adds file and tensor.
#pragma once

#include <cstdint>
#include <span>

#include "quant/affine_format.h"

namespace jang {

/// Index of the first NaN or infinity, or size() if all are finite.
uint64_t first_non_finite(std::span<const float> values);
[[noreturn]] void throw_non_finite(uint64_t row, uint64_t column, float value);
/// `what`: "scale" or "bias" of the group at (row, column).
[[noreturn]] void throw_range(uint64_t row, uint64_t column, const AffineFormat& format,
                              const char* what);

}  // namespace jang
