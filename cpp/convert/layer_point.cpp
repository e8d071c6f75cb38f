#include "convert/layer_point.h"

#include <array>
#include <cstdio>
#include <string_view>
#include <utility>

#include "arch/family.h"
#include "base/error.h"
#include "calibrate/expert_solve.h"
#include "io/checksum.h"
#include "io/file_names.h"
#include "io/json_fields.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSchema = "jang.layer-states/1";

Json layer_point_json(const PlanFile& plan, const ResumePoint& point) {
  return Json::Object{{"schema", kSchema},
                      {"plan", crc32_text(plan.checksum)},
                      {"point", point_json(plan.plan, point)}};
}

ResumePoint parse_layer_point(const Json& json, const PlanFile& plan, uint64_t position,
                              uint64_t layers, const std::string& name) {
  const JsonFields fields(json, name, "record");
  if (fields.text("schema") != kSchema) fields.fail("the schema " + std::string(kSchema));
  if (const std::string& found = fields.text("plan"); found != crc32_text(plan.checksum)) {
    throw Error(
        ErrorCode::kOutputExists, name, {},
        "expected states of the plan " + crc32_text(plan.checksum) + ", found those of " + found,
        "choose another output, or remove the parts that are there");
  }
  ResumePoint point = parse_point(fields.member("point"), plan.plan, layers, name);
  if (point.position.layers != position) fields.fail(std::to_string(position) + " layers");
  return point;
}

}  // namespace

std::string layer_point_name(uint64_t position, uint64_t layers) {
  if (position > layers) return "layers-all.states";
  std::array<char, 48> name{};
  std::snprintf(name.data(), name.size(), "layers-%05llu.states",
                static_cast<unsigned long long>(position));
  return name.data();
}

void write_layer_point(const fs::path& directory, const PlanFile& plan, uint64_t layers,
                       const ResumePoint& point, std::span<const HiddenStates* const> streams,
                       uint64_t sequences, const CancelCallback& cancel) {
  write_point(directory / layer_point_name(point.position.layers, layers),
              layer_point_json(plan, point), streams, sequences, cancel);
}

std::optional<LayerPoint> read_layer_point(const fs::path& directory, const PlanFile& plan,
                                           uint64_t position, uint64_t layers,
                                           const CancelCallback& cancel) {
  const fs::path path = directory / layer_point_name(position, layers);
  if (!is_there(path)) return std::nullopt;
  RecordFile file = RecordFile::open(path, cancel);
  ResumePoint point = parse_layer_point(file.record(), plan, position, layers, path.string());
  return LayerPoint{std::move(file), std::move(point)};
}

FinalPoint final_point(const fs::path& directory, const PlanFile& plan, const ModelConfig& config) {
  const uint64_t layers = require_family(config).spec(config).layers.size();
  const auto last = read_layer_point(directory, plan, layers + 1, layers, {});
  if (!last || last->point.tensors.size() != tensors_to_solve(plan.plan).size()) {
    throw Error(ErrorCode::kShardSet, (directory / layer_point_name(layers + 1, layers)).string(),
                {}, "expected what the last part leaves, found that it has not come to its end");
  }
  const PlannedCalibration& calibration = *plan.calibration;
  FinalPoint out{{calibration.text,
                  calibration.sha256,
                  calibration.sequences,
                  calibration.tokens,
                  calibration.streams,
                  {}},
                 {}};
  for (const auto& [index, solved] : last->point.tensors)
    out.record.tensors[plan.plan.tensors[index].tensor.path] = solved.solver;
  const SolvePosition& position = last->point.position;
  if (position.expert_tokens.empty()) return out;
  out.record.experts = expert_coverage(position.expert_tokens);
  out.warning = coverage_warning(*out.record.experts, position.expert_ways);
  return out;
}

}  // namespace jang
