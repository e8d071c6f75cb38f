// What lies in one shard of a planned conversion: written beside it after every stretch of work, so
// that a later run, or the end of the conversion, knows which tensors are there and can check them.
// A record is input like any other file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/progress.h"
#include "convert/plan_file.h"
#include "convert/stream_panels.h"
#include "io/json.h"

namespace jang {

/// "model-00001-of-00003.record"
std::string shard_record_name(uint32_t shard, uint32_t count);
/// What a shard's name ends with until it is complete.
inline constexpr const char* kUnfinishedSuffix = ".part";

/// `done`: tensors of `shard` that lie in its file.
Json shard_record_json(const PlanFile& plan, uint32_t shard, const TensorSums& done);

/// Throws Error naming `file`: kOutputExists for the record of a shard of another plan,
/// kConfigValue for anything that shard_record_json does not write.
TensorSums parse_shard_record(const Json& json, const PlanFile& plan, uint32_t shard,
                              const std::string& file);

/// Durable when it returns; replaces a former one.
void write_shard_record(const std::filesystem::path& directory, const PlanFile& plan,
                        uint32_t shard, const TensorSums& done);
/// Absent if there is no such file. Throws as parse_shard_record, and kChecksum for a damaged file.
std::optional<TensorSums> read_shard_record(const std::filesystem::path& directory,
                                            const PlanFile& plan, uint32_t shard,
                                            const CancelCallback& cancel);

/// Whether all tensors of a shard that have elements are in `done`.
bool is_whole_shard(const Plan& plan, uint32_t shard, const TensorSums& done);

}  // namespace jang
