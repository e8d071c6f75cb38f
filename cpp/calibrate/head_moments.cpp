#include "calibrate/head_moments.h"

#include "calibrate/stored_matrix.h"

namespace jang {

HeadMoments::HeadMoments(const StackSpec& stack, HessianKind kind, bool two_streams,
                         int64_t sequences)
    : columns_(stack.in) {
  heads_.reserve(static_cast<std::size_t>(stack.count));
  for (int64_t h = 0; h < stack.count; ++h)
    heads_.emplace_back(stack.in, kind, two_streams, sequences);
}

void HeadMoments::add(int64_t sequence, const float* quantized, const float* full, int64_t tokens,
                      ThreadPool& pool) {
  int64_t first = 0;
  for (InputMoments& head : heads_) {
    head.add(sequence, quantized + first, full == nullptr ? nullptr : full + first, tokens, pool);
    first += tokens * columns_;
  }
}

LinearSums HeadMoments::sums() const {
  LinearSums out;
  for (const InputMoments& head : heads_) {
    for (int64_t j = 0; j < columns_; ++j) out.sum_x2.push_back(head.hessian().diagonal(j));
    out.count.push_back(static_cast<int64_t>(head.hessian().tokens()));
  }
  return out;
}

SolverRecord HeadMoments::solve(const AffineFormat& format, const SolveOptions& options,
                                const std::function<SourcePanel(int64_t head)>& read,
                                const AffinePanel& out, const std::function<void()>& poll,
                                ThreadPool& pool) {
  SolverRecord record{"gptq"};
  const auto count = static_cast<double>(heads_.size());
  for (std::size_t h = 0; h < heads_.size(); ++h) {
    poll();
    const GptqSolver solver = heads_[h].solver(pool);
    const SourcePanel values = read(static_cast<int64_t>(h));
    const SolveReport report = solver.quantize(
        values, format, options, rows_of(out, format, h * values.rows, values.columns), pool);
    record.lambda += report.lambda / count;
    record.alpha += report.alpha / count;
    record.error += report.error / count;
  }
  return record;
}

}  // namespace jang
