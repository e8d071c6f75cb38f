// The life of a panel, from the mapped source to the bytes of up to three output tensors.
#include "convert/panel_writer.h"

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "convert/values.h"
#include "io/checksum.h"
#include "quant/lattice.h"

namespace jang {
namespace {

/// The first group that store(values, its column) refuses, found by trying each alone.
template <typename Store>
PanelPlace failing_group(const SourcePanel& values, const AffineFormat& format,
                         const Store& store) {
  const auto group = static_cast<uint64_t>(format.group_size);
  const uint64_t bytes = group * static_cast<uint64_t>(dtype_size(values.dtype));
  for (uint64_t i = 0; i < values.rows * format.row_groups(values.columns); ++i) {
    const uint64_t column = i * group % values.columns;
    try {
      store({values.data + i * bytes, values.dtype, 1, group}, column);
    } catch (const Error&) {
      return {i * group / values.columns, column, 0};
    }
  }
  return {};
}

}  // namespace

void PanelSums::append(const PanelSums& next) noexcept {
  for (std::size_t piece = 0; piece < kMaxPieces; ++piece) {
    crc[piece] = crc32_join(crc[piece], next.crc[piece], next.bytes[piece]);
    bytes[piece] += next.bytes[piece];
  }
  lossless_groups += next.lossless_groups;
  source_crc = crc32_join(source_crc, next.source_crc, next.source_bytes);
  source_bytes += next.source_bytes;
}

PanelSums source_sums(const Checkpoint& source, const FinalTensor& tensor, const Panel& rows) {
  std::vector<Panel> panels;
  cut_panels(rows.tensor, tensor, rows.rows, panels);
  AlignedBuffer<std::byte> gathered;
  PanelSums sums;
  for (Panel& panel : panels) {
    panel.row += rows.row;
    read_panel(source, tensor, panel, gathered);
    PanelSums next;
    next.source_crc = source_panel_crc(source, tensor, panel, gathered);
    next.source_bytes = value_bytes(tensor, panel);
    sums.append(next);
  }
  return sums;
}

PanelSums PanelWriter::write(const Panel& panel, WriteScratch& scratch) const {
  const PlannedTensor& planned = plan_.tensors[panel.tensor];
  const SourcePanel values = reader_.read(planned, panel, scratch.source);
  PanelSums sums;
  if (planned.format) {
    sums = write_quantized(values, panel, scratch);
  } else {
    const auto size = static_cast<uint64_t>(dtype_size(planned.dtype));
    const uint64_t offset = (panel.row * planned.tensor.columns() + panel.column) * size;
    put(panel, 0, offset, {values.data, values.rows * values.columns * size}, sums);
  }
  if (source_sums_ == SourceSums::kTaken) {
    sums.source_crc =
        source_panel_crc(reader_.checkpoint(), planned.tensor, panel, scratch.source.gathered);
    sums.source_bytes = value_bytes(planned.tensor, panel);
  }
  reader_.drop(planned, panel);
  return sums;
}

PanelSums PanelWriter::write_solved(const Panel& panel, const AffinePanel& solved) const {
  const PlannedTensor& planned = plan_.tensors[panel.tensor];
  PanelSums sums = put_quantized(panel, solved);
  if (source_sums_ == SourceSums::kTaken)
    sums.append(source_sums(reader_.checkpoint(), planned.tensor, panel));
  reader_.drop(planned, panel);
  return sums;
}

PanelSums PanelWriter::write_quantized(const SourcePanel& values, const Panel& panel,
                                       WriteScratch& scratch) const {
  const PlannedTensor& planned = plan_.tensors[panel.tensor];
  const AffineFormat& format = *planned.format;
  const auto size = static_cast<uint64_t>(dtype_size(format.metadata));
  const uint64_t code_bytes = values.rows * format.row_bytes(values.columns);
  const uint64_t group_bytes = values.rows * format.row_groups(values.columns) * size;
  scratch.codes.reserve_discarding(code_bytes);
  scratch.scales.reserve_discarding(group_bytes);
  scratch.biases.reserve_discarding(group_bytes);
  uint64_t lossless_groups = 0;
  if (planned.lattice) {
    lossless_groups = store_on_lattice(values, panel, scratch);
  } else {
    quantize(values, panel, scratch);
  }
  PanelSums sums =
      put_quantized(panel, {scratch.codes.data(), scratch.scales.data(), scratch.biases.data()});
  sums.lossless_groups = lossless_groups;
  return sums;
}

// Stores rows of a panel, `values` from its row `row` on, by store(values, column). Values are
// finite, so what it throws is about a scale or a bias; it does not know where the panel lies.
template <typename Store>
void PanelWriter::store_or_place_error(const SourcePanel& values, const Panel& panel, uint64_t row,
                                       const Store& store) const {
  const PlannedTensor& planned = plan_.tensors[panel.tensor];
  try {
    store(values, 0);
  } catch (const Error& error) {
    const PanelPlace at = failing_group(values, *planned.format, store);
    const DType metadata = planned.format->metadata;
    throw place_error(
        error.code(), reader_.checkpoint(), planned.tensor, panel, row + at.row, at.column,
        "the scale or bias of the group there does not fit " + std::string(dtype_name(metadata)),
        range_hint(metadata));
  }
}

uint64_t PanelWriter::store_on_lattice(const SourcePanel& values, const Panel& panel,
                                       WriteScratch& scratch) const {
  const AffineFormat& format = *plan_.tensors[panel.tensor].format;
  uint64_t lossless = 0;
  store_or_place_error(values, panel, 0, [&](const SourcePanel& some, uint64_t) {
    lossless = store_lattice_panel(
        some, format, {scratch.codes.data(), scratch.scales.data(), scratch.biases.data()});
  });
  return lossless;
}

// A panel may run through several experts, and each has weights of its own.
void PanelWriter::quantize(const SourcePanel& values, const Panel& panel,
                           WriteScratch& scratch) const {
  const PlannedTensor& planned = plan_.tensors[panel.tensor];
  const AffineFormat& format = *planned.format;
  const auto metadata_size = static_cast<uint64_t>(dtype_size(format.metadata));
  const uint64_t row_bytes = values.columns * static_cast<uint64_t>(dtype_size(values.dtype));
  for (uint64_t row = 0; row < values.rows;) {
    uint64_t rows = values.rows - row;
    std::span<const float> weights;
    if (weights_ != nullptr) weights = weights_->of(planned.tensor, panel.row + row);
    if (!weights.empty()) {
      const uint64_t block_rows = ColumnWeights::block_rows(planned.tensor);
      rows = std::min(rows, block_rows - (panel.row + row) % block_rows);
      weights = weights.subspan(panel.column, panel.columns);
    }
    const SourcePanel block{values.data + row * row_bytes, values.dtype, rows, values.columns};
    const uint64_t groups = row * format.row_groups(values.columns) * metadata_size;
    const AffinePanel out{scratch.codes.data() + row * format.row_bytes(values.columns),
                          scratch.scales.data() + groups, scratch.biases.data() + groups};
    store_or_place_error(block, panel, row, [&](const SourcePanel& some, uint64_t column) {
      quantize_panel(some, format, method_, out,
                     weights.empty() ? weights : weights.subspan(column, some.columns));
    });
    row += rows;
  }
}

// A panel is whole rows or a run of whole groups of one row: one contiguous range of each piece.
PanelSums PanelWriter::put_quantized(const Panel& panel, const AffinePanel& quantized) const {
  const PlannedTensor& planned = plan_.tensors[panel.tensor];
  const AffineFormat& format = *planned.format;
  const auto size = static_cast<uint64_t>(dtype_size(format.metadata));
  const uint64_t code_bytes = panel.rows * format.row_bytes(panel.columns);
  const uint64_t group_bytes = panel.rows * format.row_groups(panel.columns) * size;
  const uint64_t columns = planned.tensor.columns();
  const uint64_t code_offset =
      panel.row * format.row_bytes(columns) + format.row_bytes(panel.column);
  const uint64_t group_offset =
      (panel.row * format.row_groups(columns) + format.row_groups(panel.column)) * size;
  PanelSums sums;
  put(panel, 0, code_offset, {quantized.codes, code_bytes}, sums);
  put(panel, 1, group_offset, {quantized.scales, group_bytes}, sums);
  put(panel, 2, group_offset, {quantized.biases, group_bytes}, sums);
  return sums;
}

void PanelWriter::put(const Panel& panel, std::size_t piece, uint64_t offset,
                      std::span<const std::byte> bytes, PanelSums& sums) const {
  output_.write(panel.tensor, piece, offset, bytes);
  sums.crc[piece] = crc32_of(bytes);
  sums.bytes[piece] = bytes.size();
}

}  // namespace jang
