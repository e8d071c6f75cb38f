// The order of a solve without running it: where it can be cut, and between which cuts each tensor
// of a plan is made.
//
// Positions count layers that are done, as SolvePosition does: 0 is before the first, one more than
// there are layers behind the head.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/spec.h"
#include "plan/plan.h"

namespace jang {

/// Positions at which hidden states alone say how to go on, ascending; the last is the end, behind
/// the head.
std::vector<uint64_t> solve_stops(const ModelSpec& spec);

/// For every tensor of the plan the position at which it is done: 0 for what lies before the first
/// layer. A tied embedding that is solved is done with the head.
std::vector<uint64_t> tensor_positions(const ModelSpec& spec, const Plan& plan);

}  // namespace jang
