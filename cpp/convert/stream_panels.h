// Panel after panel of a plan through the writer, on all threads, in stretches of whole tensors:
// between two of them everything written so far can be made durable and written down.
//
// Relies on PanelWriter for what a panel becomes and on ShardOutput for when a shard is complete;
// leaves it to the caller what a record of finished tensors is good for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>

#include "base/thread_pool.h"
#include "convert/panel_writer.h"
#include "convert/panels.h"
#include "convert/shard_output.h"
#include "io/checkpoint.h"
#include "plan/plan.h"

namespace jang {

/// Sums of whole tensors, by planned tensor.
using TensorSums = std::map<uint32_t, PanelSums>;

struct StreamOptions {
  /// Tensors that lie in their shards already; they are not written again.
  TensorSums done;
  /// Source bytes of a stretch, or a tensor if it is larger; 0: about 20 seconds of work.
  uint64_t stretch = 0;
  /// Called behind every stretch but the last, with all finished tensors, while nothing is written.
  /// Without it there is one stretch.
  std::function<void(const TensorSums&)> save;
};

/// Sums of every tensor that has panels, those of `done` included. `panels` of a tensor lie side by
/// side. Reports progress for each panel that is written.
TensorSums stream_panels(std::span<const Panel> panels, const Plan& plan, const Checkpoint& source,
                         const PanelWriter& writer, ShardOutput& output, JobProgress& progress,
                         ThreadPool& pool, const StreamOptions& options);

}  // namespace jang
