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
#include "base/thread_pool.h"
#include "convert/convert.h"
#include "convert/panels.h"
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

  /// Solves the tensors of `panels`, each a whole one, and gives each as it is done to
  /// store(index into `panels`, solved).
  using Store = std::function<void(std::size_t, const AffinePanel&)>;
  CalibrationRecord solve(const Plan& plan, std::span<const Panel> panels, const Store& store,
                          std::vector<std::string>& warnings);

 private:
  const ModelDirectory directory_;
  const std::filesystem::path scratch_;
  const CalibrationInput& input_;
  const SourceReader& reader_;
  JobProgress& progress_;
  ThreadPool& pool_;
};

}  // namespace jang
