#include "convert/calibrated_job.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "base/checked_math.h"
#include "calibrate/measure_losses.h"
#include "calibrate/solve_model.h"

namespace jang {
namespace {

// Scales and biases take part of a target; where a group is probed matters less than that it is
// probed near the widths that it may get. At 2 bits errors are too large to be proportional.
int probe_bits(const Plan& plan) {
  constexpr double kMetadata = 0.4;
  const double bits = plan.target_bits.value_or(4.0) - kMetadata;
  return std::clamp(static_cast<int>(std::lround(bits)), 3, 6);
}

}  // namespace

uint64_t quantized_bytes(const Plan& plan) {
  uint64_t bytes = 0;
  for (const PlannedTensor& planned : plan.tensors) {
    if (planned.format) bytes += planned.tensor.bytes();
  }
  return bytes;
}

CalibratedJob::CalibratedJob(const std::filesystem::path& source, std::filesystem::path scratch,
                             const CalibrationInput& input, const SourceReader& reader,
                             JobProgress& progress, ThreadPool& pool)
    : directory_(open_model_directory(source)),
      scratch_(std::move(scratch)),
      input_(input),
      reader_(reader),
      progress_(progress),
      pool_(pool) {}

MeasuredLosses CalibratedJob::measure(const Plan& plan, const PlanOptions& planning) {
  ReadScratch scratch;
  MeasureHooks hooks;
  hooks.poll = [&] { progress_.report({}); };
  hooks.read = [&](uint32_t index) {
    const PlannedTensor& planned = plan.tensors[index];
    return reader_.read(planned, whole_panel(index, planned.tensor), scratch);
  };
  hooks.done = [&](uint32_t index) {
    const FinalTensor& tensor = plan.tensors[index].tensor;
    progress_.done += tensor.bytes();
    progress_.report(tensor.name);
  };
  MeasureOptions options;
  options.group_size = planning.group_size;
  options.lattices = planning.lattices;
  options.probe_bits = probe_bits(plan);
  options.scratch_directory = scratch_;
  return measure_losses(directory_, plan, {input_.ids, input_.tokens}, options, hooks, pool_);
}

void CalibratedJob::check() const { check_tokens(directory_, spec(), {input_.ids, input_.tokens}); }

StatesShape CalibratedJob::states_shape() const {
  const ModelSpec spec = this->spec();
  const std::array<uint64_t, 3> row = {static_cast<uint64_t>(input_.tokens),
                                       static_cast<uint64_t>(spec.hidden), sizeof(float)};
  return {spec.layers.size(), input_.two_streams ? 2u : 1u,
          static_cast<uint64_t>(CalibrationTokens{input_.ids, input_.tokens}.sequences()),
          checked_product(row).value_or(0)};
}

CalibrationRecord CalibratedJob::solve(const Plan& plan, std::span<const Panel> panels,
                                       const SolveCallbacks& callbacks,
                                       std::optional<ResumePoint> point,
                                       std::vector<std::string>& warnings,
                                       std::optional<uint64_t> stop) {
  const CalibrationTokens tokens{input_.ids, input_.tokens};
  CalibrationRecord record{input_.text,
                           input_.sha256,
                           static_cast<uint64_t>(tokens.sequences()),
                           static_cast<uint64_t>(input_.tokens),
                           input_.two_streams ? 2u : 1u,
                           {}};
  std::map<uint32_t, std::size_t> place;
  for (std::size_t i = 0; i < panels.size(); ++i) place[panels[i].tensor] = i;
  ResumePoint done = std::move(point).value_or(ResumePoint{});
  for (const auto& [tensor, solved] : done.tensors) {
    progress_.done += panels[place.at(tensor)].bytes;
    record.tensors[plan.tensors[tensor].tensor.path] = solved.solver;
  }
  ReadScratch scratch;
  SolveModelHooks hooks;
  hooks.poll = [&] { progress_.report({}); };
  hooks.read = [&](uint32_t tensor) {
    return reader_.read(plan.tensors[tensor], panels[place.at(tensor)], scratch);
  };
  hooks.read_rows = [&](uint32_t tensor, uint64_t first, uint64_t rows) {
    Panel part = panels[place.at(tensor)];
    part.row = first;
    part.rows = rows;
    return reader_.read(plan.tensors[tensor], part, scratch);
  };
  hooks.store = [&](uint32_t tensor, const AffinePanel& solved, const SolverRecord& solver) {
    const std::size_t i = place.at(tensor);
    if (done.tensors.contains(tensor)) {
      throw Error(ErrorCode::kConfigValue, {}, plan.tensors[tensor].tensor.source,
                  "expected a tensor that is still to be solved, found it among those that an"
                  " interrupted conversion has done",
                  "remove the .partial directory");
    }
    done.tensors[tensor] = {solver, callbacks.store(i, solved)};
    progress_.done += panels[i].bytes;
    record.tensors[plan.tensors[tensor].tensor.path] = solver;
    progress_.report(plan.tensors[tensor].tensor.name);
  };
  if (callbacks.save) {
    hooks.behind = [&](const SolvePosition& position, auto streams) {
      done.position = position;
      callbacks.save(done, streams);
    };
  }
  SolveModelOptions options;
  options.two_streams = input_.two_streams;
  options.scratch_directory = scratch_;
  options.stop = stop;
  if (done.position.layers > 0) options.start = SolveStart{done.position, callbacks.load};
  SolveModelReport report = solve_model(directory_, plan, tokens, options, hooks, pool_);
  warnings.insert(warnings.end(), std::make_move_iterator(report.warnings.begin()),
                  std::make_move_iterator(report.warnings.end()));
  record.experts = report.experts;
  return record;
}

}  // namespace jang
