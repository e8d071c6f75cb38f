#include "calibrate/stored_matrix.h"

namespace jang {
namespace {

kernels::FloatType float_type(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return kernels::FloatType::kF16;
    case DType::kBF16:
      return kernels::FloatType::kBF16;
    default:
      return kernels::FloatType::kF32;
  }
}

}  // namespace

StoredMatrix::StoredMatrix(const AffineFormat& format, uint64_t rows, uint64_t columns)
    : codes(rows * format.row_bytes(columns)),
      scales(rows * format.row_groups(columns) *
             static_cast<uint64_t>(dtype_size(format.metadata))),
      biases(scales.size()),
      view{reinterpret_cast<const uint8_t*>(codes.data()),
           reinterpret_cast<const uint8_t*>(scales.data()),
           reinterpret_cast<const uint8_t*>(biases.data()),
           static_cast<int64_t>(rows),
           static_cast<int64_t>(columns),
           format.bits,
           format.group_size,
           float_type(format.metadata)} {}

ByteCount StoredMatrix::bytes(const AffineFormat& format, uint64_t rows,
                              uint64_t columns) noexcept {
  return ByteCount(rows) *
         (ByteCount(format.row_bytes(columns)) +
          ByteCount(format.row_groups(columns)) * (2 * dtype_size(format.metadata)));
}

AffinePanel rows_of(const AffinePanel& whole, const AffineFormat& format, uint64_t row,
                    uint64_t columns) {
  const uint64_t groups =
      row * format.row_groups(columns) * static_cast<uint64_t>(dtype_size(format.metadata));
  return {whole.codes + row * format.row_bytes(columns), whole.scales + groups,
          whole.biases + groups};
}

}  // namespace jang
