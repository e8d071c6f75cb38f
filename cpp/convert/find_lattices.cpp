// Counts are whole numbers that threads add to in any order; a group size is given up as soon as
// more of its groups miss than may, which no order changes either.
#include "convert/find_lattices.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "quant/lattice.h"

namespace jang {
namespace {

constexpr uint64_t kSampleRows = 16;
constexpr uint64_t kSampleColumns = 512;  // of a row: a page of float types
constexpr uint64_t kColumnStep = 128;

using AtomicNeeds = std::array<std::atomic<uint64_t>, std::tuple_size_v<WidthNeeds>>;

uint64_t rows_of(const FinalTensor& tensor) { return tensor.elements() / tensor.columns(); }

// i * all / count without the product, which need not fit.
uint64_t spread(uint64_t i, uint64_t all, uint64_t count) {
  return i * (all / count) + i * (all % count) / count;
}

/// The groups of one size of a tensor, part by part.
struct SizeCount {
  int group_size = 0;
  std::atomic<bool> lost = false;  // no format can store enough of them
  std::vector<AtomicNeeds> parts;

  SizeCount(int size, uint64_t count) : group_size(size), parts(count) {}

  void add(uint64_t part, const WidthNeeds& needs, uint64_t part_groups) {
    for (std::size_t i = 0; i < needs.size(); ++i)
      parts[part][i].fetch_add(needs[i], std::memory_order_relaxed);
    if (parts[part].back().load(std::memory_order_relaxed) > allowed_misses(part_groups))
      lost.store(true, std::memory_order_relaxed);
  }

  std::vector<LatticeMatch> formats(DType metadata) const {
    if (lost) return {};
    std::vector<WidthNeeds> needs(parts.size());
    for (std::size_t part = 0; part < parts.size(); ++part) {
      for (std::size_t i = 0; i < needs[part].size(); ++i) needs[part][i] = parts[part][i];
    }
    return lattice_formats(needs, group_size, metadata);
  }
};

/// A tensor whose sample leaves it open.
struct OpenTensor {
  uint32_t tensor = 0;     // index into the plan
  uint64_t part_rows = 0;  // an expert's, else all
  std::vector<std::unique_ptr<SizeCount>> sizes;

  bool lost() const {
    return std::all_of(sizes.begin(), sizes.end(),
                       [](const auto& size) { return size->lost.load(std::memory_order_relaxed); });
  }
};

class LatticeScan {
 public:
  LatticeScan(const Plan& plan, std::optional<int> group_size, const SourceReader& reader,
              JobProgress& progress, ThreadPool& pool, const FedSource& fed)
      : plan_(plan),
        group_size_(group_size),
        reader_(reader),
        progress_(progress),
        pool_(pool),
        fed_(fed),
        scratch_(static_cast<std::size_t>(pool.size())) {}

  Lattices run() {
    take_samples();
    bring_open();
    count_open();
    Lattices found;
    for (const OpenTensor& open : open_) {
      std::vector<Lattice> lattices = worth_having(open);
      if (lattices.empty()) continue;
      found.emplace(plan_.tensors[open.tensor].tensor.path, std::move(lattices));
    }
    return found;
  }

 private:
  DType metadata(uint32_t tensor) const { return plan_.tensors[tensor].format->metadata; }

  /// Group sizes that the sample of a tensor leaves open.
  std::vector<int> sample(uint32_t index, ReadScratch& scratch) const {
    const PlannedTensor& planned = plan_.tensors[index];
    const uint64_t columns = planned.tensor.columns(), rows = rows_of(planned.tensor);
    const uint64_t taken = std::min(rows, kSampleRows);
    const uint64_t width = std::min(columns, kSampleColumns);
    const uint64_t places = (columns - width) / kColumnStep + 1;
    std::vector<int> open;
    for (const int group : kGroupSizes) {
      if (columns % static_cast<uint64_t>(group) == 0 && group_size_.value_or(group) == group)
        open.push_back(group);
    }
    std::map<int, WidthNeeds> needs;
    for (uint64_t i = 0; i < taken && !open.empty(); ++i) {
      const Panel panel{index, spread(i, rows, taken),
                        1,     spread(i, places, taken) * kColumnStep,
                        width, width * static_cast<uint64_t>(dtype_size(planned.tensor.dtype))};
      if (fed_.feed != nullptr) bring_sample(planned.tensor, panel);
      const SourcePanel values = reader_.read(planned, panel, scratch);
      for (const int group : open) count_widths(values, metadata(index), group, needs[group]);
      // Ordinary weights are ruled out by the first rows.
      std::erase_if(open, [&](int group) {
        return !may_be_lattice(needs[group], taken * (width / static_cast<uint64_t>(group)));
      });
    }
    // All of it: a page that is read maps others around it, which no row would drop.
    reader_.drop(planned, whole_panel(index, planned.tensor));
    return open;
  }

  void bring_sample(const FinalTensor& tensor, const Panel& panel) const {
    const Checkpoint& source = reader_.checkpoint();
    visit_panel(source, tensor, panel,
                [&](const CheckpointTensor& piece, uint64_t begin, uint64_t bytes) {
                  fed_.feed->sample(source.files()[piece.file], begin, bytes);
                });
  }

  /// What a sample leaves open is looked through in whole.
  void bring_open() {
    if (fed_.feed == nullptr || open_.empty()) return;
    std::set<uint32_t> files;
    for (const OpenTensor& open : open_) {
      const std::vector<uint32_t> found =
          files_of(plan_.tensors[open.tensor].tensor, *fed_.checkpoint);
      files.insert(found.begin(), found.end());
    }
    if (progress_.callbacks.notice) {
      progress_.callbacks.notice(std::to_string(open_.size()) +
                                 " tensors may lie on lattices, which are looked for in all of"
                                 " their values: " +
                                 std::to_string(files.size()) + " of " +
                                 std::to_string(fed_.checkpoint->files().size()) +
                                 " files are needed at once");
    }
    const std::vector<uint32_t> all(files.begin(), files.end());
    bring(*fed_.feed, *fed_.checkpoint, all);
  }

  void take_samples() {
    std::vector<uint32_t> quantized;
    for (uint32_t i = 0; i < plan_.tensors.size(); ++i) {
      if (plan_.tensors[i].format) quantized.push_back(i);
    }
    std::vector<std::vector<int>> sizes(quantized.size());
    pool_.share(
        static_cast<int64_t>(quantized.size()), 1, [&](int64_t begin, int64_t end, int worker) {
          for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
            sizes[i] = sample(quantized[i], scratch_[static_cast<std::size_t>(worker)]);
            if (worker == 0 && progress_.callbacks.cancel) progress_.callbacks.cancel();
          }
        });
    for (std::size_t i = 0; i < quantized.size(); ++i) {
      if (sizes[i].empty()) continue;
      const FinalTensor& tensor = plan_.tensors[quantized[i]].tensor;
      const uint64_t parts = tensor.shape.size() == 3 ? tensor.shape[0] : 1;
      OpenTensor& open = open_.emplace_back();
      open.tensor = quantized[i];
      open.part_rows = rows_of(tensor) / parts;
      for (const int size : sizes[i])
        open.sizes.push_back(std::make_unique<SizeCount>(size, parts));
    }
  }

  /// Panels of all open tensors; none lies in two parts. Panel::tensor counts open tensors.
  std::vector<Panel> cut_open() const {
    std::vector<Panel> panels;
    for (uint32_t i = 0; i < open_.size(); ++i) {
      const FinalTensor& tensor = plan_.tensors[open_[i].tensor].tensor;
      for (uint64_t row = 0; row < rows_of(tensor); row += open_[i].part_rows) {
        const std::size_t before = panels.size();
        cut_panels(i, tensor, open_[i].part_rows, panels);
        for (std::size_t p = before; p < panels.size(); ++p) panels[p].row += row;
      }
    }
    return panels;
  }

  void count(const Panel& panel, ReadScratch& scratch) {
    OpenTensor& open = open_[panel.tensor];
    if (open.lost()) return;
    const PlannedTensor& planned = plan_.tensors[open.tensor];
    const SourcePanel values = reader_.read(planned, panel, scratch);
    for (const auto& size : open.sizes) {
      if (size->lost.load(std::memory_order_relaxed)) continue;
      WidthNeeds needs{};
      count_widths(values, metadata(open.tensor), size->group_size, needs);
      const uint64_t row_groups =
          planned.tensor.columns() / static_cast<uint64_t>(size->group_size);
      size->add(panel.row / open.part_rows, needs, open.part_rows * row_groups);
    }
    reader_.drop(planned, panel);
  }

  void count_open() {
    const std::vector<Panel> panels = cut_open();
    for (const Panel& panel : panels) progress_.total += panel.bytes;
    const std::size_t ahead = kPrefetchPanels * static_cast<std::size_t>(pool_.size());
    const auto name = [&](uint32_t open) -> std::string_view {
      return plan_.tensors[open_[open].tensor].tensor.name;
    };
    for_each_panel(pool_, panels, progress_, name, [&](std::size_t i, int worker) {
      if (i + ahead < panels.size()) {
        const OpenTensor& later = open_[panels[i + ahead].tensor];
        if (!later.lost()) {
          prefetch_panel(reader_.checkpoint(), plan_.tensors[later.tensor].tensor,
                         panels[i + ahead]);
        }
      }
      count(panels[i], scratch_[static_cast<std::size_t>(worker)]);
    });
  }

  /// Formats by their bytes, but for those that store no larger share than one of fewer bytes.
  std::vector<Lattice> worth_having(const OpenTensor& open) const {
    const DType type = metadata(open.tensor);
    std::vector<LatticeMatch> matches;
    for (const auto& size : open.sizes) {
      const std::vector<LatticeMatch> found = size->formats(type);
      matches.insert(matches.end(), found.begin(), found.end());
    }
    const auto row_bits = [&](const LatticeMatch& match) {
      return match.format.bits * 128 + 16 * dtype_size(type) * (128 / match.format.group_size);
    };
    std::stable_sort(matches.begin(), matches.end(), [&](const auto& a, const auto& b) {
      return std::pair(row_bits(a), -a.share()) < std::pair(row_bits(b), -b.share());
    });
    std::vector<Lattice> lattices;
    for (const LatticeMatch& match : matches) {
      if (!lattices.empty() && match.share() <= lattices.back().share) continue;
      lattices.push_back({match.format.bits, match.format.group_size, match.share()});
    }
    return lattices;
  }

  const Plan& plan_;
  std::optional<int> group_size_;
  const SourceReader& reader_;
  JobProgress& progress_;
  ThreadPool& pool_;
  const FedSource fed_;
  std::vector<ReadScratch> scratch_;
  std::vector<OpenTensor> open_;
};

}  // namespace

Lattices find_lattices(const Plan& plan, std::optional<int> group_size, const SourceReader& reader,
                       JobProgress& progress, ThreadPool& pool, const FedSource& fed) {
  return LatticeScan(plan, group_size, reader, progress, pool, fed).run();
}

}  // namespace jang
