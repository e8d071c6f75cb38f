// The conversion by one command: plan, cut the planned tensors into panels, run them over the pool,
// write the documents. Nothing in the output depends on the number of threads. What a conversion in
// parts does likewise is shared: source.h, work_list.h, stream_panels.h, documents.h.
#include "convert/convert.h"

#include <chrono>
#include <utility>

#include "convert/calibrated_job.h"
#include "convert/documents.h"
#include "convert/find_lattices.h"
#include "convert/panel_writer.h"
#include "convert/panels.h"
#include "convert/resume_shards.h"
#include "convert/resume_state.h"
#include "convert/shard_output.h"
#include "convert/source.h"
#include "convert/source_feed.h"
#include "convert/stream_panels.h"
#include "convert/work_list.h"
#include "plan/plan_document.h"

namespace jang {
namespace {

uint64_t source_bytes(const Plan& plan) {
  uint64_t bytes = 0;
  for (const PlannedTensor& planned : plan.tensors) bytes += planned.tensor.bytes();
  return bytes;
}

std::string continuing(uint64_t done, uint64_t layers) {
  if (done > layers) return "continuing: all tensors were quantized before";
  return "continuing behind layer " + std::to_string(done) + " of " + std::to_string(layers);
}

}  // namespace

ConvertReport convert_directory(const std::filesystem::path& source_path,
                                const std::filesystem::path& partial, const ConvertOptions& options,
                                const JobCallbacks& callbacks) {
  const auto start = std::chrono::steady_clock::now();
  ConversionSource source = open_source(source_path, false);
  require_convertible(source);
  ConvertReport report;
  report.plan = make_plan(source.config, source.inventory, options.plan);

  ThreadPool pool(options.threads != 0 ? options.threads : default_thread_count().threads);
  const SourceReader reader(source, options.plan.dtype);
  JobProgress progress{callbacks};
  JANG_ASSERT(options.feed == nullptr || !options.calibration);
  std::optional<CalibratedJob> calibrated;
  PlanOptions planning = options.plan;
  std::optional<ResumeState> resume;
  bool measured_before = false;
  if (options.calibration)
    calibrated.emplace(source_path, partial, *options.calibration, reader, progress, pool);
  if (options.resume_key) resume.emplace(partial, *options.resume_key, callbacks);
  if (options.calibration || options.method != Method::kRtn) {  // rtn stays plain rounding
    progress.total = source_bytes(report.plan);
    planning.lattices = find_lattices(report.plan, planning.group_size, reader, progress, pool,
                                      {options.feed, &*source.checkpoint});
    if (!planning.lattices.empty())
      report.plan = make_plan(source.config, source.inventory, planning);
  }
  if (calibrated && planning.target) {
    const uint64_t to_measure = quantized_bytes(report.plan);
    progress.total = progress.done + 2 * to_measure;
    auto known = resume ? resume->losses(report.plan, planning.group_size) : std::nullopt;
    measured_before = known.has_value();
    if (known) {
      planning.losses = std::move(*known);
      progress.done += to_measure;
    } else {
      planning.losses = calibrated->measure(report.plan, planning);
      if (resume) resume->save_losses(planning.losses);
    }
    report.plan = make_plan(source.config, source.inventory, planning);
  }
  const Plan& plan = report.plan;
  report.warnings = plan.warnings;
  report.file_bytes = plan.file_bytes;

  const ShardRange range = ShardRange::all(plan);
  const WorkList work = cut_shards(plan, range, options.calibration.has_value());
  std::optional<ResumePoint> point;
  const StatesShape states = calibrated ? calibrated->states_shape() : StatesShape{};
  if (resume) point = resume->point(plan, states);
  std::optional<ShardOutput> shards;
  if (point) {
    TensorSums done = point->streamed;
    for (const auto& [tensor, solved] : point->tensors) done.emplace(tensor, solved.sums);
    const std::string reason =
        continue_shards(shards, done, partial, plan, range, work.counts, pool, callbacks.cancel);
    if (!reason.empty()) {
      resume->start_afresh(reason);
      point.reset();
    }
  }
  if (!shards) shards.emplace(partial, plan, range, work.counts);
  ShardOutput& output = *shards;
  if (point) {
    resume->notice(calibrated
                       ? continuing(point->position.layers, states.layers)
                       : "continuing behind tensor " + std::to_string(point->streamed.size()) +
                             " of " + std::to_string(plan.tensors.size()));
  } else if (measured_before) {
    resume->notice("continuing with the losses that were measured before");
  }
  std::optional<ColumnWeights> weights;
  if (options.statistics) {
    weights.emplace(options.statistics->mean_squares, source.inventory, options.statistics->file,
                    report.warnings);
  }
  const PanelWriter writer(reader, plan, options.method, weights ? &*weights : nullptr, output);
  progress.total = progress.done + work.bytes;
  StreamOptions streaming;
  streaming.stretch = options.resume_stretch;
  if (point) streaming.done = std::move(point->streamed);
  if (resume && !calibrated) {
    streaming.save = [&](const TensorSums& done) {
      output.sync();
      resume->save(plan, {{}, {}, done}, {}, 0);
    };
  }
  TensorSums sums = options.feed != nullptr
                        ? stream_fed_panels(work.panels, plan, *source.checkpoint, writer, output,
                                            progress, pool, std::move(streaming), *options.feed)
                        : stream_panels(work.panels, plan, *source.checkpoint, writer, output,
                                        progress, pool, streaming);
  std::optional<CalibrationRecord> calibration;
  if (calibrated) {
    for (std::size_t i = 0; point && i < work.whole.size(); ++i) {
      const auto done = point->tensors.find(work.whole[i].tensor);
      if (done == point->tensors.end()) continue;
      sums[work.whole[i].tensor] = done->second.sums;
      output.panel_done(work.whole[i].tensor);
    }
    CalibratedJob::SolveCallbacks solving;
    solving.store = [&](std::size_t i, const AffinePanel& solved) {
      const PanelSums written = writer.write_solved(work.whole[i], solved);
      output.panel_done(work.whole[i].tensor);
      return sums[work.whole[i].tensor] = written;
    };
    if (resume) {
      solving.save = [&](const ResumePoint& at, auto streams) {
        output.sync();
        resume->save(plan, at, streams, states.sequences);
      };
      solving.load = [&](std::size_t stream, int64_t sequence, float* rows) {
        resume->load(stream, sequence, rows);
      };
    }
    calibration = calibrated->solve(plan, work.whole, solving, std::move(point), report.warnings);
  }
  output.finish();
  progress.report({});

  report.files = output.files();
  ConversionRecord record;
  record.method = calibration ? "gptq" : method_name(options.method);
  record.calibration = std::move(calibration);
  if (options.statistics) {
    record.statistics =
        StatisticsRecord{options.statistics->file, options.statistics->sha256, weights->size()};
  }
  record.source_name = options.source_name;
  record.source_revision = options.source_revision;
  record.think_in_template = options.think_in_template;
  record.generator_version = options.generator_version;
  write_documents(partial, plan, source.config, sums, std::move(record), report);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace jang
