// What a width costs a module, where somebody has measured it: the way for statistics of a
// calibration into the allocation. Who measures is another matter; planning only reads.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace jang {

struct CandidateLoss {
  int bits = 0;
  int group_size = 0;
  double error = 0;  // e(c): relative squared error, or any measure that `sensitivity` scales
};

/// Losses of one module path. Candidates that are not listed are not taken.
struct ModuleLoss {
  std::vector<CandidateLoss> errors;
  /// a: what one unit of `error` costs; nullopt: the prior's, which expects relative squared errors
  /// of the weights.
  std::optional<double> sensitivity;
};

using MeasuredLosses = std::map<std::string, ModuleLoss, std::less<>>;  // by module path

}  // namespace jang
