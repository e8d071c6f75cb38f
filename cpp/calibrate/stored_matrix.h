// A matrix as the file will hold it, in memory: what a pass runs with instead of its source.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "base/byte_count.h"
#include "kernels/kernel_table.h"
#include "quant/affine_format.h"

namespace jang {

struct StoredMatrix {
  AlignedBuffer<std::byte> codes, scales, biases;
  kernels::AffineMatrix view{};

  StoredMatrix(const AffineFormat& format, uint64_t rows, uint64_t columns);
  static ByteCount bytes(const AffineFormat& format, uint64_t rows, uint64_t columns) noexcept;
  AffinePanel panel() { return {codes.data(), scales.data(), biases.data()}; }
};

/// What a panel holds from row `row` on.
AffinePanel rows_of(const AffinePanel& whole, const AffineFormat& format, uint64_t row,
                    uint64_t columns);

}  // namespace jang
