#include "convert/part_shards.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "convert/resume_shards.h"
#include "convert/shard_record.h"
#include "convert/stream_panels.h"
#include "io/file_names.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

void rename_file(const fs::path& from, const fs::path& to) {
  std::error_code failure;
  fs::rename(from, to, failure);
  if (failure)
    throw Error(ErrorCode::kIo, to.string(), {}, "cannot rename to it: " + failure.message());
}

}  // namespace

struct PartShards::Shard {
  uint32_t number = 0;
  WorkList work;
  std::string name;
  fs::path finished, unfinished, record;
  std::optional<ShardOutput> output = {};
  TensorSums done = {};
  std::string fault = {};  // of what was recorded
  bool named = false;      // lies under its own name
  bool changed = false;    // since it was written down
};

PartShards::PartShards(const fs::path& directory, const PlanFile& file, const Plan& plan,
                       const std::vector<bool>& mine, const SourceReader& reader, ThreadPool& pool,
                       const JobCallbacks& callbacks)
    : directory_(directory),
      file_(file),
      plan_(plan),
      mine_(mine),
      reader_(reader),
      pool_(pool),
      callbacks_(callbacks),
      solved_(tensors_to_solve(plan)),
      places_(plan.tensors.size()) {
  const auto count = static_cast<uint32_t>(plan.shards.size());
  for (uint32_t number = 0; number < count; ++number) {
    for (const uint32_t index : plan.shards[number]) places_[index] = number;
    if (std::none_of(plan.shards[number].begin(), plan.shards[number].end(),
                     [&](uint32_t index) { return mine[index]; }))
      continue;
    const std::string name = shard_file_name(number, count);
    shards_.push_back({number, cut_shards(plan, {number, number + 1, {}}, true), name,
                       directory / name, directory / (name + kUnfinishedSuffix),
                       directory / shard_record_name(number, count)});
  }
}

PartShards::~PartShards() = default;

const PartShards::Shard* PartShards::find(uint32_t tensor) const {
  const auto at = std::find_if(shards_.begin(), shards_.end(),
                               [&](const Shard& shard) { return shard.number == places_[tensor]; });
  return at == shards_.end() ? nullptr : &*at;
}

PartShards::Shard& PartShards::shard_of(uint32_t tensor) {
  const Shard* found = find(tensor);
  JANG_ASSERT(found != nullptr);
  return const_cast<Shard&>(*found);
}

bool PartShards::has(uint32_t tensor) const {
  const Shard* shard = find(tensor);
  return shard != nullptr && shard->done.contains(tensor);
}

const std::string& PartShards::fault(uint32_t tensor) const {
  static const std::string none;
  const Shard* shard = find(tensor);
  return shard == nullptr ? none : shard->fault;
}

TensorSums PartShards::recorded(const Shard& shard, std::string& fault) const {
  try {
    if (auto known = read_shard_record(directory_, file_, shard.number, callbacks_.cancel))
      return std::move(*known);
    if (is_there(shard.finished)) fault = "it has no record";
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled || error.code() == ErrorCode::kOutputExists) throw;
    fault = error.what();
  }
  return {};
}

void PartShards::examine(const ResumePoint* point) {
  for (Shard& shard : shards_) {
    shard.output.reset();
    shard.done.clear();
    shard.fault.clear();
    shard.named = is_there(shard.finished);
    TensorSums known = recorded(shard, shard.fault);
    for (const uint32_t index : plan_.shards[shard.number]) {
      if (point != nullptr && point->tensors.contains(index)) {
        known[index] = point->tensors.at(index).sums;
      } else if (mine_[index] && solved_.contains(plan_.tensors[index].tensor.path)) {
        known.erase(index);  // of a run that was stopped before it wrote down its point
      }
    }
    if (!known.empty()) check(shard, known);
  }
}

/// Keeps what lies in the file as it was recorded.
void PartShards::check(Shard& shard, const TensorSums& recorded) {
  const ShardRange range{shard.number, shard.number + 1, shard.named ? "" : kUnfinishedSuffix};
  const std::vector<std::pair<uint32_t, PanelSums>> tensors(recorded.begin(), recorded.end());
  std::vector<std::string> faults(tensors.size());
  try {
    shard.output.emplace(directory_, plan_, range, shard.work.counts,
                         SafetensorsWriter::Start::kContinue);
    const auto count = static_cast<int64_t>(tensors.size());
    pool_.share(count, 1, [&](int64_t begin, int64_t, int worker) {
      if (worker == 0 && callbacks_.cancel) callbacks_.cancel();
      const auto i = static_cast<std::size_t>(begin);
      try {
        check_stored(*shard.output, tensors[i].first, tensors[i].second);
      } catch (const Error& error) {
        faults[i] = error.what();
      }
    });
  } catch (const Error& error) {
    shard.output.reset();
    if (error.kind() == ErrorKind::kCancelled) throw;
    shard.fault = error.what();
    return;
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (faults[i].empty()) {
      shard.done.insert(tensors[i]);
    } else if (shard.fault.empty()) {
      shard.fault = faults[i];
    }
  }
}

void PartShards::open() {
  for (Shard& shard : shards_) {
    const ShardRange range{shard.number, shard.number + 1, kUnfinishedSuffix};
    const bool whole = is_whole_shard(plan_, shard.number, shard.done);
    if (!shard.fault.empty() && callbacks_.notice) {
      const std::string what = whole ? "the record of " : shard.done.empty() ? "" : "some of ";
      callbacks_.notice("making " + what + shard.name + " afresh: " + shard.fault);
    }
    if (shard.done.empty()) {
      shard.output.reset();
      for (const fs::path& path : {shard.record, shard.finished, shard.unfinished})
        remove_file(path);
      shard.output.emplace(directory_, plan_, range, shard.work.counts);
      shard.named = false;
    } else if (shard.named && !whole) {
      shard.output.reset();
      rename_file(shard.finished, shard.unfinished);
      shard.named = false;
      shard.output.emplace(directory_, plan_, range, shard.work.counts,
                           SafetensorsWriter::Start::kContinue);
    }
    for (const auto& [tensor, sums] : shard.done) {
      for (uint64_t panel = 0; panel < shard.work.counts[tensor]; ++panel)
        shard.output->panel_done(tensor);
    }
    shard.changed = !shard.named || !shard.fault.empty();
  }
}

void PartShards::stream(const Checkpoint& source, JobProgress& progress, uint64_t stretch) {
  for (Shard& shard : shards_) {
    std::vector<Panel> panels;
    for (const Panel& panel : shard.work.panels) {
      if (!mine_[panel.tensor]) continue;
      if (shard.done.contains(panel.tensor)) {
        progress.done += panel.bytes;
      } else {
        panels.push_back(panel);
      }
    }
    if (panels.empty()) continue;
    const PanelWriter writer(reader_, plan_, Method::kMse, nullptr, *shard.output,
                             PanelWriter::SourceSums::kTaken);
    StreamOptions options;
    options.stretch = stretch;
    options.save = [&](const TensorSums& made) {
      shard.output->sync();
      TensorSums all = shard.done;
      all.insert(made.begin(), made.end());
      write_shard_record(directory_, file_, shard.number, all);
    };
    shard.done.merge(
        stream_panels(panels, plan_, source, writer, *shard.output, progress, pool_, options));
    shard.changed = true;
  }
  save();
}

PanelSums PartShards::store(const Panel& panel, const AffinePanel& solved) {
  Shard& shard = shard_of(panel.tensor);
  const PanelWriter writer(reader_, plan_, Method::kMse, nullptr, *shard.output,
                           PanelWriter::SourceSums::kTaken);
  const PanelSums sums = writer.write_solved(panel, solved);
  shard.output->panel_done(panel.tensor);
  shard.done[panel.tensor] = sums;
  shard.changed = true;
  return sums;
}

void PartShards::save() {
  for (Shard& shard : shards_) {
    if (!shard.changed) continue;
    const bool whole = is_whole_shard(plan_, shard.number, shard.done);
    if (whole) {
      shard.output->finish();
    } else {
      shard.output->sync();
    }
    // The record first: a shard that has its name has its record.
    write_shard_record(directory_, file_, shard.number, shard.done);
    if (whole && !shard.named) {
      rename_file(shard.unfinished, shard.finished);
      sync_directory(directory_);
      shard.named = true;
    }
    shard.changed = false;
  }
}

}  // namespace jang
