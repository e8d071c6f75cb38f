// One panel of a conversion: read, cast, quantize, write, and the CRC-32 of what was written.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/aligned_buffer.h"
#include "calibrate/column_weights.h"
#include "convert/panels.h"
#include "convert/shard_output.h"
#include "convert/source.h"
#include "plan/plan.h"
#include "quant/quantize.h"

namespace jang {

/// CRC-32 and length of the bytes a panel added to each piece of its tensor.
struct PanelSums {
  std::array<uint32_t, kMaxPieces> crc{};
  std::array<uint64_t, kMaxPieces> bytes{};
};

/// A worker's own memory: a few panels, whatever the model.
struct WriteScratch {
  AlignedBuffer<std::byte> gathered, cast, codes, scales, biases;
};

class PanelWriter {
 public:
  /// `cast`: the dtype that all weights are rounded to before anything else (PlanOptions::dtype).
  /// `weights`: importance of columns for kMse, or null for none.
  PanelWriter(const ConversionSource& source, const Plan& plan, Method method,
              const ColumnWeights* weights, std::optional<DType> cast, ShardOutput& output)
      : source_(source),
        plan_(plan),
        method_(method),
        weights_(weights),
        cast_(cast),
        output_(output) {}

  /// Throws Error{kNonFinite | kRange} naming file, tensor, row and column of the source.
  PanelSums write(const Panel& panel, WriteScratch& scratch) const;

  /// The values of a panel to quantize from: finite, in the dtype of the plan. They lie in the map
  /// or in `scratch`.
  SourcePanel read(const Panel& panel, WriteScratch& scratch) const;
  /// Writes a panel of whole rows that has been quantized already, and gives its source back.
  PanelSums write_solved(const Panel& panel, const AffinePanel& solved) const;

 private:
  SourcePanel cast_to(const SourcePanel& values, DType to, const Panel& panel,
                      WriteScratch& scratch) const;
  PanelSums write_quantized(const SourcePanel& values, const Panel& panel,
                            WriteScratch& scratch) const;
  void quantize(const SourcePanel& values, const Panel& panel, WriteScratch& scratch) const;
  PanelSums put_quantized(const Panel& panel, const AffinePanel& quantized) const;
  void put(const Panel& panel, std::size_t piece, uint64_t offset, std::span<const std::byte> bytes,
           PanelSums& sums) const;

  const ConversionSource& source_;
  const Plan& plan_;
  Method method_;
  const ColumnWeights* weights_;
  std::optional<DType> cast_;
  ShardOutput& output_;
};

/// An error about the value at `row`, `column` of a panel, in the coordinates of the source tensor.
Error place_error(ErrorCode code, const Checkpoint& checkpoint, const FinalTensor& tensor,
                  const Panel& panel, uint64_t row, uint64_t column, const std::string& what,
                  const std::string& hint = {});
/// Refuses a NaN or an infinity in the panel.
void require_finite(const SourcePanel& values, const Checkpoint& checkpoint,
                    const FinalTensor& tensor, const Panel& panel);

}  // namespace jang
