#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/thread_pool.h"
#include "convert/calibrated_job.h"
#include "convert/find_lattices.h"
#include "convert/plan_file.h"
#include "convert/source.h"
#include "convert/source_reader.h"
#include "plan/plan_record.h"
#include "quant/active_kernels.h"

namespace jang {
namespace {

/// As convert_directory: what lies on lattices; with a calibration and a target what widths cost.
void plan_by_values(const std::filesystem::path& path, const ConversionSource& source,
                    const PlanFileOptions& options, const JobCallbacks& callbacks, PlanFile& file) {
  ThreadPool pool(options.threads != 0 ? options.threads : default_thread_count().threads);
  const SourceReader reader(source, file.options.dtype);
  JobProgress progress{callbacks};
  std::optional<CalibratedJob> calibrated;
  if (options.calibration)
    calibrated.emplace(path, options.scratch, *options.calibration, reader, progress, pool);
  file.options.lattices = find_lattices(file.plan, file.options.group_size, reader, progress, pool);
  if (!file.options.lattices.empty())
    file.plan = make_plan(source.config, source.inventory, file.options);
  if (!calibrated) return;
  calibrated->check();
  if (!file.options.target) return;
  progress.total = progress.done + quantized_bytes(file.plan);
  file.options.losses = calibrated->measure(file.plan, file.options);
  file.plan = make_plan(source.config, source.inventory, file.options);
}

/// What decides bytes: not what was said about it.
Json deciding(const Plan& plan, uint64_t shard_bytes) {
  Json json = plan_json(plan, shard_bytes);
  json.as_object().erase("warnings");
  return json;
}

}  // namespace

PlanFile make_plan_file(const std::filesystem::path& source_path, const PlanFileOptions& options,
                        const JobCallbacks& callbacks) {
  const ConversionSource source = open_source(source_path, false);
  require_convertible(source);
  PlanFile file;
  file.version = options.version;
  file.source_name = options.source_name;
  file.source_revision = options.source_revision;
  file.files = options.files;
  file.heads_equal = source.heads_equal;
  file.options = options.plan;
  file.method = options.method;
  file.plan = make_plan(source.config, source.inventory, file.options);
  if (options.calibration) file.calibration = planned_calibration(*options.calibration);
  if (options.calibration || (options.read_weights && file.method != Method::kRtn))
    plan_by_values(source_path, source, options, callbacks, file);
  if (options.statistics) {
    const ColumnWeights weights(options.statistics->mean_squares, source.inventory,
                                options.statistics->file, file.plan.warnings);
    file.statistics =
        StatisticsRecord{options.statistics->file, options.statistics->sha256, weights.size()};
  }
  file.checksum = plan_file_checksum(file);
  return file;
}

PlannedCalibration planned_calibration(const CalibrationInput& input) {
  const auto tokens = static_cast<uint64_t>(input.tokens);
  const uint64_t sequences = tokens == 0 ? 0 : input.ids.size() / tokens;
  return {input.text,
          input.sha256,
          input.tokens_sha256,
          std::max(input.asked_sequences, sequences),
          sequences,
          tokens,
          input.two_streams ? 2u : 1u,
          kernels::level_name(active_kernels().level)};
}

Plan plan_again(const PlanFile& file, const std::string& plan_name,
                const ConversionSource& source) {
  Plan plan = make_plan(source.config, source.inventory, file.options);
  if (deciding(plan, file.options.shard_bytes) == deciding(file.plan, file.options.shard_bytes))
    return plan;
  throw Error(ErrorCode::kArgument, plan_name, {},
              "this program plans other widths or shards for the source and options in it",
              "use the program that made the file, or plan anew with this one");
}

}  // namespace jang
