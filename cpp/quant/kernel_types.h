// The bridge between the core's element types and those of the kernel table.
#pragma once

#include "base/dtype.h"
#include "base/error.h"
#include "kernels/kernel_table.h"

namespace jang {

/// `dtype` is one of the three float types (precondition).
inline kernels::FloatType kernel_type(DType dtype) {
  JANG_ASSERT(is_float_weight(dtype));
  switch (dtype) {
    case DType::kF16:
      return kernels::FloatType::kF16;
    case DType::kBF16:
      return kernels::FloatType::kBF16;
    default:
      return kernels::FloatType::kF32;
  }
}

inline const uint8_t* kernel_bytes(const std::byte* p) {
  return reinterpret_cast<const uint8_t*>(p);
}
inline uint8_t* kernel_bytes(std::byte* p) { return reinterpret_cast<uint8_t*>(p); }

}  // namespace jang
