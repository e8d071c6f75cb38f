// Where the calibration tokens of a routed layer go, expert by expert: those that chose it, with
// the weight of its output, and those for which it came next.
//
// Relies on what the model shows of its own router; leaves rows and moments to ExpertMoments.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arch/spec.h"
#include "model/linear.h"

namespace jang {

struct ExpertRoute {
  int64_t token = 0;  // among those of all sequences
  float gate = 0.0f;  // what the expert's output is multiplied with; 0: it was not chosen
};

class ExpertRoutes {
 public:
  explicit ExpertRoutes(const MoeSpec& spec);

  /// How many experts are near to a token, by falling preference: twice those that it goes to.
  static int64_t reach(const MoeSpec& spec) noexcept;

  /// The next sequence. Its position 0 is left out, as everywhere in calibration. Throws kNonFinite
  /// for a router that is not finite.
  void add(const RoutedInput& input);

  int64_t experts() const noexcept { return static_cast<int64_t>(routes_.size()); }
  int64_t tokens() const noexcept { return tokens_; }  // of all sequences, positions 0 included
  /// Of the expert for a token, by the router; 0 at positions 0.
  float probability(int64_t token, int64_t expert) const {
    return probabilities_[static_cast<std::size_t>(token * experts() + expert)];
  }
  /// By rising token.
  std::span<const ExpertRoute> of(int64_t expert) const {
    return routes_[static_cast<std::size_t>(expert)];
  }
  /// Tokens that chose the expert.
  int64_t chosen(int64_t expert) const { return chosen_[static_cast<std::size_t>(expert)]; }

 private:
  std::vector<std::vector<ExpertRoute>> routes_;  // by expert
  std::vector<int64_t> chosen_;                   // by expert
  int64_t tokens_ = 0;
  std::vector<float> probabilities_;  // [tokens][experts]
  std::vector<int64_t> near_;         // the experts that a token counts for
};

}  // namespace jang
