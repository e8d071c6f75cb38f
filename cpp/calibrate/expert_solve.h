// Quantizes stacks of routed experts, expert by expert, each into its slice: gptq where enough
// tokens chose an expert, below a quarter of the columns a search of grids weighted by the diagonal
// of the same moments, and without any token the plain search.
//
// Relies on ExpertMoments for H; leaves the stacks' bytes and what they replace to solve_model.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "calibrate/expert_moments.h"
#include "plan/plan_document.h"
#include "quant/gptq.h"

namespace jang {

struct ExpertStack {
  std::string name;                                 // for errors
  AffineFormat format;                              // one for all experts
  std::function<SourcePanel(int64_t expert)> read;  // its rows; valid until any stack's next call
  AffinePanel out;                                  // of all experts, one behind the other
};

enum class ExpertWay { kSolved, kWeighted, kPlain };
/// By how many tokens chose an expert whose matrices have so many columns.
ExpertWay expert_way(int64_t tokens, int64_t columns) noexcept;

/// Stacks that read the moments' input; they share the factorization of each expert. `poll` is
/// called before each expert. Errors name the stack. A record for each stack.
std::vector<SolverRecord> solve_experts(const ExpertMoments& moments,
                                        std::span<const ExpertStack> stacks,
                                        const SolveOptions& options,
                                        const std::function<void()>& poll, ThreadPool& pool);

/// `tokens`: that chose each expert of each layer, one or more.
ExpertCoverage expert_coverage(std::vector<int64_t> tokens);

/// What to warn of, or empty: `ways` of all stacks.
std::string coverage_warning(const ExpertCoverage& coverage, const ExpertWays& ways);

}  // namespace jang
