// The shards of a planned conversion, each made on its own: from its part of the source alone,
// taken up where an interrupted run left it, and named as a shard only when it is durable.
//
// Relies on the caller that no two of its processes make one shard at a time, and that the source
// is the one of the plan (python/jang_tools/parts.py); leaves documents to finish_planned.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "calibrate/column_weights.h"
#include "convert/convert.h"
#include "convert/plan_file.h"
#include "convert/source.h"
#include "convert/stream_panels.h"

namespace jang {

class PlannedShards {
 public:
  /// Opens the source and plans again. `plan_name`: for messages. Throws Error{kArgument} naming it
  /// where this program plans other widths or shards, or `statistics` are not the plan's.
  PlannedShards(PlanFile plan, std::string plan_name, const std::filesystem::path& source,
                const std::optional<StatisticsInput>& statistics, int threads);
  PlannedShards(const PlannedShards&) = delete;
  PlannedShards& operator=(const PlannedShards&) = delete;

  /// Bytes of the source that a shard is made of: what its progress counts.
  uint64_t source_bytes(uint32_t shard) const;

  /// Makes a shard in `directory`, or checks one that is finished; false if nothing was to be done.
  /// `stretch`: as StreamOptions. What is there and does not fit its record is made afresh, with a
  /// notice; Error{kOutputExists} for a shard of another plan.
  bool make(const std::filesystem::path& directory, uint32_t shard, uint64_t stretch,
            const JobCallbacks& callbacks);

  /// Writes the record of a shard that lies, finished and sound, in `finished` into `directory`:
  /// from its bytes and those of the source. False for one with tensors on lattices: only making it
  /// counts their groups.
  bool record(const std::filesystem::path& finished, const std::filesystem::path& directory,
              uint32_t shard, const JobCallbacks& callbacks);

 private:
  struct Job;
  PlanFile file_;
  ConversionSource source_;
  Plan plan_;  // as file_.plan, with the places of its tensors in the source
  std::optional<ColumnWeights> weights_;
  ThreadPool pool_;
};

/// Every tensor's sums, from the records in `directory`. Throws Error{kShardSet} naming the first
/// shard without a record of all its tensors, and as read_shard_record.
TensorSums planned_sums(const std::filesystem::path& directory, const PlanFile& plan);

/// Writes the documents of a conversion whose shards are all there. `config`: of the source.
ConvertReport finish_planned(const std::filesystem::path& directory, const PlanFile& plan,
                             const ModelConfig& config, bool think_in_template);

}  // namespace jang
