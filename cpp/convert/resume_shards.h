// The shards of an interrupted conversion, taken up only if they hold what its record says.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "convert/resume_record.h"
#include "convert/shard_output.h"
#include "plan/plan.h"

namespace jang {

/// Compares sizes and checksums of a tensor's pieces with what lies in its shard. Throws
/// Error{kConfigValue | kChecksum} naming the first piece that differs.
void check_stored(const ShardOutput& output, uint32_t tensor, const PanelSums& sums);

/// Opens the shards of `range` in `directory` as `shards`, with `panels` as for ShardOutput, and
/// reads the tensors of `done` in them. Returns an empty text; or why they cannot be used, and
/// `shards` is empty then.
std::string continue_shards(std::optional<ShardOutput>& shards, const TensorSums& done,
                            const std::filesystem::path& directory, const Plan& plan,
                            const ShardRange& range, std::span<const uint64_t> panels,
                            ThreadPool& pool, const CancelCallback& cancel);

}  // namespace jang
