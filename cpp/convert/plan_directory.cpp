// Planning a directory: what `plan` shows and `convert` runs, and measuring for it.
#include <set>
#include <string>
#include <vector>

#include "arch/block_scales.h"
#include "arch/tied_head.h"
#include "convert/convert.h"
#include "convert/source.h"

namespace jang {

PlannedSource plan_directory(const std::filesystem::path& source, const PlanOptions& options,
                             bool headers_only) {
  ConversionSource opened = open_source(source, headers_only);
  Plan plan = make_plan(opened.config, opened.inventory, options);
  return {std::move(opened.config), std::move(plan)};
}

std::vector<std::string> compared_files(const std::filesystem::path& source) {
  const ConversionSource opened = open_source(source, true);
  std::set<std::string> files;
  if (opened.checkpoint) {
    if (const auto pair = tied_pair(opened.config, *opened.checkpoint)) {
      for (const CheckpointTensor* tensor : {pair->embedding, pair->head}) {
        files.insert(opened.checkpoint->files()[tensor->file]);
        const CheckpointTensor* const scales = opened.checkpoint->find(scales_name(tensor->name));
        if (scales != nullptr) files.insert(opened.checkpoint->files()[scales->file]);
      }
    }
  }
  return {files.begin(), files.end()};
}

MeasuredLosses measure_losses(const std::filesystem::path& source,
                              const StatisticsInput& statistics, const LossOptions& options,
                              int threads, const JobCallbacks& callbacks) {
  const ConversionSource opened = open_source(source, false);
  std::vector<std::string> warnings;  // a conversion with these statistics says the same
  const ColumnWeights weights(statistics.mean_squares, opened.inventory, statistics.file, warnings);
  ThreadPool pool(threads != 0 ? threads : default_thread_count().threads);
  return candidate_losses(*opened.checkpoint, opened.inventory, weights, options, pool, callbacks);
}

}  // namespace jang
