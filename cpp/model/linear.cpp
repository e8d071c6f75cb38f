#include "model/linear.h"

#include <algorithm>

#include "quant/active_kernels.h"

namespace jang {
namespace {

// Rows handed out at a time: whole cache lines of output for few tokens, for more a block whose
// unpacked rows stay in L2.
constexpr int64_t kDecodeRows = 16;
constexpr int64_t kPrefillRows = 64;
// A level may ask for more rows (row_block), and gets them as long as each thread still finds this
// many blocks, so that all are busy to the end.
constexpr int64_t kBlocksPerThread = 4;
constexpr int64_t kFewTokens = 4;
// Up to here weights come from memory faster than they are used: each thread reads one stream.
constexpr int64_t kStreamedTokens = 32;

int64_t prefill_rows(int64_t all_rows, int64_t wanted, int threads) {
  int64_t block = kPrefillRows;
  while (2 * block <= wanted && all_rows >= 2 * block * kBlocksPerThread * threads) block *= 2;
  return block;
}

int64_t rows_of(const LinearJob& job, const LinearInput& input) {
  return job.rows != 0 ? job.rows : input.rows();
}

}  // namespace

LinearRunner::LinearRunner(ThreadPool& pool, Precision precision)
    : pool_(pool),
      kernels_(active_kernels()),
      input_precision_(precision),
      input_(pool, precision),
      exact_input_(pool, Precision::kExact) {}

void LinearRunner::multiply(const LinearJob& job, const LinearInput& input, int64_t row_begin,
                            int64_t row_end) const {
  const LinearWeight& weight = *job.weight;
  const int64_t tokens = rows_of(job, input);
  if (const auto* dense = std::get_if<kernels::DenseMatrix>(&weight.matrix)) {
    kernels_.dense_matmul(*dense, input.floats(job.first), dense->columns, tokens, job.out,
                          job.stride, row_begin, row_end);
  } else {
    const auto& affine = std::get<kernels::AffineMatrix>(weight.matrix);
    if (input.rounds(weight)) {
      kernels_.affine_matmul_int8(affine, input.codes(affine, job.first), tokens, job.out,
                                  job.stride, row_begin, row_end);
    } else {
      kernels_.affine_matmul(affine, input.floats(job.first), affine.columns, tokens, job.out,
                             job.stride, row_begin, row_end);
    }
  }
  if (!weight.factors.empty()) {
    const float* const factors = weight.factors.data();
    for (int64_t t = 0; t < tokens; ++t) {
      float* const row = job.out + t * job.stride;
      for (int64_t i = row_begin; i < row_end; ++i) row[i] *= factors[i];
    }
  }
  if (weight.bias.empty()) return;
  for (int64_t t = 0; t < tokens; ++t) {
    kernels_.add(job.out + t * job.stride + row_begin, weight.bias.data() + row_begin,
                 row_end - row_begin);
  }
}

bool LinearRunner::run(std::span<const LinearJob> jobs, const float* x, int64_t tokens) {
  if (observer_ != nullptr && !observer_->on_input(jobs, x, tokens)) return false;
  input_.set(x, tokens, jobs.front().weight->columns);
  for (const LinearJob& job : jobs) input_.prepare(*job.weight);
  run(jobs, input_);
  return true;
}

bool LinearRunner::run_exact(std::span<const LinearJob> jobs, const float* x, int64_t tokens) {
  if (observer_ != nullptr && !observer_->on_input(jobs, x, tokens)) return false;
  exact_input_.set(x, tokens, jobs.front().weight->columns);
  for (const LinearJob& job : jobs) exact_input_.prepare(*job.weight);
  run(jobs, exact_input_);
  return true;
}

void LinearRunner::count_sets(std::span<const LinearJob> jobs) {
  int64_t sets = 0;
  for (const LinearJob& job : jobs) sets = std::max(sets, job.set + 1);
  if (static_cast<std::size_t>(sets) > unfinished_.size())
    unfinished_ = std::vector<std::atomic<int64_t>>(static_cast<std::size_t>(sets));
  for (int64_t set = 0; set < sets; ++set)
    unfinished_[static_cast<std::size_t>(set)].store(0, std::memory_order_relaxed);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    unfinished_[static_cast<std::size_t>(jobs[i].set)].fetch_add(starts_[i + 1] - starts_[i],
                                                                 std::memory_order_relaxed);
  }
}

void LinearRunner::run(std::span<const LinearJob> jobs, const LinearInput& input,
                       const std::function<void(int64_t)>& finish) {
  int64_t most = 0, least = rows_of(jobs.front(), input);
  for (const LinearJob& job : jobs) {
    most = std::max(most, rows_of(job, input));
    least = std::min(least, rows_of(job, input));
  }
  // One range over blocks of all jobs, so that small matrices do not end a region each.
  int64_t all_rows = 0;
  for (const LinearJob& job : jobs) all_rows += job.weight->rows;
  const int64_t block =
      most <= kFewTokens ? kDecodeRows : prefill_rows(all_rows, kernels_.row_block(), pool_.size());
  starts_.assign(1, 0);
  for (const LinearJob& job : jobs)
    starts_.push_back(starts_.back() + (job.weight->rows + block - 1) / block);
  if (finish) count_sets(jobs);

  auto work = [&](int64_t begin, int64_t end, int /*worker*/) {
    const auto above = std::upper_bound(starts_.begin(), starts_.end(), begin);
    for (auto i = static_cast<std::size_t>(above - starts_.begin()) - 1; begin < end; ++i) {
      const LinearJob& job = jobs[i];
      const int64_t to = std::min(end, starts_[i + 1]);
      multiply(job, input, (begin - starts_[i]) * block,
               std::min((to - starts_[i]) * block, job.weight->rows));
      const int64_t done = to - begin;
      begin = to;
      // The thread that brings the count to zero has seen all others count down before.
      if (finish && unfinished_[static_cast<std::size_t>(job.set)].fetch_sub(
                        done, std::memory_order_acq_rel) == done) {
        finish(job.set);
      }
    }
  };
  // Jobs of unlike numbers of tokens cost unlike times a block once arithmetic counts.
  const bool even = most == least ? most <= kStreamedTokens : most <= kFewTokens;
  if (even) {
    pool_.split(starts_.back(), 1, work);
  } else {
    pool_.share(starts_.back(), 1, work);
  }
}

}  // namespace jang
