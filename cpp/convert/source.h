// A directory as the source of a conversion: unquantized, its tensors placed. Refuses by name what
// cannot be converted; shared by plan, convert and verify --against.
#pragma once

#include <filesystem>
#include <optional>

#include "arch/config.h"
#include "arch/inventory.h"
#include "io/checkpoint.h"

namespace jang {

struct ConversionSource {
  ModelConfig config;
  /// Absent for a bare config.json (+ index), which only planning accepts.
  std::optional<Checkpoint> checkpoint;
  /// With a checkpoint, RowRange::tensor counts its tensors() in their order.
  Inventory inventory;
};

/// Throws Error{kUnsupportedFormat} for directories that are quantized already (JANG, MLX, awq,
/// ...) or hold pickle files, and whatever opening and placing the tensors finds.
ConversionSource open_source(const std::filesystem::path& path, bool headers_only);

}  // namespace jang
