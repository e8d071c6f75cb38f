// The conversion itself: cut the planned tensors into panels, run them over the pool, join the
// checksums in order, write the documents. Nothing in the output depends on the number of threads.
#include "convert/convert.h"

#include <chrono>
#include <map>
#include <string_view>
#include <utility>

#include "arch/family.h"
#include "base/error.h"
#include "convert/calibrated_job.h"
#include "convert/find_lattices.h"
#include "convert/panel_writer.h"
#include "convert/panels.h"
#include "convert/resume_shards.h"
#include "convert/resume_state.h"
#include "convert/shard_output.h"
#include "convert/source.h"
#include "io/checksum.h"
#include "plan/plan_document.h"

namespace jang {
namespace {

/// The dtype that most source weights have.
DType main_dtype(const Inventory& inventory) {
  std::map<DType, uint64_t> weights;
  for (const FinalTensor& tensor : inventory.tensors) weights[tensor.dtype] += tensor.elements();
  DType most = DType::kBF16;
  uint64_t count = 0;
  for (const auto& [dtype, n] : weights) {
    if (n > count && is_float_weight(dtype)) std::tie(most, count) = std::pair(dtype, n);
  }
  return most;
}

/// Known architectures without a family file are planned only: their configs want completing, or
/// their tensors more than moving rows. What nobody knows is written as it is named.
void require_convertible(const ConversionSource& source) {
  const std::string& type = source.config.model_type();
  if (!is_unknown_model_type(type)) {
    // What no written config can say is refused before the work, not behind it.
    Json written = source.config.root();
    require_family(source.config).complete_config(written, source.config);
  }
  if (type == "gpt2" || type == "openai-gpt") {
    throw Error(ErrorCode::kUnsupportedModel, source.config.file(), {},
                "model type \"" + type +
                    "\" stores its matrices as [inputs, outputs], the other way round");
  }
  for (const FinalTensor& tensor : source.inventory.tensors) {
    if (tensor.obstacle.empty()) continue;
    throw Error(ErrorCode::kUnsupportedModel, source.config.file(), tensor.source,
                "cannot be converted yet: " + tensor.obstacle);
  }
}

uint64_t source_bytes(const Plan& plan) {
  uint64_t bytes = 0;
  for (const PlannedTensor& planned : plan.tensors) bytes += planned.tensor.bytes();
  return bytes;
}

struct WorkList {
  std::vector<Panel> panels;     // shard by shard, tensor by tensor, in order
  std::vector<Panel> whole;      // behind them: tensors that are solved, a panel each
  std::vector<uint64_t> counts;  // panels of each planned tensor
  uint64_t bytes = 0;
};

/// `solved`: quantized tensors are not cut, but for those on lattices.
WorkList cut_plan(const Plan& plan, bool solved) {
  WorkList work;
  work.counts.resize(plan.tensors.size());
  for (const std::vector<uint32_t>& shard : plan.shards) {
    for (const uint32_t index : shard) {
      const FinalTensor& tensor = plan.tensors[index].tensor;
      const uint64_t columns = tensor.columns();
      const uint64_t rows = columns == 0 ? 0 : tensor.elements() / columns;
      if (solved && plan.tensors[index].format && !plan.tensors[index].lattice) {
        work.whole.push_back(whole_panel(index, tensor));
        work.counts[index] = 1;
        continue;
      }
      const std::size_t before = work.panels.size();
      cut_panels(index, rows, columns, static_cast<uint64_t>(dtype_size(tensor.dtype)),
                 work.panels);
      work.counts[index] = work.panels.size() - before;
    }
  }
  for (const Panel& panel : work.panels) work.bytes += panel.bytes;
  for (const Panel& panel : work.whole) work.bytes += panel.bytes;
  return work;
}

std::map<std::string, uint32_t> join_checksums(const Plan& plan, const ShardOutput& output,
                                               std::span<const Panel> panels,
                                               std::span<const PanelSums> sums) {
  std::map<std::string, uint32_t> joined;
  for (uint32_t tensor = 0; tensor < plan.tensors.size(); ++tensor) {
    for (std::size_t piece = 0; piece < kMaxPieces; ++piece) {
      const std::string& name = output.name(tensor, piece);
      if (!name.empty()) joined.emplace(name, crc32_of({}));
    }
  }
  for (std::size_t i = 0; i < panels.size(); ++i) {
    for (std::size_t piece = 0; piece < kMaxPieces; ++piece) {
      const std::string& name = output.name(panels[i].tensor, piece);
      if (name.empty()) continue;
      uint32_t& crc = joined.at(name);
      crc = crc32_join(crc, sums[i].crc[piece], sums[i].bytes[piece]);
    }
  }
  return joined;
}

LatticeRecords lattice_records(const Plan& plan, std::span<const Panel> panels,
                               std::span<const PanelSums> sums) {
  LatticeRecords records;
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.lattice) continue;
    const auto group = static_cast<uint64_t>(planned.format->group_size);
    records[planned.tensor.path].groups = planned.tensor.elements() / group;
  }
  for (std::size_t i = 0; i < panels.size(); ++i) {
    const PlannedTensor& planned = plan.tensors[panels[i].tensor];
    if (planned.lattice) records[planned.tensor.path].lossless_groups += sums[i].lossless_groups;
  }
  return records;
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
  const ConversionSource source = open_source(source_path, false);
  require_convertible(source);
  ConvertReport report;
  report.plan = make_plan(source.config, source.inventory, options.plan);

  ThreadPool pool(options.threads != 0 ? options.threads : default_thread_count().threads);
  const SourceReader reader(source, options.plan.dtype);
  JobProgress progress{callbacks};
  std::optional<CalibratedJob> calibrated;
  PlanOptions planning = options.plan;
  std::optional<ResumeState> resume;
  bool measured_before = false;
  if (options.calibration)
    calibrated.emplace(source_path, partial, *options.calibration, reader, progress, pool);
  if (options.resume_key) resume.emplace(partial, *options.resume_key, callbacks);
  if (options.calibration || options.method != Method::kRtn) {  // rtn stays plain rounding
    progress.total = source_bytes(report.plan);
    planning.lattices = find_lattices(report.plan, planning.group_size, reader, progress, pool);
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

  const WorkList work = cut_plan(plan, options.calibration.has_value());
  std::optional<ResumePoint> point;
  const StatesShape states = calibrated ? calibrated->states_shape() : StatesShape{};
  if (resume) point = resume->point(plan, states);
  std::optional<ShardOutput> shards;
  if (point) {
    const std::string reason =
        continue_shards(shards, *point, partial, plan, work.counts, pool, callbacks.cancel);
    if (!reason.empty()) {
      resume->start_afresh(reason);
      point.reset();
    }
  }
  if (!shards) shards.emplace(partial, plan, work.counts);
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
  std::vector<PanelSums> solved_sums(work.whole.size());
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
  std::vector<PanelSums> sums = stream_panels(work.panels, plan, *source.checkpoint, writer, output,
                                              progress, pool, streaming);
  std::optional<CalibrationRecord> calibration;
  if (calibrated) {
    for (std::size_t i = 0; point && i < work.whole.size(); ++i) {
      const auto done = point->tensors.find(work.whole[i].tensor);
      if (done == point->tensors.end()) continue;
      solved_sums[i] = done->second.sums;
      output.panel_done(work.whole[i].tensor);
    }
    CalibratedJob::SolveCallbacks solving;
    solving.store = [&](std::size_t i, const AffinePanel& solved) {
      solved_sums[i] = writer.write_solved(work.whole[i], solved);
      output.panel_done(work.whole[i].tensor);
      return solved_sums[i];
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
  const auto write_document = [&](const char* file, const std::string& text) {
    write_file(partial / file, text);
    report.files.emplace_back(file);
  };
  write_document("model.safetensors.index.json", output_index_json(plan));
  write_document("config.json", output_config_json(plan, source.config));
  ConversionRecord record;
  record.method = calibration ? "gptq" : method_name(options.method);
  record.calibration = std::move(calibration);
  if (options.statistics) {
    record.statistics =
        StatisticsRecord{options.statistics->file, options.statistics->sha256, weights->size()};
  }
  record.source_name = options.source_name;
  record.source_revision = options.source_revision;
  record.source_dtype = main_dtype(source.inventory);
  record.lattices = lattice_records(plan, work.panels, sums);
  report.lattices = summarize(record.lattices);
  std::vector<Panel> written = work.panels;
  written.insert(written.end(), work.whole.begin(), work.whole.end());
  sums.insert(sums.end(), solved_sums.begin(), solved_sums.end());
  record.checksums = join_checksums(plan, output, written, sums);
  record.think_in_template = options.think_in_template;
  record.generator_version = options.generator_version;
  write_document("jang_config.json", jang_config_json(plan, source.config, record));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace jang
