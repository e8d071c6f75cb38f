#include "convert/resume_record.h"

#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/checksum.h"
#include "io/json_fields.h"
#include "plan/candidates.h"

namespace jang {
namespace {

Json ways_json(const ExpertWays& ways) {
  return Json::Object{{"solved", ways.solved}, {"weighted", ways.weighted}, {"plain", ways.plain}};
}

ExpertWays parse_ways(const JsonFields& fields) {
  return {fields.count("solved"), fields.count("weighted"), fields.count("plain")};
}

template <typename Numbers>
Json array_json(const Numbers& numbers) {
  Json::Array out;
  for (const auto number : numbers) out.emplace_back(number);
  return out;
}

Json solved_json(const SolvedTensor& tensor) {
  Json out = sums_json(tensor.sums);
  out["solver"] = tensor.solver.solver;
  out["lambda"] = tensor.solver.lambda;
  out["alpha"] = tensor.solver.alpha;
  out["error"] = tensor.solver.error;
  if (tensor.solver.experts) out["experts"] = ways_json(*tensor.solver.experts);
  return out;
}

SolvedTensor parse_solved(const JsonFields& fields) {
  SolvedTensor out;
  out.solver = {fields.text("solver"), fields.number("lambda"), fields.number("alpha"),
                fields.number("error")};
  if (out.solver.solver != "gptq" && out.solver.solver != "mse")
    fields.fail("gptq or mse as solver");
  if (const auto ways = fields.object("experts")) out.solver.experts = parse_ways(*ways);
  out.sums = parse_sums(fields);
  return out;
}

bool usable(double loss) { return std::isfinite(loss) && loss >= 0.0; }

}  // namespace

Json sums_json(const PanelSums& sums) {
  Json out = Json::Object{{"crc", array_json(sums.crc)},
                          {"bytes", array_json(sums.bytes)},
                          {"lossless_groups", sums.lossless_groups}};
  if (sums.source_bytes == 0) return out;
  out["source_crc"] = sums.source_crc;
  out["source_bytes"] = sums.source_bytes;
  return out;
}

PanelSums parse_sums(const JsonFields& fields) {
  constexpr int64_t kMostCrc = std::numeric_limits<uint32_t>::max();
  PanelSums sums;
  const std::vector<int64_t> crc = fields.counts("crc"), bytes = fields.counts("bytes");
  if (crc.size() != kMaxPieces || bytes.size() != kMaxPieces)
    fields.fail(std::to_string(kMaxPieces) + " of crc and bytes");
  for (std::size_t i = 0; i < kMaxPieces; ++i) {
    if (crc[i] > kMostCrc) fields.fail("crc of 32 bits");
    sums.crc[i] = static_cast<uint32_t>(crc[i]);
    sums.bytes[i] = static_cast<uint64_t>(bytes[i]);
  }
  sums.lossless_groups = fields.count("lossless_groups");
  if (!fields.has("source_bytes")) return sums;
  sums.source_crc = static_cast<uint32_t>(fields.count("source_crc", kMostCrc));
  sums.source_bytes = fields.count("source_bytes");
  return sums;
}

uint32_t plan_checksum(const Plan& plan) {
  std::string text = output_index_json(plan);
  for (const PlannedTensor& planned : plan.tensors) {
    text += planned.tensor.path;
    for (const uint64_t n : planned.tensor.shape) text += ' ' + std::to_string(n);
    text += planned.format ? ':' + std::to_string(planned.format->bits) + ':' +
                                 std::to_string(planned.format->group_size) + ':' +
                                 std::string(dtype_name(planned.format->metadata))
                           : ':' + std::string(dtype_name(planned.dtype));
    if (planned.lattice) text += ":lattice";
  }
  return crc32_of(std::as_bytes(std::span(text)));
}

Json point_json(const Plan& plan, const ResumePoint& point) {
  Json tensors = Json::Object{};
  for (const auto& [index, tensor] : point.tensors)
    tensors[plan.tensors[index].tensor.path] = solved_json(tensor);
  Json streamed = Json::Object{};
  for (const auto& [index, sums] : point.streamed)
    streamed[plan.tensors[index].tensor.name] = sums_json(sums);
  return Json::Object{{"plan", plan_checksum(plan)},
                      {"layers", point.position.layers},
                      {"expert_tokens", array_json(point.position.expert_tokens)},
                      {"expert_ways", ways_json(point.position.expert_ways)},
                      {"tensors", std::move(tensors)},
                      {"streamed", std::move(streamed)}};
}

ResumePoint parse_point(const Json& json, const Plan& plan, uint64_t layers,
                        const std::string& file) {
  const JsonFields fields(json, file, "point");
  if (fields.count("plan") != plan_checksum(plan)) fields.fail("the checksum of this plan");
  ResumePoint point;
  point.position.layers =
      fields.count("layers", layers == 0 ? 0 : static_cast<int64_t>(layers) + 1);
  point.position.expert_tokens = fields.counts("expert_tokens");
  const auto ways = fields.object("expert_ways");
  if (!ways) fields.fail("expert_ways");
  point.position.expert_ways = parse_ways(*ways);
  const auto to_solve = layers == 0 ? std::map<std::string, uint32_t>{} : tensors_to_solve(plan);
  const Json& tensors = fields.member("tensors");
  if (!tensors.is_object()) fields.fail("an object as tensors");
  for (const auto& [path, tensor] : tensors.as_object()) {
    const auto found = to_solve.find(path);
    if (found == to_solve.end()) fields.fail("no tensor " + path);
    point.tensors.emplace(found->second, parse_solved(JsonFields(tensor, file, path)));
  }
  point.position.stored = point.tensors.size();
  const Json& streamed = fields.member("streamed");
  if (!streamed.is_object()) fields.fail("an object as streamed");
  std::map<std::string_view, uint32_t> names;
  for (uint32_t i = 0; layers == 0 && i < plan.tensors.size(); ++i)
    names.emplace(plan.tensors[i].tensor.name, i);
  for (const auto& [name, sums] : streamed.as_object()) {
    const auto found = names.find(name);
    if (found == names.end()) fields.fail("no streamed tensor " + name);
    point.streamed.emplace(found->second, parse_sums(JsonFields(sums, file, name)));
  }
  return point;
}

Json losses_json(const MeasuredLosses& losses) {
  Json modules = Json::Object{};
  for (const auto& [path, loss] : losses) {
    std::vector<double> errors;
    for (const CandidateLoss& candidate : loss.errors) errors.push_back(candidate.error);
    Json& module = modules[path];
    module = Json::Object{{"errors", array_json(errors)}};
    if (loss.sensitivity) module["sensitivity"] = *loss.sensitivity;
  }
  return Json::Object{{"losses", std::move(modules)}};
}

// Widths and groups are not stored: they are those of candidate_formats, in its order.
MeasuredLosses parse_losses(const Json& json, const Plan& plan, std::optional<int> group_size,
                            const std::string& file) {
  const auto modules = JsonFields(json, file, "losses").object("losses");
  if (!modules) JsonFields(json, file, "losses").fail("losses");
  MeasuredLosses losses;
  for (const auto& [path, index] : quantized_tensors(plan)) {
    const auto module = modules->object(path);
    if (!module) modules->fail("losses of " + path);
    const std::vector<double> errors = module->numbers("errors");
    const auto formats = candidate_formats(plan.tensors[index].tensor.columns(), group_size);
    if (errors.size() != formats.size()) module->fail(std::to_string(formats.size()) + " errors");
    ModuleLoss& loss = losses[path];
    for (std::size_t i = 0; i < errors.size(); ++i) {
      if (!usable(errors[i])) module->fail("errors that are numbers >= 0");
      loss.errors.push_back({formats[i].first, formats[i].second, errors[i]});
    }
    if (!module->has("sensitivity")) continue;
    loss.sensitivity = module->number("sensitivity");
    if (!usable(*loss.sensitivity)) module->fail("a sensitivity >= 0");
  }
  return losses;
}

}  // namespace jang
