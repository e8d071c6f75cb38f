#include "convert/planned_shards.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "convert/documents.h"
#include "convert/layer_point.h"
#include "convert/panel_writer.h"
#include "convert/resume_shards.h"
#include "convert/shard_output.h"
#include "convert/shard_record.h"
#include "convert/source_reader.h"
#include "convert/work_list.h"
#include "io/file_names.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

void check_statistics(const PlanFile& plan, const std::string& plan_name,
                      const std::optional<StatisticsInput>& statistics) {
  const std::string expected = plan.statistics ? plan.statistics->sha256 : "none";
  const std::string found = statistics ? statistics->sha256 : "none";
  if (expected == found || (!statistics && plan.method == Method::kRtn)) return;
  throw Error(
      ErrorCode::kArgument, plan_name, {},
      "expected the statistics with the SHA-256 " + expected + ", found " + found,
      plan.statistics ? "give --statistics " + plan.statistics->file : "leave --statistics away");
}

}  // namespace

PlannedShards::PlannedShards(PlanFile plan, std::string plan_name, const fs::path& source,
                             const std::optional<StatisticsInput>& statistics, int threads)
    : file_(std::move(plan)),
      source_(open_known_source(source, file_.heads_equal)),
      pool_(threads != 0 ? threads : default_thread_count().threads) {
  require_convertible(source_);
  plan_ = plan_again(file_, plan_name, source_);
  check_statistics(file_, plan_name, statistics);
  if (statistics) {
    std::vector<std::string> said;  // when the file was made
    weights_.emplace(statistics->mean_squares, source_.inventory, statistics->file, said);
  }
}

uint64_t PlannedShards::source_bytes(uint32_t shard) const {
  uint64_t bytes = 0;
  for (const uint32_t index : plan_.shards[shard]) bytes += plan_.tensors[index].tensor.bytes();
  return bytes;
}

/// One shard in its directory.
struct PlannedShards::Job {
  const PlanFile& file;
  const Plan& plan;
  const fs::path& directory;
  const uint32_t shard;
  const JobCallbacks& callbacks;
  ThreadPool& pool;
  ShardRange range{shard, shard + 1, kUnfinishedSuffix};
  WorkList work = cut_shards(plan, range, false);
  std::string name = shard_file_name(shard, static_cast<uint32_t>(plan.shards.size()));
  fs::path finished = directory / name;
  fs::path unfinished = directory / (name + kUnfinishedSuffix);
  fs::path record = directory / shard_record_name(shard, static_cast<uint32_t>(plan.shards.size()));
  std::optional<ShardOutput> output = {};
  TensorSums done = {};

  void notice(const std::string& line) const {
    if (callbacks.notice) callbacks.notice(line);
  }

  /// What is to be said if nothing that lies there can be used.
  std::string take_record() {
    try {
      auto known = read_shard_record(directory, file, shard, callbacks.cancel);
      if (known) done = std::move(*known);
      return known || !is_there(finished) ? std::string{} : "it has no record";
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kCancelled || error.code() == ErrorCode::kOutputExists) throw;
      return error.what();
    }
  }

  std::string open(const ShardRange& there) {
    return continue_shards(output, done, directory, plan, there, work.counts, pool,
                           callbacks.cancel);
  }

  /// Whether the shard is finished; else `output` is open, or there is nothing to continue.
  bool take_up() {
    std::string reason = take_record();
    if (reason.empty() && is_there(finished)) {
      if (is_whole_shard(plan, shard, done)) {
        reason = open({shard, shard + 1, {}});
        if (reason.empty()) return true;
      } else {
        reason = "its record lacks some of its tensors";
      }
    } else if (reason.empty() && !done.empty() && is_there(unfinished)) {
      reason = open(range);
      if (reason.empty()) {
        notice("continuing " + name + " behind tensor " + std::to_string(done.size()) + " of " +
               std::to_string(plan.shards[shard].size()));
        return false;
      }
    }
    if (!reason.empty()) notice("making " + name + " afresh: " + reason);
    done.clear();
    for (const fs::path& path : {record, finished, unfinished}) remove_file(path);
    return false;
  }

  /// The record first: a shard that has its name has its record.
  void finish(const TensorSums& sums) {
    output->finish();
    write_shard_record(directory, file, shard, sums);
    std::error_code failure;
    fs::rename(unfinished, finished, failure);
    if (failure) {
      throw Error(ErrorCode::kIo, finished.string(), {},
                  "cannot rename to it: " + failure.message());
    }
    sync_directory(directory);
  }
};

bool PlannedShards::make(const fs::path& directory, uint32_t shard, uint64_t stretch,
                         const JobCallbacks& callbacks) {
  JANG_ASSERT(shard < plan_.shards.size());
  Job job{file_, plan_, directory, shard, callbacks, pool_};
  JobProgress progress{callbacks};
  progress.total = job.work.bytes;
  if (job.take_up()) {
    progress.done = progress.total;
    progress.report({});
    return false;
  }
  if (!job.output) job.output.emplace(directory, plan_, job.range, job.work.counts);
  const SourceReader reader(source_, file_.options.dtype);
  const PanelWriter writer(reader, plan_, file_.method, weights_ ? &*weights_ : nullptr,
                           *job.output, PanelWriter::SourceSums::kTaken);
  StreamOptions streaming;
  streaming.stretch = stretch;
  streaming.done = std::move(job.done);
  streaming.save = [&](const TensorSums& done) {
    job.output->sync();
    write_shard_record(directory, file_, shard, done);
  };
  job.finish(stream_panels(job.work.panels, plan_, *source_.checkpoint, writer, *job.output,
                           progress, pool_, streaming));
  progress.report({});
  return true;
}

bool PlannedShards::record(const fs::path& finished, const fs::path& directory, uint32_t shard,
                           const JobCallbacks& callbacks) {
  JANG_ASSERT(shard < plan_.shards.size());
  const std::vector<uint32_t>& tensors = plan_.shards[shard];
  if (std::any_of(tensors.begin(), tensors.end(),
                  [&](uint32_t index) { return plan_.tensors[index].lattice; }))
    return false;
  const ShardRange range{shard, shard + 1, {}};
  const WorkList work = cut_shards(plan_, range, false);
  const ShardOutput output(finished, plan_, range, work.counts,
                           SafetensorsWriter::Start::kContinue);
  TensorSums sums;
  for (const uint32_t index : tensors) {
    if (callbacks.cancel) callbacks.cancel();
    const FinalTensor& tensor = plan_.tensors[index].tensor;
    if (tensor.elements() == 0) continue;
    const Panel panel = whole_panel(index, tensor);
    PanelSums& found = sums[index];
    found = source_sums(*source_.checkpoint, tensor, panel);
    for (std::size_t piece = 0; piece < kMaxPieces; ++piece) {
      if (output.name(index, piece).empty()) continue;
      found.bytes[piece] = output.bytes(index, piece);
      found.crc[piece] = output.stored_crc(index, piece);
    }
    drop_panel(*source_.checkpoint, tensor, panel);
  }
  write_shard_record(directory, file_, shard, sums);
  return true;
}

TensorSums planned_sums(const fs::path& directory, const PlanFile& plan) {
  TensorSums sums;
  const auto count = static_cast<uint32_t>(plan.plan.shards.size());
  for (uint32_t shard = 0; shard < count; ++shard) {
    auto known = read_shard_record(directory, plan, shard, {});
    if (!known || !is_whole_shard(plan.plan, shard, *known)) {
      throw Error(
          ErrorCode::kShardSet, (directory / shard_record_name(shard, count)).string(), {},
          known
              ? "expected all tensors of " + shard_file_name(shard, count) + ", found some of them"
              : "expected the record of " + shard_file_name(shard, count) + ", found none");
    }
    sums.merge(*known);
  }
  return sums;
}

ConvertReport finish_planned(const fs::path& directory, const PlanFile& plan,
                             const ModelConfig& config, bool think_in_template) {
  ConvertReport report;
  report.plan = plan.plan;
  report.warnings = plan.plan.warnings;
  const auto count = static_cast<uint32_t>(plan.plan.shards.size());
  for (uint32_t shard = 0; shard < count; ++shard)
    report.files.push_back(shard_file_name(shard, count));
  ConversionRecord record;
  record.method = planned_method(plan);
  if (plan.calibration) {
    FinalPoint last = final_point(directory, plan, config);
    record.calibration = std::move(last.record);
    if (!last.warning.empty()) report.warnings.push_back(std::move(last.warning));
  }
  record.statistics = plan.statistics;
  record.source_name = plan.source_name;
  record.source_revision = plan.source_revision;
  record.think_in_template = think_in_template;
  record.generator_version = plan.version;
  write_documents(directory, plan.plan, config, planned_sums(directory, plan), std::move(record),
                  report);
  return report;
}

}  // namespace jang
