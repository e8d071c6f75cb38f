// A planned gptq conversion, made in parts that are runs of layers: each starts from the hidden
// states that the part before left behind its last layer, and leaves its own.
//
// Relies on the caller that one part is made at a time, and that the source is the one of the plan
// (python/jang_tools/layer_parts.py); on part_shards.h for the files, on layer_point.h for states.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "arch/directory.h"
#include "base/thread_pool.h"
#include "convert/convert.h"
#include "convert/plan_file.h"
#include "convert/source.h"
#include "plan/plan.h"

namespace jang {

class PartShards;

/// From one position (calibrate/solve_order.h) to another.
struct LayerRange {
  uint64_t begin = 0, end = 0;
};

class PlannedLayers {
 public:
  /// Opens the source and plans again; errors as PlannedShards, and Error{kArgument} where text,
  /// tokens or kernels are not those of the plan.
  PlannedLayers(PlanFile plan, std::string plan_name, const std::filesystem::path& source,
                CalibrationInput calibration, int threads);
  PlannedLayers(const PlannedLayers&) = delete;
  PlannedLayers& operator=(const PlannedLayers&) = delete;

  /// Where a part may end, ascending; the last is the end of the conversion.
  const std::vector<uint64_t>& stops() const noexcept { return stops_; }
  /// Bytes of the source that the tensors between two positions are made of.
  uint64_t source_bytes(const LayerRange& range) const;
  /// Of the model.
  uint64_t layers() const noexcept { return layers_; }

  /// Makes the tensors between two of the stops (or from 0) in `directory`; false if nothing was to
  /// be done. What an interrupted run left is continued behind its last layer, with a notice.
  /// `needs`: a sentence about the part before; Error{kShardSet} with it where states or tensors
  /// that the part before leaves are missing or damaged.
  bool make(const std::filesystem::path& directory, const LayerRange& range,
            const std::string& needs, uint64_t stretch, const JobCallbacks& callbacks);

 private:
  struct Job;
  PlanFile file_;
  const std::filesystem::path path_;
  ConversionSource source_;
  CalibrationInput calibration_;
  Plan plan_;                        // as file_.plan, with the places of its tensors in the source
  std::vector<uint64_t> positions_;  // of the plan's tensors
  std::vector<uint64_t> stops_;
  uint64_t layers_ = 0;
  ThreadPool pool_;
};

}  // namespace jang
