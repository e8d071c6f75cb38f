// The values of a panel to quantize from: gathered from the source, checked, cast where an option
// asks for it.
#pragma once

#include <optional>
#include <string>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "convert/panels.h"
#include "convert/source.h"
#include "plan/plan.h"

namespace jang {

/// Memory of a panel's own, where its values do not lie in the map as they are needed.
struct ReadScratch {
  AlignedBuffer<std::byte> gathered, cast;
};

class SourceReader {
 public:
  /// `cast`: the dtype that all weights are rounded to before anything else (PlanOptions::dtype).
  SourceReader(const ConversionSource& source, std::optional<DType> cast)
      : source_(source), cast_(cast) {}

  /// Finite values, in the dtype of the plan for an unquantized tensor. They lie in the map or in
  /// `scratch`. Throws Error{kNonFinite | kRange} naming file, tensor, row and column.
  SourcePanel read(const PlannedTensor& planned, const Panel& panel, ReadScratch& scratch) const;
  /// Gives the panel's pages back.
  void drop(const PlannedTensor& planned, const Panel& panel) const;

  const Checkpoint& checkpoint() const { return *source_.checkpoint; }

 private:
  SourcePanel cast_to(const SourcePanel& values, DType to, const PlannedTensor& planned,
                      const Panel& panel, ReadScratch& scratch) const;

  const ConversionSource& source_;
  std::optional<DType> cast_;
};

/// What to do about a value that `dtype` cannot hold.
std::string range_hint(DType dtype);
/// An error about the value at `row`, `column` of a panel, in the coordinates of the source tensor.
Error place_error(ErrorCode code, const Checkpoint& checkpoint, const FinalTensor& tensor,
                  const Panel& panel, uint64_t row, uint64_t column, const std::string& what,
                  const std::string& hint = {});
/// Refuses a NaN or an infinity in the panel.
void require_finite(const SourcePanel& values, const Checkpoint& checkpoint,
                    const FinalTensor& tensor, const Panel& panel);

}  // namespace jang
