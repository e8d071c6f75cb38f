#include "convert/source_reader.h"

#include <cmath>
#include <string>

#include "base/error.h"
#include "convert/values.h"

namespace jang {
namespace {

std::string value_text(float value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "infinity" : "-infinity";
  char text[32];
  std::snprintf(text, sizeof text, "%g", static_cast<double>(value));
  return text;
}

}  // namespace

std::string range_hint(DType dtype) {
  return dtype == DType::kF16 ? "bf16 holds the range of f32: --dtype bf16" : "use --dtype f32";
}

Error place_error(ErrorCode code, const Checkpoint& checkpoint, const FinalTensor& tensor,
                  const Panel& panel, uint64_t row, uint64_t column, const std::string& what,
                  const std::string& hint) {
  const SourceValue at = locate_value(tensor, panel.row + row, panel.column + column);
  const CheckpointTensor& source = checkpoint.tensors()[at.tensor];
  return Error(
      code, checkpoint.files()[source.file], source.name,
      "row " + std::to_string(at.row) + ", column " + std::to_string(at.column) + ": " + what,
      hint);
}

void require_finite(const SourcePanel& values, const Checkpoint& checkpoint,
                    const FinalTensor& tensor, const Panel& panel) {
  const auto bad = find_non_finite(values);
  if (!bad) return;
  throw place_error(ErrorCode::kNonFinite, checkpoint, tensor, panel, bad->row, bad->column,
                    "expected a finite value, found " + value_text(bad->value));
}

SourcePanel SourceReader::cast_to(const SourcePanel& values, DType to, const PlannedTensor& planned,
                                  const Panel& panel, ReadScratch& scratch) const {
  if (values.dtype == to) return values;
  const uint64_t bytes = values.rows * values.columns * static_cast<uint64_t>(dtype_size(to));
  scratch.cast.reserve_discarding(bytes);
  if (const auto lost = cast_panel(values, to, scratch.cast.data())) {
    throw place_error(
        ErrorCode::kRange, checkpoint(), planned.tensor, panel, lost->row, lost->column,
        value_text(lost->value) + " does not fit " + std::string(dtype_name(to)), range_hint(to));
  }
  return {scratch.cast.data(), to, values.rows, values.columns};
}

SourcePanel SourceReader::read(const PlannedTensor& planned, const Panel& panel,
                               ReadScratch& scratch) const {
  const SourcePanel values = read_panel(checkpoint(), planned.tensor, panel, scratch.gathered);
  require_finite(values, checkpoint(), planned.tensor, panel);
  if (!planned.format) return cast_to(values, planned.dtype, planned, panel, scratch);
  return cast_ ? cast_to(values, *cast_, planned, panel, scratch) : values;
}

void SourceReader::drop(const PlannedTensor& planned, const Panel& panel) const {
  drop_panel(checkpoint(), planned.tensor, panel);
}

}  // namespace jang
