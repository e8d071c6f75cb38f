#include "calibrate/expert_solve.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "calibrate/moments.h"
#include "calibrate/stored_matrix.h"
#include "quant/quantize.h"

namespace jang {
namespace {

// What an expert is solved with: at most one of the two.
struct Tools {
  ExpertWay way;
  std::optional<GptqSolver> solver;
  std::vector<float> weights;
};

Tools tools_of(const ExpertMoments& moments, int64_t expert, ThreadPool& pool) {
  Tools tools{expert_way(moments.routes().chosen(expert), moments.columns()), {}, {}};
  if (tools.way == ExpertWay::kSolved) {
    Hessian hessian = moments.shrunk(expert, HessianKind::kFull);
    tools.solver.emplace(hessian, FactorOptions{}, pool);
  } else if (tools.way == ExpertWay::kWeighted) {
    tools.weights = column_weights(moments.shrunk(expert, HessianKind::kDiagonal));
  }
  return tools;
}

// Adds what happened to `record`, whose lambda and error are sums so far.
void quantize(const Tools& tools, const ExpertStack& stack, int64_t expert,
              const SolveOptions& options, SolverRecord& record, ThreadPool& pool) {
  const SourcePanel values = stack.read(expert);
  const AffinePanel out =
      rows_of(stack.out, stack.format, static_cast<uint64_t>(expert) * values.rows, values.columns);
  if (tools.way == ExpertWay::kSolved) {
    const SolveReport report = tools.solver->quantize(values, stack.format, options, out, pool);
    record.lambda += report.lambda;
    record.error += report.error;
    ++record.experts->solved;
    return;
  }
  quantize_matrix(values, stack.format, Method::kMse, out, pool, tools.weights);
  ++(tools.way == ExpertWay::kWeighted ? record.experts->weighted : record.experts->plain);
}

}  // namespace

ExpertWay expert_way(int64_t tokens, int64_t columns) noexcept {
  if (tokens == 0) return ExpertWay::kPlain;
  return 4 * tokens < columns ? ExpertWay::kWeighted : ExpertWay::kSolved;
}

std::vector<SolverRecord> solve_experts(const ExpertMoments& moments,
                                        std::span<const ExpertStack> stacks,
                                        const SolveOptions& options,
                                        const std::function<void()>& poll, ThreadPool& pool) {
  std::vector<SolverRecord> records(stacks.size());
  for (SolverRecord& record : records) record.experts.emplace();
  for (int64_t expert = 0; expert < moments.routes().experts(); ++expert) {
    poll();
    std::size_t stack = 0;
    try {
      const Tools tools = tools_of(moments, expert, pool);
      for (; stack < stacks.size(); ++stack)
        quantize(tools, stacks[stack], expert, options, records[stack], pool);
    } catch (const Error& error) {
      if (!error.tensor().empty() || !error.file().empty()) throw;
      throw Error(error.code(), {}, stacks[stack].name,
                  "expert " + std::to_string(expert) + ": " + error.message(), error.hint());
    }
  }
  for (SolverRecord& record : records) {
    const auto solved = static_cast<double>(record.experts->solved);
    record.solver = solved > 0.0 ? "gptq" : "mse";
    record.lambda = solved > 0.0 ? record.lambda / solved : 0.0;
    record.error = solved > 0.0 ? record.error / solved : 0.0;
  }
  return records;
}

ExpertCoverage expert_coverage(std::vector<int64_t> tokens) {
  JANG_ASSERT(!tokens.empty());
  std::sort(tokens.begin(), tokens.end());
  const std::size_t last = tokens.size() - 1;
  return {tokens.size(), static_cast<uint64_t>(tokens.front()),
          static_cast<uint64_t>(tokens[last / 100]), static_cast<uint64_t>(tokens[last / 2])};
}

std::string coverage_warning(const ExpertCoverage& coverage, const ExpertWays& ways) {
  const uint64_t few = ways.weighted + ways.plain;
  if (few == 0) return {};
  const auto text = [](uint64_t number) { return std::to_string(number); };
  return text(few) + " of " + text(few + ways.solved) +
         " expert matrices met fewer tokens than a quarter of their columns and were quantized by"
         " mse, " +
         text(ways.plain) + " of them without any token to weigh columns by; tokens per expert: " +
         text(coverage.least) + " at least, 1 % have at most " + text(coverage.low) + ", median " +
         text(coverage.median) + ": a longer calibration text reaches more";
}

}  // namespace jang
