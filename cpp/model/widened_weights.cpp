#include "model/widened_weights.h"

#include <cmath>
#include <cstddef>
#include <string>

#include "arch/block_scales.h"
#include "arch/final_names.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr uint64_t kPieceValues = uint64_t{1} << 18;  // that a thread takes at a time

[[noreturn]] void refuse_value(const Checkpoint& checkpoint, const CheckpointTensor& codes,
                               uint64_t row, uint64_t column, float value) {
  throw Error(ErrorCode::kNonFinite, checkpoint.files()[codes.file], codes.name,
              "row " + std::to_string(row) + ", column " + std::to_string(column) +
                  ": expected a finite value, found " +
                  (std::isnan(value) ? "NaN" : std::string(value > 0 ? "" : "-") + "infinity"));
}

}  // namespace

uint64_t widened_bytes(const ModelDirectory& directory) {
  uint64_t bytes = 0;
  for (const CheckpointTensor& tensor : directory.checkpoint.tensors()) {
    if (tensor.dtype != DType::kF8E4M3 || is_dropped(directory.config, tensor.name)) continue;
    bytes += tensor.elements() * sizeof(float);
  }
  return bytes;
}

WidenedWeights::Values WidenedWeights::of(const CheckpointTensor& codes) {
  std::weak_ptr<const AlignedBuffer<float>>& known = made_[&codes];
  if (Values values = known.lock()) return values;
  const Checkpoint& checkpoint = directory_.checkpoint;
  const ScaledCodes source(checkpoint, codes, *directory_.blocks);
  const uint64_t columns = codes.shape.back();
  const uint64_t rows = columns == 0 ? 0 : codes.elements() / columns;
  auto values = std::make_shared<AlignedBuffer<float>>(rows * columns);
  const auto widen = [&](int64_t begin, int64_t end, int /*worker*/) {
    for (auto row = static_cast<uint64_t>(begin); row < static_cast<uint64_t>(end); ++row) {
      float* const out = values->data() + row * columns;
      source.row(row, 0, columns, reinterpret_cast<std::byte*>(out));
      for (uint64_t c = 0; c < columns; ++c) {
        if (!std::isfinite(out[c])) refuse_value(checkpoint, codes, row, c, out[c]);
      }
    }
    const auto first = static_cast<uint64_t>(begin) * columns;
    checkpoint.mapping(codes).drop(codes.begin + first,
                                   static_cast<uint64_t>(end) * columns - first);
  };
  if (rows > 0) {
    pool_.share(static_cast<int64_t>(rows), static_cast<int64_t>(kPieceValues / columns + 1),
                widen);
  }
  known = values;
  return values;
}

}  // namespace jang
