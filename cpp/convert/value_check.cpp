// Decodes, rounds anew, and sums errors group by group, in double and in a fixed order.
#include "convert/value_check.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "convert/source_reader.h"
#include "convert/values.h"
#include "quant/stored_values.h"

namespace jang {
namespace {

/// Squared errors this small beside the source's squares are rounding of the sums themselves.
constexpr double kSumNoise = 1e-13;

PanelError error_of(const float* source, const float* found, uint64_t count) {
  PanelError error;
  for (uint64_t i = 0; i < count; ++i) {
    const double value = source[i];
    const double difference = static_cast<double>(found[i]) - value;
    error.error_squares += difference * difference;
    error.source_squares += value * value;
    error.max_abs = std::max(error.max_abs, std::abs(difference));
  }
  return error;
}

/// The part of a stored tensor that belongs to a panel.
struct Piece {
  const CheckpointTensor* tensor = nullptr;
  uint64_t begin = 0, bytes = 0;
};

/// Codes, scales and biases of a panel of a module with `columns` columns.
std::array<Piece, 3> pieces_of(const QuantizedModule& module, const AffineFormat& format,
                               const Panel& panel, uint64_t columns) {
  const auto size = static_cast<uint64_t>(dtype_size(format.metadata));
  const uint64_t codes = panel.row * format.row_bytes(columns) + format.row_bytes(panel.column);
  const uint64_t groups =
      (panel.row * format.row_groups(columns) + format.row_groups(panel.column)) * size;
  const uint64_t group_bytes = panel.rows * format.row_groups(panel.columns) * size;
  return {{{module.weight, codes, panel.rows * format.row_bytes(panel.columns)},
           {module.scales, groups, group_bytes},
           {module.biases, groups, group_bytes}}};
}

DType of_fewer_digits(DType a, DType b) {
  if (a == DType::kBF16 || b == DType::kBF16) return DType::kBF16;
  return a == DType::kF16 || b == DType::kF16 ? DType::kF16 : DType::kF32;
}

bool equal_in(DType type, const float* a, const float* b, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    if (as_stored(a[i], type) != as_stored(b[i], type)) return false;
  }
  return true;
}

/// Into cast_rounded: plain rounding of the values cast to the metadata's dtype. False where that
/// is no cast to fewer digits, or some value does not fit. Overwrites `codes`.
bool round_cast(const SourcePanel& values, const AffineFormat& format, const AffinePanel& codes,
                ValueScratch& scratch) {
  if (values.dtype != DType::kF32 || format.metadata == DType::kF32) return false;
  const uint64_t count = values.rows * values.columns;
  scratch.cast.reserve_discarding(count * static_cast<uint64_t>(dtype_size(format.metadata)));
  if (cast_panel(values, format.metadata, scratch.cast.data())) return false;
  const SourcePanel cast{scratch.cast.data(), format.metadata, values.rows, values.columns};
  quantize_panel(cast, format, Method::kRtn, codes);
  scratch.cast_rounded.reserve_discarding(count);
  dequantize_matrix(codes, format, values.rows, values.columns, scratch.cast_rounded.data(),
                    scratch.inline_pool);
  return true;
}

/// The first group whose codes, scale or bias differ, or `groups`.
uint64_t first_difference(const AffinePanel& a, const AffinePanel& b, const AffineFormat& format,
                          uint64_t groups) {
  const uint64_t codes = format.row_bytes(static_cast<uint64_t>(format.group_size));
  const auto size = static_cast<uint64_t>(dtype_size(format.metadata));
  for (uint64_t i = 0; i < groups; ++i) {
    if (std::memcmp(a.codes + i * codes, b.codes + i * codes, codes) != 0 ||
        std::memcmp(a.scales + i * size, b.scales + i * size, size) != 0 ||
        std::memcmp(a.biases + i * size, b.biases + i * size, size) != 0) {
      return i;
    }
  }
  return groups;
}

}  // namespace

void ValueFinding::merge(const ValueFinding& later) noexcept {
  stored.merge(later.stored);
  rounded.merge(later.rounded);
  lossless += later.lossless;
  // Of differences the first is told, else the worst group.
  if (!differs && (later.differs || later.worst_group > worst_group)) {
    row = later.row;
    column = later.column;
  }
  differs = differs || later.differs;
  worst_group = std::max(worst_group, later.worst_group);
}

bool ValueCheck::within(const PanelError& stored, const PanelError& rounded) const noexcept {
  const double limit = bounds_.factor * std::sqrt(rounded.error_squares) +
                       bounds_.shift * std::sqrt(rounded.source_squares);
  return stored.error_squares <= limit * limit + kSumNoise * rounded.source_squares;
}

ValueFinding ValueCheck::compare(const ValuePair& pair, const Panel& panel,
                                 ValueScratch& scratch) const {
  const Checkpoint& checkpoint = *source_.checkpoint;
  if (pair.plain != nullptr && pair.source->shift != 0.0f)
    return compare_norm(pair, panel, scratch);
  const SourcePanel values = read_panel(checkpoint, *pair.source, panel, scratch.gathered);
  require_finite(values, checkpoint, *pair.source, panel);
  const ValueFinding finding = pair.module != nullptr
                                   ? compare_module(pair, values, panel, scratch)
                                   : compare_plain(*pair.plain, values, panel, scratch);
  drop_panel(checkpoint, *pair.source, panel);
  return finding;
}

ValueFinding ValueCheck::compare_module(const ValuePair& pair, const SourcePanel& values,
                                        const Panel& panel, ValueScratch& scratch) const {
  const QuantizedModule& module = *pair.module;
  const AffineFormat format{module.width.bits, module.width.group_size, module.scales->dtype};
  const std::array<Piece, 3> pieces = pieces_of(module, format, panel, pair.source->columns());
  std::array<std::byte*, 3> stored{};
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto bytes = directory_.checkpoint.data(*pieces[i].tensor);
    // Only read through: the panel type serves writers too.
    stored[i] = const_cast<std::byte*>(bytes.subspan(pieces[i].begin, pieces[i].bytes).data());
  }
  const AffinePanel found{stored[0], stored[1], stored[2]};
  scratch.codes.reserve_discarding(pieces[0].bytes);
  scratch.scales.reserve_discarding(pieces[1].bytes);
  scratch.biases.reserve_discarding(pieces[2].bytes);
  const AffinePanel rounded{scratch.codes.data(), scratch.scales.data(), scratch.biases.data()};
  quantize_panel(values, format, Method::kRtn, rounded);

  const uint64_t count = values.rows * values.columns;
  for (auto* floats : {&scratch.source, &scratch.stored, &scratch.rounded}) {
    floats->reserve_discarding(count);
  }
  load_floats(values, scratch.source.data());
  dequantize_matrix(found, format, values.rows, values.columns, scratch.stored.data(),
                    scratch.inline_pool);
  dequantize_matrix(rounded, format, values.rows, values.columns, scratch.rounded.data(),
                    scratch.inline_pool);
  const auto group = static_cast<uint64_t>(format.group_size);
  std::optional<DType> exact_in;
  if (pair.lattice) exact_in = of_fewer_digits(values.dtype, format.metadata);
  const bool was_cast = round_cast(values, format, rounded, scratch);
  ValueFinding finding = sum_groups(scratch, panel, group, exact_in, was_cast);
  if (bounds_.exact && values.dtype == format.metadata) {
    const uint64_t first = group * first_difference(found, rounded, format, count / group);
    if (first != count) {
      finding.differs = true;
      finding.row = panel.row + first / panel.columns;
      finding.column = panel.column + first % panel.columns;
    }
  }
  for (const Piece& piece : pieces) {
    directory_.checkpoint.mapping(*piece.tensor)
        .drop(piece.tensor->begin + piece.begin, piece.bytes);
  }
  return finding;
}

ValueFinding ValueCheck::sum_groups(const ValueScratch& scratch, const Panel& panel, uint64_t group,
                                    std::optional<DType> exact_in, bool was_cast) const {
  ValueFinding finding;
  for (uint64_t first = 0; first < panel.rows * panel.columns; first += group) {
    const float* source = scratch.source.data() + first;
    PanelError stored = error_of(source, scratch.stored.data() + first, group);
    if (exact_in && equal_in(*exact_in, source, scratch.stored.data() + first, group)) {
      stored.error_squares = 0;
      stored.max_abs = 0;
      ++finding.lossless;
    }
    PanelError rounded = error_of(source, scratch.rounded.data() + first, group);
    if (was_cast) {
      const PanelError cast = error_of(source, scratch.cast_rounded.data() + first, group);
      if (cast.error_squares > rounded.error_squares) rounded = cast;
    }
    finding.stored.merge(stored);
    finding.rounded.merge(rounded);
    if (!bounds_.every_group || within(stored, rounded)) continue;
    const double ratio =
        rounded.error_squares > 0 ? stored.error_squares / rounded.error_squares : HUGE_VAL;
    if (ratio <= finding.worst_group) continue;
    finding.worst_group = ratio;
    finding.row = panel.row + first / panel.columns;
    finding.column = panel.column + first % panel.columns;
  }
  return finding;
}

// A norm that the source stores as gamma - 1: the same here, or gamma, rounded to the source's
// dtype or exact in F32.
ValueFinding ValueCheck::compare_norm(const ValuePair& pair, const Panel& panel,
                                      ValueScratch& scratch) const {
  const Checkpoint& checkpoint = *source_.checkpoint;
  const CheckpointTensor& tensor = *pair.plain;
  FinalTensor raw = *pair.source;
  raw.shift = 0.0f;
  SourcePanel values = read_panel(checkpoint, raw, panel, scratch.gathered);
  require_finite(values, checkpoint, raw, panel);
  if (directory_.raw_norms) return compare_plain(tensor, values, panel, scratch);
  const uint64_t count = values.rows * values.columns;
  const auto size = static_cast<uint64_t>(dtype_size(values.dtype));
  AlignedBuffer<std::byte> shifted(count * size);
  shift_panel(values, pair.source->shift, shifted.data());
  const ValueFinding rounded = compare_plain(
      tensor, {shifted.data(), values.dtype, values.rows, values.columns}, panel, scratch);
  if (!rounded.differs || tensor.dtype != DType::kF32) return rounded;
  scratch.source.reserve_discarding(count);
  load_floats(values, scratch.source.data());
  for (uint64_t i = 0; i < count; ++i) scratch.source[i] += pair.source->shift;
  values = {reinterpret_cast<const std::byte*>(scratch.source.data()), DType::kF32, values.rows,
            values.columns};
  return compare_plain(tensor, values, panel, scratch);
}

ValueFinding ValueCheck::compare_plain(const CheckpointTensor& tensor, const SourcePanel& values,
                                       const Panel& panel, ValueScratch& scratch) const {
  const auto size = static_cast<uint64_t>(dtype_size(tensor.dtype));
  const uint64_t count = panel.rows * panel.columns;
  const uint64_t columns = tensor.shape.empty() ? 1 : tensor.shape.back();
  const uint64_t begin = (panel.row * columns + panel.column) * size;
  const auto found = directory_.checkpoint.data(tensor).subspan(begin, count * size);
  const std::byte* expected = values.data;
  if (values.dtype != tensor.dtype) {
    scratch.cast.reserve_discarding(count * size);
    // A value that does not fit became infinite, which verify_payloads finds.
    cast_panel(values, tensor.dtype, scratch.cast.data());
    expected = scratch.cast.data();
  }
  ValueFinding finding;
  if (std::memcmp(expected, found.data(), found.size()) != 0) {
    const auto at = std::mismatch(found.begin(), found.end(), expected).first;
    const auto index = static_cast<uint64_t>(at - found.begin()) / size;
    finding.differs = true;
    finding.row = panel.row + index / panel.columns;
    finding.column = panel.column + index % panel.columns;
  }
  directory_.checkpoint.mapping(tensor).drop(tensor.begin + begin, found.size());
  return finding;
}

}  // namespace jang
