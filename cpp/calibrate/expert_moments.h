// Second moments of the inputs of routed experts, formed on demand from rows that are kept: one H
// at a time, not one of each expert.
//
// With T_e tokens that chose expert e, gate values g, router probabilities p and t = columns / 2:
//
//   H_e     = sum over those that chose it of g^2 x x^T / sum g^2
//   H_layer = sum over tokens of p x x^T / sum p
//   H       = (T_e H_e + t H_layer) / (T_e + t), worth T_e + t tokens
//
// A token counts for at most 20 times the median of ||x||^2 of the expert's rows. The tokens of
// H_layer are those that the expert is near to (ExpertRoutes::reach), but all of them for gate and
// up if T_e < t, where H_layer is the larger part. All of them always would cost experts / top_k
// times the sums of H_e, for little: beyond its reach a token has little of p.
//
// Gate and up read rows of the block's input by token. The rows of down are made by running each
// expert on the tokens that it is near to, with the model's own layer told to choose that many.
//
// The quantized stream alone. The target W* stands for what the full-precision model makes of a
// token, but where the streams route it differently that model has no use for this expert, and the
// tokens on which they agree are a selection. It also needs a second moment of T_e tokens, which
// near T_e = columns is mostly noise.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/thread_pool.h"
#include "calibrate/expert_routes.h"
#include "calibrate/hidden_states.h"
#include "model/linear.h"
#include "quant/hessian.h"

namespace jang {

/// Where rows are kept: in memory up to a budget, else in a scratch file. Results are the same.
struct ExpertScratch {
  uint64_t memory_budget = 0;
  std::filesystem::path path;
};

/// Watches one pass over all sequences in order, then gives moments.
class ExpertMoments final : public LinearObserver {
 public:
  /// Of gate and up; `tokens`: of all sequences. Fills `routes`, which stays alive.
  static ExpertMoments of_gate_and_up(const MoeSpec& spec, ExpertRoutes& routes, int64_t tokens,
                                      const ExpertScratch& scratch, ThreadPool& pool);
  /// Of down, from a layer that chooses ExpertRoutes::reach experts; `routes` are full.
  static ExpertMoments of_down(const MoeSpec& spec, ExpertRoutes& routes,
                               const ExpertScratch& scratch, ThreadPool& pool);

  bool on_input(std::span<const LinearJob> /*jobs*/, const float* /*x*/,
                int64_t /*tokens*/) override {
    return true;
  }
  bool on_routed_input(const RoutedInput& input) override;

  /// What is kept of a layer whose experts see `tokens` tokens: the larger of both kinds, with its
  /// routes; and what shrunk() takes for a full H.
  static HiddenStates::Needs needs(const MoeSpec& spec, int64_t tokens,
                                   uint64_t memory_budget) noexcept;
  static ByteCount shrunk_bytes(int64_t columns, int64_t tokens) noexcept;

  const ExpertRoutes& routes() const noexcept { return routes_; }
  int64_t columns() const noexcept { return columns_; }
  /// H of the head of this file. At least one token chose the expert.
  Hessian shrunk(int64_t expert, HessianKind kind) const;

 private:
  ExpertMoments(ExpertRoutes& routes, bool down, int64_t columns, int64_t rows,
                const ExpertScratch& scratch, ThreadPool& pool);
  int64_t row(int64_t expert, int64_t route) const;
  void keep(const float* x, int64_t row);
  void take_blocks(const RoutedInput& input);
  void take_inner(const RoutedInput& input);
  /// A row of the sum, with what weighs it in H_e and in H_layer.
  struct Term {
    int64_t row;
    float gate, probability;
  };
  double shrinkage() const noexcept { return 0.5 * static_cast<double>(columns_); }  // t
  std::vector<Term> terms(int64_t expert) const;
  /// What weighs them in H; together T_e + t.
  std::vector<float> weights(std::span<const Term> terms, int64_t expert) const;

  ExpertRoutes& routes_;
  const bool down_;
  const int64_t columns_;
  ThreadPool& pool_;
  HiddenStates rows_;                  // a row each, by token or expert by expert
  std::vector<float> norms_;           // ||x||^2 of each
  std::vector<int64_t> first_, next_;  // of down, by expert: its first row, its next route
  int64_t tokens_ = 0;                 // of down: seen so far
};

}  // namespace jang
