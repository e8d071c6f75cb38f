// Cutting tensors into panels and finding a panel's bytes in the source.
#include "convert/panels.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "convert/values.h"
#include "io/checksum.h"

namespace jang {
namespace {

constexpr uint64_t kColumnStep = 128;  // the largest group; 128 codes of any width are whole bytes

/// Calls visit(source tensor, byte offset in it, byte count) for the pieces of a panel, in order.
template <typename Visit>
void for_each_piece(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel,
                    Visit&& visit) {
  const uint64_t columns = tensor.columns();
  uint64_t row = panel.row;
  uint64_t left = panel.rows;
  while (left > 0) {
    const SourceRow at = locate_row(tensor, row);
    const CheckpointTensor& source = checkpoint.tensors()[at.tensor];
    const auto size = static_cast<uint64_t>(dtype_size(source.dtype));
    const uint64_t rows = std::min(left, at.available);
    const uint64_t count = panel.columns == columns ? rows * columns : panel.columns;
    visit(source, (at.row * columns + panel.column) * size, count * size);
    row += rows;
    left -= rows;
  }
}

}  // namespace

void cut_panels(uint32_t tensor, uint64_t rows, uint64_t columns, uint64_t element_bytes,
                std::vector<Panel>& out) {
  if (rows == 0 || columns == 0) return;
  const uint64_t row_bytes = columns * element_bytes;
  if (row_bytes <= kPanelBytes) {
    const uint64_t step = kPanelBytes / row_bytes;
    for (uint64_t row = 0; row < rows; row += step) {
      const uint64_t count = std::min(step, rows - row);
      out.push_back({tensor, row, count, 0, columns, count * row_bytes});
    }
    return;
  }
  const uint64_t step = kPanelBytes / element_bytes / kColumnStep * kColumnStep;
  for (uint64_t row = 0; row < rows; ++row) {
    for (uint64_t column = 0; column < columns; column += step) {
      const uint64_t count = std::min(step, columns - column);
      out.push_back({tensor, row, 1, column, count, count * element_bytes});
    }
  }
}

Panel whole_panel(uint32_t index, const FinalTensor& tensor) {
  return {index, 0, tensor.elements() / tensor.columns(), 0, tensor.columns(), tensor.bytes()};
}

SourcePanel read_panel(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel,
                       AlignedBuffer<std::byte>& scratch) {
  SourcePanel result{nullptr, tensor.dtype, panel.rows, panel.columns};
  uint64_t filled = 0;
  for_each_piece(checkpoint, tensor, panel,
                 [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                   if (source.dtype != tensor.dtype) {
                     throw Error(ErrorCode::kTensorShape, checkpoint.files()[source.file],
                                 source.name,
                                 "expected " + std::string(dtype_name(tensor.dtype)) +
                                     " like the other parts of " + tensor.name + ", found " +
                                     std::string(dtype_name(source.dtype)));
                   }
                   const auto piece = checkpoint.data(source).subspan(offset, bytes);
                   if (bytes == panel.bytes) {
                     result.data = piece.data();
                     return;
                   }
                   scratch.reserve_discarding(panel.bytes);
                   std::memcpy(scratch.data() + filled, piece.data(), bytes);
                   filled += bytes;
                   result.data = scratch.data();
                 });
  if (tensor.shift != 0.0f) {
    scratch.reserve_discarding(panel.bytes);
    shift_panel(result, tensor.shift, scratch.data());
    result.data = scratch.data();
  }
  return result;
}

uint32_t source_panel_crc(const Checkpoint& checkpoint, const FinalTensor& tensor,
                          const Panel& panel) {
  uint32_t crc = crc32_of({});
  for_each_piece(checkpoint, tensor, panel,
                 [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                   crc = crc32_of(checkpoint.data(source).subspan(offset, bytes), crc);
                 });
  return crc;
}

void prefetch_panel(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel) {
  for_each_piece(checkpoint, tensor, panel,
                 [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                   checkpoint.mapping(source).will_need(source.begin + offset, bytes);
                 });
}

void drop_panel(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel) {
  for_each_piece(checkpoint, tensor, panel,
                 [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                   checkpoint.mapping(source).drop(source.begin + offset, bytes);
                 });
}

}  // namespace jang
