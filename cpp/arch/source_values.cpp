#include "arch/source_values.h"

#include <algorithm>
#include <cstring>

#include "arch/block_scales.h"
#include "base/error.h"

namespace jang {
namespace {

/// out[r][c] = source[c][first + r * step] of rows that are `width` words long. Blocks keep both
/// sides in the cache, whichever of them is strided.
template <typename Word>
void transpose(const std::byte* source, uint64_t width, uint64_t first, uint64_t step,
               uint64_t rows, uint64_t columns, std::byte* out) {
  constexpr uint64_t kBlock = 32;
  for (uint64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const uint64_t r1 = std::min(rows, r0 + kBlock);
    for (uint64_t c0 = 0; c0 < columns; c0 += kBlock) {
      const uint64_t c1 = std::min(columns, c0 + kBlock);
      for (uint64_t r = r0; r < r1; ++r) {
        for (uint64_t c = c0; c < c1; ++c) {
          std::memcpy(out + (r * columns + c) * sizeof(Word),
                      source + (c * width + first + r * step) * sizeof(Word), sizeof(Word));
        }
      }
    }
  }
}

}  // namespace

void require_dtype(const Checkpoint& checkpoint, const CheckpointTensor& source,
                   const FinalTensor& tensor) {
  if (source.dtype == tensor.stored_dtype() || tensor.scales) return;
  throw Error(ErrorCode::kTensorShape, checkpoint.files()[source.file], source.name,
              "expected " + std::string(dtype_name(tensor.stored_dtype())) +
                  " like the other parts of " + tensor.name + ", found " +
                  std::string(dtype_name(source.dtype)));
}

void gather_values(const Checkpoint& checkpoint, const FinalTensor& tensor, uint64_t row,
                   uint64_t rows, uint64_t column, uint64_t columns, std::byte* out) {
  if (tensor.blocks) {
    gather_scaled(checkpoint, tensor, row, rows, column, columns, out);
    multiply_by_factors(tensor, row, rows, column, columns, out);
    return;
  }
  const auto size = static_cast<uint64_t>(dtype_size(tensor.dtype));
  while (rows > 0) {
    const SourceValue at = locate_value(tensor, row, column);
    const CheckpointTensor& source = checkpoint.tensors()[at.tensor];
    require_dtype(checkpoint, source, tensor);
    const std::byte* const data = checkpoint.data(source).data();
    uint64_t count = 0;
    if (tensor.scales) {
      const Mxfp4Rows packed(checkpoint, source, checkpoint.tensors()[*tensor.scales]);
      const SourceRow from = locate_row(tensor, row);
      count = std::min(rows, from.available);
      for (uint64_t r = 0; r < count; ++r)
        packed.values(at.row + r * from.step, column, columns, out + r * columns * size);
    } else if (tensor.picked) {
      count = 1;
      const std::byte* const first = data + (at.row * source.shape.back() + at.column) * size;
      for (uint64_t c = 0; c < columns; ++c)
        std::memcpy(out + c * size, first + c * tensor.picked->step * size, size);
    } else if (tensor.transposed) {
      const uint64_t width = source.shape.back();
      const uint64_t matrix = tensor.shape[tensor.shape.size() - 2];
      count = std::min(rows, matrix - row % matrix);
      const std::byte* const first = data + at.row * width * size;
      if (size == 4) {
        transpose<uint32_t>(first, width, at.column, tensor.transposed->step, count, columns, out);
      } else {
        transpose<uint16_t>(first, width, at.column, tensor.transposed->step, count, columns, out);
      }
    } else {
      const uint64_t width = tensor.columns();
      const SourceRow from = locate_row(tensor, row);
      count = from.step == 1 ? std::min(rows, from.available) : 1;
      for (uint64_t r = 0; r < count; ++r) {
        std::memcpy(out + r * columns * size, data + ((at.row + r) * width + column) * size,
                    columns * size);
      }
      multiply_by_factors(tensor, row, count, column, columns, out);
    }
    out += count * columns * size;
    row += count;
    rows -= count;
  }
}

}  // namespace jang
