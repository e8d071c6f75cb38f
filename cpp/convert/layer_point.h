// Points between the layers of a gptq conversion in parts, each a file beside the shards: what is
// solved so far, and the hidden states that the next layer starts from. The last one, behind the
// head, has no states; the end of the conversion reads from it how every tensor was solved.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "arch/config.h"
#include "base/progress.h"
#include "convert/plan_file.h"
#include "convert/point_file.h"
#include "io/record_file.h"
#include "plan/plan_document.h"

namespace jang {

/// "layers-00012.states", behind twelve layers; "layers-all.states" behind the head.
std::string layer_point_name(uint64_t position, uint64_t layers);

void write_layer_point(const std::filesystem::path& directory, const PlanFile& plan,
                       uint64_t layers, const ResumePoint& point,
                       std::span<const HiddenStates* const> streams, uint64_t sequences,
                       const CancelCallback& cancel);

struct LayerPoint {
  RecordFile file;  // with the states
  ResumePoint point;
};

/// The point at `position` of a model of `layers` layers; absent if there is no such file. Throws
/// Error{kOutputExists} for one of another plan, kConfigValue and kChecksum for a damaged one.
std::optional<LayerPoint> read_layer_point(const std::filesystem::path& directory,
                                           const PlanFile& plan, uint64_t position, uint64_t layers,
                                           const CancelCallback& cancel);

struct FinalPoint {
  CalibrationRecord record;
  std::string warning;  // of experts that few tokens went to, or empty
};

/// What the documents say of the solving. `config`: of the source. Throws Error{kShardSet} where
/// the last layers are still to be solved, and as read_layer_point.
FinalPoint final_point(const std::filesystem::path& directory, const PlanFile& plan,
                       const ModelConfig& config);

}  // namespace jang
