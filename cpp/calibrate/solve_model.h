// Quantizes a whole model against its own activations, layer by layer: each tensor is solved for
// the inputs that it will see once everything before it is quantized.
//
// Relies on a source directory that the runtime can run and on a plan for its tensors; leaves
// reading of source values, writing and progress to its user. Memory: the hidden states or a
// scratch file, and one branch with the moments of one of its inputs; of a routed branch its inputs
// or its experts' beside them, in memory or in a scratch file likewise.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arch/directory.h"
#include "base/thread_pool.h"
#include "calibrate/calibration_tokens.h"
#include "calibrate/hidden_states.h"
#include "plan/plan.h"
#include "plan/plan_document.h"
#include "quant/gptq.h"

namespace jang {

/// How far a solve has come between two layers: with the hidden states, all that it takes to go on.
struct SolvePosition {
  uint64_t layers = 0;                 // that are done; one more than there are: the head is, too
  uint64_t stored = 0;                 // tensors that `store` was called for
  std::vector<int64_t> expert_tokens;  // of each expert met so far
  ExpertWays expert_ways;
};

/// Where an earlier solve of the same model, plan, tokens and options stopped.
struct SolveStart {
  SolvePosition position;
  /// What a stream's HiddenStates held: stream 0 is the quantized one, 1 the other.
  std::function<void(std::size_t stream, int64_t sequence, float* rows)> load;
};

struct SolveModelOptions {
  SolveOptions solver;
  bool two_streams = true;                     // a full-precision stream beside the quantized one
  uint64_t memory_budget = uint64_t{4} << 30;  // of each stream's hidden states; of experts' rows
  std::filesystem::path scratch_directory;     // for those beyond it
  std::optional<SolveStart> start;             // goes on from there, to the same bytes
  /// Ends behind so many layers, one of solve_stops(); nullopt: behind the head.
  std::optional<uint64_t> stop;
};

struct SolveModelHooks {
  /// All values of a planned tensor, finite, in the dtype to quantize from; valid until the next
  /// call.
  std::function<SourcePanel(uint32_t planned)> read;
  /// The same of rows [first, first + rows) of a stack, whose experts lie one behind the other.
  std::function<SourcePanel(uint32_t planned, uint64_t first, uint64_t rows)> read_rows;
  /// Called once for every tensor with a format, but for lattices. The bytes live only for the
  /// call.
  std::function<void(uint32_t planned, const AffinePanel&, const SolverRecord&)> store;
  /// Called several times a second; may throw to stop.
  std::function<void()> poll;
  /// Called behind every layer with the states of each stream, and behind the head with none. May
  /// be empty.
  std::function<void(const SolvePosition&, std::span<const HiddenStates* const> streams)> behind;
};

struct SolveModelReport {
  std::vector<std::string> warnings;
  std::optional<ExpertCoverage> experts;  // of a model whose experts have a format
};

/// `source` is a plain directory and `plan` one for it; tensors that it says lie on lattices are
/// left to the caller. Throws kUnsupportedModel for families that
/// cannot be run, kArgument for tokens that do not fit the model, and what solving finds, with the
/// tensor's name.
SolveModelReport solve_model(const ModelDirectory& source, const Plan& plan,
                             const CalibrationTokens& tokens, const SolveModelOptions& options,
                             const SolveModelHooks& hooks, ThreadPool& pool);

}  // namespace jang
