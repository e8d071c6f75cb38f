// Planning a directory: what `plan` shows and `convert` runs.
#include "convert/convert.h"
#include "convert/source.h"

namespace jang {

PlannedSource plan_directory(const std::filesystem::path& source, const PlanOptions& options,
                             bool headers_only) {
  ConversionSource opened = open_source(source, headers_only);
  Plan plan = make_plan(opened.config, opened.inventory, options);
  return {std::move(opened.config), std::move(plan)};
}

}  // namespace jang
