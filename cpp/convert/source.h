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
  /// Of a checkpoint that was mapped: whether a head that is stored although config.json ties it
  /// equals the embedding; nullopt if there is none.
  std::optional<bool> heads_equal;
};

/// Throws Error{kUnsupportedFormat} for directories that are quantized already (JANG, MLX, awq,
/// ...) or hold pickle files, and whatever opening and placing the tensors finds.
ConversionSource open_source(const std::filesystem::path& path, bool headers_only);

/// The same, mapped, for somebody who knows heads_equal: reads nothing but headers and documents.
ConversionSource open_known_source(const std::filesystem::path& path,
                                   std::optional<bool> heads_equal);

/// Refuses what can be planned only: architectures whose configs want completing, or whose tensors
/// want more than moving rows. What nobody knows is written as it is named.
void require_convertible(const ConversionSource& source);

}  // namespace jang
