#include "base/thread_pool.h"
#include "convert/find_lattices.h"
#include "convert/plan_file.h"
#include "convert/source.h"
#include "convert/source_reader.h"

namespace jang {

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
  if (options.read_weights && file.method != Method::kRtn) {
    ThreadPool pool(options.threads != 0 ? options.threads : default_thread_count().threads);
    const SourceReader reader(source, file.options.dtype);
    JobProgress progress{callbacks};
    file.options.lattices =
        find_lattices(file.plan, file.options.group_size, reader, progress, pool);
    if (!file.options.lattices.empty())
      file.plan = make_plan(source.config, source.inventory, file.options);
  }
  if (options.statistics) {
    const ColumnWeights weights(options.statistics->mean_squares, source.inventory,
                                options.statistics->file, file.plan.warnings);
    file.statistics =
        StatisticsRecord{options.statistics->file, options.statistics->sha256, weights.size()};
  }
  file.checksum = plan_file_checksum(file);
  return file;
}

}  // namespace jang
