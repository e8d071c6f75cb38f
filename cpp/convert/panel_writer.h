// One panel of a conversion: read, quantize, write, and the CRC-32 of what was written.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/byte_count.h"
#include "calibrate/column_weights.h"
#include "convert/panels.h"
#include "convert/shard_output.h"
#include "convert/source_reader.h"
#include "plan/plan.h"
#include "quant/quantize.h"

namespace jang {

/// CRC-32 and length of the bytes a panel added to each piece of its tensor; of a tensor on a
/// lattice how many of its groups lose nothing. The same of the values that were read, where that
/// is asked for.
struct PanelSums {
  std::array<uint32_t, kMaxPieces> crc{};
  std::array<uint64_t, kMaxPieces> bytes{};
  uint64_t lossless_groups = 0;
  uint32_t source_crc = 0;
  uint64_t source_bytes = 0;

  /// Adds those of the panel behind.
  void append(const PanelSums& next) noexcept;
};

/// Those of what is read for whole rows of a tensor, however many.
PanelSums source_sums(const Checkpoint& source, const FinalTensor& tensor, const Panel& rows);

/// A worker's own memory: a few panels, whatever the model.
struct WriteScratch {
  ReadScratch source;
  AlignedBuffer<std::byte> codes, scales, biases;

  /// Of one worker at most, with what a quantizer takes beside it.
  static constexpr ByteCount bytes() noexcept {
    // Gathered, cast to twice the size, codes and groups below that of the source.
    return ByteCount(kPanelBytes) * 5;
  }
};

class PanelWriter {
 public:
  enum class SourceSums { kNone, kTaken };
  /// `weights`: importance of columns for kMse, or null for none.
  PanelWriter(const SourceReader& reader, const Plan& plan, Method method,
              const ColumnWeights* weights, ShardOutput& output,
              SourceSums source_sums = SourceSums::kNone)
      : reader_(reader),
        plan_(plan),
        method_(method),
        weights_(weights),
        output_(output),
        source_sums_(source_sums) {}

  /// Throws Error{kNonFinite | kRange} naming file, tensor, row and column of the source.
  PanelSums write(const Panel& panel, WriteScratch& scratch) const;
  /// Writes a panel of whole rows that has been quantized already, and gives its source back.
  PanelSums write_solved(const Panel& panel, const AffinePanel& solved) const;

 private:
  PanelSums write_quantized(const SourcePanel& values, const Panel& panel,
                            WriteScratch& scratch) const;
  void quantize(const SourcePanel& values, const Panel& panel, WriteScratch& scratch) const;
  uint64_t store_on_lattice(const SourcePanel& values, const Panel& panel,
                            WriteScratch& scratch) const;
  template <typename Store>
  void store_or_place_error(const SourcePanel& values, const Panel& panel, uint64_t row,
                            const Store& store) const;
  PanelSums put_quantized(const Panel& panel, const AffinePanel& quantized) const;
  void put(const Panel& panel, std::size_t piece, uint64_t offset, std::span<const std::byte> bytes,
           PanelSums& sums) const;

  const SourceReader& reader_;
  const Plan& plan_;
  Method method_;
  const ColumnWeights* weights_;
  ShardOutput& output_;
  SourceSums source_sums_;
};

}  // namespace jang
