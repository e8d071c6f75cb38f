// Values of a final tensor copied together from its sources, and multiplied by its factors: what
// must be done wherever they do not lie in the files as the tensor has them.
//
// Relies on the inventory for where they are; leaves views of what does lie there to its users.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "arch/inventory.h"
#include "arch/mxfp4.h"
#include "io/checkpoint.h"

namespace jang {

/// Columns [column, column + columns) of rows [row, row + rows) in the tensor's dtype, row by row.
/// Throws Error{kTensorShape} for a source whose dtype is not the tensor's, and Error{kNonFinite}
/// for an MXFP4 scale that is no number.
void gather_values(const Checkpoint& checkpoint, const FinalTensor& tensor, uint64_t row,
                   uint64_t rows, uint64_t column, uint64_t columns, std::byte* out);

/// Calls visit(source, byte offset in it, byte count) for runs of bytes that together hold these
/// values (of a tensor with blocks their codes), in ascending rows: of a transposed or packed
/// tensor, and of one that has only some columns, whole rows of the sources, of another a part of a
/// row only if rows == 1.
template <typename Visit>
void for_each_run(const Checkpoint& checkpoint, const FinalTensor& tensor, uint64_t row,
                  uint64_t rows, uint64_t column, uint64_t columns, Visit&& visit) {
  while (rows > 0) {
    const SourceValue at = locate_value(tensor, row, column);
    const CheckpointTensor& source = checkpoint.tensors()[at.tensor];
    const auto size = static_cast<uint64_t>(dtype_size(source.dtype));
    uint64_t count = 0;
    if (tensor.transposed) {
      const uint64_t matrix = tensor.shape[tensor.shape.size() - 2];
      const uint64_t row_bytes = source.shape.back() * size;
      count = std::min(rows, matrix - row % matrix);
      visit(source, at.row * row_bytes, columns * row_bytes);
    } else if (tensor.picked || tensor.scales) {
      const SourceRow from = locate_row(tensor, row);
      count = std::min(rows, from.available);
      const uint64_t stored = (count - 1) * from.step + 1;  // rows between are read past
      if (tensor.scales) {
        const CheckpointTensor& scales = checkpoint.tensors()[*tensor.scales];
        const uint64_t blocks = scales.shape.back();
        visit(source, at.row * blocks * kMxfp4BlockBytes, stored * blocks * kMxfp4BlockBytes);
        visit(scales, at.row * blocks, stored * blocks);
      } else {
        const uint64_t row_bytes = source.shape.back() * size;
        visit(source, at.row * row_bytes, stored * row_bytes);
      }
    } else {
      const uint64_t width = tensor.columns();
      const SourceRow from = locate_row(tensor, row);
      count = from.step == 1 ? std::min(rows, from.available) : 1;
      visit(source, (at.row * width + column) * size,
            (columns == width ? count * width : columns) * size);
    }
    row += count;
    rows -= count;
  }
}

/// Throws Error{kTensorShape} if the source's dtype is not the tensor's.
void require_dtype(const Checkpoint& checkpoint, const CheckpointTensor& source,
                   const FinalTensor& tensor);

}  // namespace jang
