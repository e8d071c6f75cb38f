// Panels: the unit of work of everything that streams a model. A panel is a run of whole rows of
// one tensor, about kPanelBytes of it; only a row longer than that is cut, at multiples of 128
// columns, so that every piece holds whole groups and whole bytes of codes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "arch/inventory.h"
#include "base/aligned_buffer.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "quant/affine_format.h"

namespace jang {

/// Small enough that a panel stays in the second-level cache and a thread looks up several times a
/// second even while it searches grids; large enough that a write costs nothing.
inline constexpr uint64_t kPanelBytes = uint64_t{1} << 20;

/// Per thread, ahead of the one being worked on.
inline constexpr uint32_t kPrefetchPanels = 2;

struct Panel {
  uint32_t tensor = 0;  // whatever the caller counts
  uint64_t row = 0, rows = 0;
  uint64_t column = 0, columns = 0;  // a part of a row only if rows == 1
  uint64_t bytes = 0;                // of the source, for progress
};

/// Appends the panels of a tensor of rows x columns elements, in order. Empty tensors have none.
void cut_panels(uint32_t tensor, uint64_t rows, uint64_t columns, uint64_t element_bytes,
                std::vector<Panel>& out);

/// The same of `rows` rows of a source tensor: as large as its values are, counted as they lie
/// there.
void cut_panels(uint32_t index, const FinalTensor& tensor, uint64_t rows, std::vector<Panel>& out);

/// All of a tensor with rows, whatever its size. `index`: what Panel::tensor shall be.
Panel whole_panel(uint32_t index, const FinalTensor& tensor);

/// The values of a panel of `tensor`: a view into the map if they lie there in one piece as they
/// are, else copied together, multiplied and shifted into `scratch`, where zeros are made too.
SourcePanel read_panel(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel,
                       AlignedBuffer<std::byte>& scratch);
/// CRC-32 of a panel's values in the tensor's order and dtype, nothing added to them: of their
/// bytes in the source where they lie there so, else of what read_panel has left in `gathered`.
uint32_t source_panel_crc(const Checkpoint& checkpoint, const FinalTensor& tensor,
                          const Panel& panel, const AlignedBuffer<std::byte>& gathered);
/// How many bytes that is of.
uint64_t value_bytes(const FinalTensor& tensor, const Panel& panel);
/// Calls visit(source, byte offset in its file, bytes) for what a panel is made of, scales too.
void visit_panel(
    const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel,
    const std::function<void(const CheckpointTensor&, uint64_t begin, uint64_t bytes)>& visit);
/// Starts reading a panel's pages ahead, or gives them back.
void prefetch_panel(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel);
void drop_panel(const Checkpoint& checkpoint, const FinalTensor& tensor, const Panel& panel);

/// A job's callbacks and how far it is; several phases may share one.
struct JobProgress {
  JobCallbacks callbacks;
  uint64_t total = 0;  // bytes of all phases
  std::atomic<uint64_t> done = 0;

  void report(std::string_view item) {
    if (callbacks.cancel) callbacks.cancel();
    if (callbacks.progress) callbacks.progress(done.load(std::memory_order_relaxed), total, item);
  }
};

/// Calls work(index into panels, worker) for every panel over the pool, and `names(tensor)` for the
/// item of a report. Reports are made on the calling thread (worker 0 of the pool) between its own
/// panels. The first exception, a callback's included, ends the job: panels not begun are not run.
template <typename Names, typename Work>
void for_each_panel(ThreadPool& pool, std::span<const Panel> panels, JobProgress& progress,
                    Names&& names, Work&& work) {
  pool.share(static_cast<int64_t>(panels.size()), 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const Panel& panel = panels[static_cast<std::size_t>(i)];
      work(static_cast<std::size_t>(i), worker);
      progress.done.fetch_add(panel.bytes, std::memory_order_relaxed);
      if (worker == 0) progress.report(names(panel.tensor));
    }
  });
}

}  // namespace jang
