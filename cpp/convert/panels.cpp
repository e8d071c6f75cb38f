// Cutting tensors into panels and finding a panel's bytes in the source.
#include "convert/panels.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "arch/block_scales.h"
#include "arch/source_values.h"
#include "convert/values.h"
#include "io/checksum.h"

namespace jang {
namespace {

constexpr uint64_t kColumnStep = 128;  // the largest group; 128 codes of any width are whole bytes

/// Calls visit(source tensor, byte offset in it, byte count) for the pieces of a panel, in order;
/// zeros have none.
template <typename Visit>
void for_each_piece(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel,
                    Visit&& visit) {
  if (tensor.zeros) return;
  for_each_run(checkpoint, tensor, panel.row, panel.rows, panel.column, panel.columns,
               std::forward<Visit>(visit));
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

void cut_panels(uint32_t index, const FinalTensor& tensor, uint64_t rows, std::vector<Panel>& out) {
  const std::size_t first = out.size();
  cut_panels(index, rows, tensor.columns(), static_cast<uint64_t>(dtype_size(tensor.dtype)), out);
  const auto stored = static_cast<uint64_t>(dtype_size(tensor.stored_dtype()));
  for (std::size_t i = first; i < out.size(); ++i)
    out[i].bytes = out[i].rows * out[i].columns * stored;
}

Panel whole_panel(uint32_t index, const FinalTensor& tensor) {
  return {index, 0, tensor.elements() / tensor.columns(), 0, tensor.columns(), tensor.bytes()};
}

SourcePanel read_panel(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel,
                       AlignedBuffer<std::byte>& scratch) {
  SourcePanel result{nullptr, tensor.dtype, panel.rows, panel.columns};
  if (tensor.zeros) {
    scratch.reserve_discarding(panel.bytes);
    std::memset(scratch.data(), 0, panel.bytes);
    result.data = scratch.data();
    return result;
  }
  const uint64_t size = value_bytes(tensor, panel);
  const auto gather = [&] {
    scratch.reserve_discarding(size);
    gather_values(checkpoint, tensor, panel.row, panel.rows, panel.column, panel.columns,
                  scratch.data());
    result.data = scratch.data();
  };
  if (!tensor.has_stored_values()) gather();
  for_each_piece(checkpoint, tensor, panel,
                 [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                   if (result.data != nullptr) return;
                   require_dtype(checkpoint, source, tensor);
                   if (bytes == size) {
                     result.data = checkpoint.data(source).subspan(offset, bytes).data();
                   } else {
                     gather();
                   }
                 });
  if (tensor.shift != 0.0f) {
    scratch.reserve_discarding(size);
    shift_panel(result, tensor.shift, scratch.data());
    result.data = scratch.data();
  }
  return result;
}

uint64_t value_bytes(const FinalTensor& tensor, const Panel& panel) {
  return panel.rows * panel.columns * static_cast<uint64_t>(dtype_size(tensor.dtype));
}

uint32_t source_panel_crc(const Checkpoint& checkpoint, const FinalTensor& tensor,
                          const Panel& panel, const AlignedBuffer<std::byte>& gathered) {
  // What must be gathered anyway is not gone through twice: of a transposed tensor the bytes of a
  // panel are spread over all of its source.
  if (!tensor.has_stored_rows() || tensor.blocks)
    return crc32_of({gathered.data(), value_bytes(tensor, panel)});
  uint32_t crc = crc32_of({});
  for_each_piece(checkpoint, tensor, panel,
                 [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                   crc = crc32_of(checkpoint.data(source).subspan(offset, bytes), crc);
                 });
  return crc;
}

void visit_panel(
    const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel,
    const std::function<void(const CheckpointTensor&, uint64_t begin, uint64_t bytes)>& visit) {
  for_each_piece(checkpoint, tensor, panel,
                 [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                   visit(source, source.begin + offset, bytes);
                   if (!tensor.blocks) return;
                   const TensorBytes scales =
                       scales_of_codes(checkpoint, source, *tensor.blocks, offset, bytes);
                   visit(*scales.tensor, scales.tensor->begin + scales.offset, scales.bytes);
                 });
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
