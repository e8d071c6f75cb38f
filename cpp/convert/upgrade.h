// `jang upgrade`: a quantized directory of an older version or of another writer becomes a JANG v2
// directory as `jang convert` writes them. Nothing is quantized again: what weights stand for stays
// bit for bit. Everything that changes is listed.
//
// Relies on arch/stored_model.h for what lies there, and on the parts of a conversion for shards
// and documents; Python prepares and renames the directory, as it does for conversions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "convert/convert.h"
#include "plan/plan.h"

namespace jang {

struct UpgradeChange {
  std::string tensor;  // module path or tensor name as written; empty: the directory
  std::string what, why;
};

struct UpgradePlan {
  std::string format;    // of the source: "jang-v1", "jang", "mlx"
  bool current = false;  // nothing to do: `changes` is empty
  Plan plan;
  std::vector<UpgradeChange> changes;  // in the order of the plan
};

/// What an upgrade would do; reads headers, documents and small payloads. Maps of widths that the
/// tensors contradict are mended where shapes and architecture leave one pair. Throws
/// Error{kUnsupportedFormat} for unquantized directories, and whatever makes this one unreadable.
UpgradePlan plan_upgrade(const std::filesystem::path& source);

struct UpgradeOptions {
  int threads = 0;          // 0: default_thread_count()
  std::string source_name;  // recorded where the source records none
  bool think_in_template = false;
  std::string generator_version;
};

/// Writes shards, index, config.json and, last, jang_config.json into `partial`, which exists and
/// holds none of them. Memory: O(threads * panel). Throws Error{kNonFinite} for scales, biases and
/// values that are no numbers.
ConvertReport upgrade_directory(const std::filesystem::path& source,
                                const std::filesystem::path& partial, const UpgradeOptions& options,
                                const JobCallbacks& callbacks);

}  // namespace jang
