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

}  // namespace

LinearRunner::LinearRunner(ThreadPool& pool, Precision precision)
    : pool_(pool),
      kernels_(active_kernels()),
      precision_(precision),
      rounded_(pool, active_kernels()) {}

void LinearRunner::multiply(const LinearJob& job, const float* x, int64_t tokens, int64_t row_begin,
                            int64_t row_end) const {
  if (const auto* dense = std::get_if<kernels::DenseMatrix>(&job.weight->matrix)) {
    kernels_.dense_matmul(*dense, x, dense->columns, tokens, job.out, job.stride, row_begin,
                          row_end);
    return;
  }
  const auto& affine = std::get<kernels::AffineMatrix>(job.weight->matrix);
  if (precision_ == Precision::kExact) {
    kernels_.affine_matmul(affine, x, affine.columns, tokens, job.out, job.stride, row_begin,
                           row_end);
  } else {
    kernels_.affine_matmul_int8(affine, rounded_.get(affine.bits, affine.group), tokens, job.out,
                                job.stride, row_begin, row_end);
  }
}

void LinearRunner::run(std::span<const LinearJob> jobs, const float* x, int64_t tokens) {
  if (precision_ == Precision::kFast) {
    rounded_.set_input(x, tokens, jobs.front().weight->columns);
    for (const LinearJob& job : jobs) {
      if (const auto* affine = std::get_if<kernels::AffineMatrix>(&job.weight->matrix))
        rounded_.prepare(affine->bits, affine->group);
    }
  }
  // One range over blocks of all jobs, so that small matrices do not end a region each.
  int64_t rows = 0;
  for (const LinearJob& job : jobs) rows += job.weight->rows;
  const int64_t block =
      tokens <= kFewTokens ? kDecodeRows : prefill_rows(rows, kernels_.row_block(), pool_.size());
  int64_t blocks = 0;
  for (const LinearJob& job : jobs) blocks += (job.weight->rows + block - 1) / block;

  auto work = [&](int64_t begin, int64_t end, int /*worker*/) {
    int64_t first = 0;
    for (const LinearJob& job : jobs) {
      const int64_t count = (job.weight->rows + block - 1) / block;
      const int64_t from = std::max(begin, first) - first;
      const int64_t to = std::min(end, first + count) - first;
      first += count;
      if (from >= to) continue;
      const int64_t row_begin = from * block;
      const int64_t row_end = std::min(to * block, job.weight->rows);
      multiply(job, x, tokens, row_begin, row_end);
      if (job.weight->bias.empty()) continue;
      for (int64_t t = 0; t < tokens; ++t) {
        kernels_.add(job.out + t * job.stride + row_begin, job.weight->bias.data() + row_begin,
                     row_end - row_begin);
      }
    }
  };
  if (tokens <= kStreamedTokens) {
    pool_.split(blocks, 1, work);
  } else {
    pool_.share(blocks, 1, work);
  }
}

}  // namespace jang
