// What of a conversion is written down so that the next one can go on, as JSON, and back
// again. A record is input like any other file: everything is checked against the plan it is for.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "calibrate/solve_model.h"
#include "convert/panel_writer.h"
#include "convert/stream_panels.h"
#include "io/json.h"
#include "io/json_fields.h"
#include "plan/losses.h"
#include "plan/plan.h"

namespace jang {

/// A tensor that is solved and lies in its shard.
struct SolvedTensor {
  SolverRecord solver;
  PanelSums sums;
};

/// A conversion between two layers; without calibration, between two tensors.
struct ResumePoint {
  SolvePosition position;
  std::map<uint32_t, SolvedTensor> tensors;  // by planned tensor
  TensorSums streamed;                       // only without calibration
};

/// What a plan must have in common with the one a point was saved for: shards, widths, shapes.
uint32_t plan_checksum(const Plan& plan);

/// Of a tensor that lies in its shard, as JSON and back; errors as parse_point.
Json sums_json(const PanelSums& sums);
PanelSums parse_sums(const JsonFields& fields);

Json point_json(const Plan& plan, const ResumePoint& point);
/// Throws Error{kConfigValue} naming `file` for anything that a conversion by `plan` of a model of
/// so many layers does not save; 0: one without calibration.
ResumePoint parse_point(const Json& json, const Plan& plan, uint64_t layers,
                        const std::string& file);

Json losses_json(const MeasuredLosses& losses);
/// Of all tensors with a format, at the candidates of `group_size`. Errors as parse_point.
MeasuredLosses parse_losses(const Json& json, const Plan& plan, std::optional<int> group_size,
                            const std::string& file);

}  // namespace jang
