#include "model/linear.h"

#include <algorithm>

#include "quant/active_kernels.h"

namespace jang {
namespace {

// Rows handed out at a time: whole cache lines of output, and for prefill a block whose unpacked
// rows stay in L2.
constexpr int64_t kDecodeRows = 16;
constexpr int64_t kPrefillRows = 64;

}  // namespace

LinearRunner::LinearRunner(ThreadPool& pool) : pool_(pool), kernels_(active_kernels()) {}

void LinearRunner::run(std::span<const LinearJob> jobs, const float* x, int64_t tokens) {
  const int64_t columns = jobs.front().weight->columns;
  // One range over blocks of all jobs, so that small matrices do not end a region each.
  const int64_t block = tokens == 1 ? kDecodeRows : kPrefillRows;
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
      if (const auto* affine = std::get_if<kernels::AffineMatrix>(&job.weight->matrix)) {
        kernels_.affine_matmul(*affine, x, columns, tokens, job.out, job.stride, row_begin,
                               row_end);
      } else {
        kernels_.dense_matmul(std::get<kernels::DenseMatrix>(job.weight->matrix), x, columns,
                              tokens, job.out, job.stride, row_begin, row_end);
      }
      if (job.weight->bias.empty()) continue;
      for (int64_t t = 0; t < tokens; ++t) {
        kernels_.add(job.out + t * job.stride + row_begin, job.weight->bias.data() + row_begin,
                     row_end - row_begin);
      }
    }
  };
  if (tokens == 1) {
    pool_.split(blocks, 1, work);
  } else {
    pool_.share(blocks, 1, work);
  }
}

}  // namespace jang
