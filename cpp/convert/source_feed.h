// Weight files of a source that arrive while it is converted, and may go when nobody reads them
// any more: in what order that is, and who brings them.
//
// Relies on a source directory in which every weight file has its size and its header from the
// beginning, and on somebody who replaces it by the whole one under the same name
// (python/jang_tools/stream.py); leaves the conversion of what has arrived to stream_panels.h.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert/stream_panels.h"
#include "io/checkpoint.h"
#include "plan/plan.h"

namespace jang {

/// Who brings the files. All but `sample` are called on the calling thread.
struct SourceFeed {
  /// Files are bare names.
  using Files = std::vector<std::string>;
  /// What will be asked for, in order: files to bring, and those that are done with behind them.
  std::function<void(const std::vector<std::pair<Files, Files>>&)> schedule;
  /// Returns when they are all there.
  std::function<void(const Files&)> need;
  /// Nobody reads them any more; what was made of them is durable.
  std::function<void(const Files&)> done;
  /// Brings `bytes` bytes of a file that is not there, from `begin` on. Called by any thread.
  std::function<void(const std::string& file, uint64_t begin, uint64_t bytes)> sample;
};

/// Tensors that are made together, when the files of `need` and of earlier steps are there.
struct FeedStep {
  std::vector<uint32_t> need, done;  // files of the checkpoint
  std::vector<uint32_t> tensors;     // of the plan, in its order
};

/// The steps for all tensors of a plan but those of `finished`: files in their order, each as late
/// as a tensor wants it. A file that no tensor wants occurs nowhere.
std::vector<FeedStep> feed_steps(const Plan& plan, const Checkpoint& source,
                                 const TensorSums& finished);

/// As names: files to bring, files done with.
std::vector<std::pair<SourceFeed::Files, SourceFeed::Files>> feed_schedule(
    std::span<const FeedStep> steps, const Checkpoint& source);

/// The files that rows of a tensor lie in, and their scales, ascending.
std::vector<uint32_t> files_of(const FinalTensor& tensor, const Checkpoint& source);

/// Has them brought, and maps them anew.
void bring(const SourceFeed& feed, Checkpoint& source, std::span<const uint32_t> files);

/// As stream_panels, step by step. `options.save` is called behind each step.
TensorSums stream_fed_panels(std::span<const Panel> panels, const Plan& plan, Checkpoint& source,
                             const PanelWriter& writer, ShardOutput& output, JobProgress& progress,
                             ThreadPool& pool, StreamOptions options, const SourceFeed& feed);

}  // namespace jang
