// A matrix as the file will hold it, in memory: what a pass runs with instead of its source.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "kernels/kernel_table.h"
#include "quant/affine_format.h"

namespace jang {

struct StoredMatrix {
  AlignedBuffer<std::byte> codes, scales, biases;
  kernels::AffineMatrix view{};

  StoredMatrix(const AffineFormat& format, uint64_t rows, uint64_t columns);
  AffinePanel panel() { return {codes.data(), scales.data(), biases.data()}; }
};

}  // namespace jang
