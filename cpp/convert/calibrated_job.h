// What a conversion does with calibration tokens: measures what widths would cost, and solves the
// quantized tensors in the order of the forward pass.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arch/directory.h"
#include "arch/spec.h"
#include "base/thread_pool.h"
#include "convert/convert.h"
#include "convert/panels.h"
#include "convert/resume_state.h"
#include "convert/source_reader.h"
#include "plan/plan_document.h"

namespace jang {

/// Source bytes of the tensors that a plan quantizes.
uint64_t quantized_bytes(const Plan& plan);

class CalibratedJob {
 public:
  /// `scratch`: a directory for files without a name. All references outlive this object.
  CalibratedJob(const std::filesystem::path& source, std::filesystem::path scratch,
                const CalibrationInput& input, const SourceReader& reader, JobProgress& progress,
                ThreadPool& pool);

  /// Losses of the tensors that `plan`, made with `planning`, quantizes, at all candidates.
  /// Progress: quantized_bytes().
  MeasuredLosses measure(const Plan& plan, const PlanOptions& planning);

  /// Refuses what cannot be solved: families that cannot be run, tokens that do not fit the model.
  void check() const;

  /// The model that is run.
  ModelSpec spec() const { return directory_spec(directory_); }

  /// Of the hidden states that a point holds.
  StatesShape states_shape() const;

  struct SolveCallbacks {
    /// A tensor is done: index into the panels, its bytes; returns what was written.
    std::function<PanelSums(std::size_t, const AffinePanel&)> store;
    /// A layer is done, or everything, without streams. May be empty.
    std::function<void(const ResumePoint&, std::span<const HiddenStates* const> streams)> save;
    /// States of the point that solving starts from.
    std::function<void(std::size_t stream, int64_t sequence, float* rows)> load;
  };
  /// Solves the tensors of `panels`, each a whole one, from `point` on, whose tensors are done.
  /// `stop`: as in SolveModelOptions; the record is that of what is done then.
  CalibrationRecord solve(const Plan& plan, std::span<const Panel> panels,
                          const SolveCallbacks& callbacks, std::optional<ResumePoint> point,
                          std::vector<std::string>& warnings,
                          std::optional<uint64_t> stop = std::nullopt);

 private:
  const ModelDirectory directory_;
  const std::filesystem::path scratch_;
  const CalibrationInput& input_;
  const SourceReader& reader_;
  JobProgress& progress_;
  ThreadPool& pool_;
};

}  // namespace jang
