#include "convert/stream_panels.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace jang {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kStretchSeconds = 20;
// The first stretch, whose speed is unknown, and bounds of what speed makes of the others.
constexpr uint64_t kFirstStretch = uint64_t{256} << 20;
constexpr uint64_t kLongestStretch = uint64_t{64} << 30;

class PanelStream {
 public:
  PanelStream(std::span<const Panel> panels, const Plan& plan, const Checkpoint& source,
              const PanelWriter& writer, ShardOutput& output, JobProgress& progress,
              ThreadPool& pool, const StreamOptions& options)
      : panels_(panels),
        plan_(plan),
        source_(source),
        writer_(writer),
        output_(output),
        progress_(progress),
        pool_(pool),
        options_(options),
        finished_(options.done),
        scratch_(static_cast<std::size_t>(pool.size())) {}

  TensorSums run() {
    skip_done();
    uint64_t stretch = options_.stretch != 0 ? options_.stretch : kFirstStretch;
    if (!options_.save) stretch = UINT64_MAX;
    while (!left_.empty()) {
      const std::size_t count = stretch_panels(stretch);
      const auto start = Clock::now();
      const uint64_t bytes = write(count);
      if (left_.empty()) break;
      options_.save(finished_);
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (options_.stretch == 0 && seconds > 0) {
        const double wanted = static_cast<double>(bytes) * (kStretchSeconds / seconds);
        stretch = static_cast<uint64_t>(std::clamp(wanted, static_cast<double>(kFirstStretch) / 16,
                                                   static_cast<double>(kLongestStretch)));
      }
    }
    return std::move(finished_);
  }

 private:
  void skip_done() {
    order_.reserve(panels_.size());
    for (const Panel& panel : panels_) {
      if (!options_.done.contains(panel.tensor)) {
        order_.push_back(panel);
        continue;
      }
      progress_.done += panel.bytes;
      output_.panel_done(panel.tensor);
    }
    left_ = order_;
  }

  /// Panels from the next on that make up a stretch.
  std::size_t stretch_panels(uint64_t bytes) const {
    uint64_t sum = 0;
    std::size_t count = 0;
    while (count < left_.size()) {
      const bool new_tensor = count > 0 && left_[count].tensor != left_[count - 1].tensor;
      if (new_tensor && sum >= bytes) break;
      sum += left_[count].bytes;
      ++count;
    }
    return count;
  }

  /// Returns the source bytes of the panels.
  uint64_t write(std::size_t count) {
    const std::span<const Panel> panels = left_.first(count);
    const std::size_t ahead = kPrefetchPanels * static_cast<std::size_t>(pool_.size());
    const auto name = [&](uint32_t tensor) -> std::string_view {
      return plan_.tensors[tensor].tensor.name;
    };
    std::vector<PanelSums> sums(count);
    for_each_panel(pool_, panels, progress_, name, [&](std::size_t i, int worker) {
      if (i + ahead < left_.size()) {
        const Panel& later = left_[i + ahead];
        prefetch_panel(source_, plan_.tensors[later.tensor].tensor, later);
      }
      sums[i] = writer_.write(panels[i], scratch_[static_cast<std::size_t>(worker)]);
      output_.panel_done(panels[i].tensor);
    });
    uint64_t bytes = 0;
    for (std::size_t i = 0; i < count; ++i) {
      finished_[panels[i].tensor].append(sums[i]);
      bytes += panels[i].bytes;
    }
    left_ = left_.subspan(count);
    return bytes;
  }

  std::span<const Panel> panels_;
  const Plan& plan_;
  const Checkpoint& source_;
  const PanelWriter& writer_;
  ShardOutput& output_;
  JobProgress& progress_;
  ThreadPool& pool_;
  const StreamOptions& options_;
  TensorSums finished_;
  std::vector<WriteScratch> scratch_;
  std::vector<Panel> order_;     // panels to write
  std::span<const Panel> left_;  // what of order_ is still to be written
};

}  // namespace

TensorSums stream_panels(std::span<const Panel> panels, const Plan& plan, const Checkpoint& source,
                         const PanelWriter& writer, ShardOutput& output, JobProgress& progress,
                         ThreadPool& pool, const StreamOptions& options) {
  return PanelStream(panels, plan, source, writer, output, progress, pool, options).run();
}

}  // namespace jang
