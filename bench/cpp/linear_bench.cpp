// Speed of the linear kernels at every level of this machine: decode in GB/s of weights beside a
// read-only pass over the same memory, prefill in GFLOPS.
//
//   linear_bench [rows columns]     (default 16384 x 4096: each width streams more than a usual L3)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"

namespace {

using jang::AlignedBuffer;
using jang::ThreadPool;
using namespace jang::kernels;

double seconds_of(auto&& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Median of five, after one run that warms up.
double median_seconds(auto&& run) {
  run();
  double seconds[5];
  for (double& s : seconds) s = seconds_of(run);
  std::sort(seconds, seconds + 5);
  return seconds[2];
}

uint64_t sum_words(const uint8_t* begin, const uint8_t* end) {
  uint64_t sum[8] = {};
  for (; begin + 64 <= end; begin += 64) {
    uint64_t words[8];
    std::memcpy(words, begin, sizeof words);
    for (int i = 0; i < 8; ++i) sum[i] += words[i];
  }
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

struct Matrix {
  AlignedBuffer<uint8_t> bytes;
  AffineMatrix affine{};

  Matrix(int64_t rows, int64_t columns, int bits, int group) {
    const int64_t code_bytes = rows * columns / 8 * bits;
    const int64_t metadata_bytes = rows * columns / group * 2;
    bytes = AlignedBuffer<uint8_t>(static_cast<std::size_t>(code_bytes + 2 * metadata_bytes));
    uint32_t state = 1;
    for (uint8_t& byte : bytes.span()) {
      state = state * 1664525u + 1013904223u;
      byte = static_cast<uint8_t>(state >> 24);
    }
    for (int64_t i = code_bytes; i < code_bytes + 2 * metadata_bytes; i += 2) {
      const uint16_t small = 0x3c23;  // bf16 0.01
      std::memcpy(bytes.data() + i, &small, 2);
    }
    affine = {bytes.data(),
              bytes.data() + code_bytes,
              bytes.data() + code_bytes + metadata_bytes,
              rows,
              columns,
              bits,
              group,
              FloatType::kBF16};
  }
};

volatile uint64_t sink;

void decode(const KernelTable& table, const Matrix& m, ThreadPool& pool, const float* x, float* y) {
  const auto bytes = static_cast<double>(m.bytes.size());
  const double read = median_seconds([&] {
    pool.split(static_cast<int64_t>(m.bytes.size()), 4096, [&](int64_t begin, int64_t end, int) {
      sink = sum_words(m.bytes.data() + begin, m.bytes.data() + end);
    });
  });
  const double run = median_seconds([&] {
    pool.split(m.affine.rows, 16, [&](int64_t begin, int64_t end, int) {
      table.affine_matmul(m.affine, x, m.affine.columns, 1, y, m.affine.rows, begin, end);
    });
  });
  std::printf("  %5.1f (%3.0f%%)", bytes / run / 1e9, 100.0 * read / run);
}

void prefill(const KernelTable& table, const Matrix& m, ThreadPool& pool, int64_t tokens,
             const float* x, float* y) {
  const int64_t rows = std::min<int64_t>(m.affine.rows, 1024);
  const double run = seconds_of([&] {
    pool.share((rows + 63) / 64, 1, [&](int64_t begin, int64_t end, int) {
      table.affine_matmul(m.affine, x, m.affine.columns, tokens, y, m.affine.rows, begin * 64,
                          std::min(end * 64, rows));
    });
  });
  std::printf("  %5.0f", 2e-9 * static_cast<double>(rows * m.affine.columns * tokens) / run);
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t rows = argc > 2 ? std::atoll(argv[1]) : 16384;
  const int64_t columns = argc > 2 ? std::atoll(argv[2]) : 4096;
  constexpr int64_t kTokens = 512;
  AlignedBuffer<float> x(static_cast<std::size_t>(kTokens * columns));
  AlignedBuffer<float> y(static_cast<std::size_t>(kTokens * rows));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8.0f;
  const int most = jang::default_thread_count().threads;
  std::printf("%lld x %lld, g64, bf16 metadata; decode GB/s (share of read-only), prefill GFLOPS\n",
              static_cast<long long>(rows), static_cast<long long>(columns));
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const Matrix m(rows, columns, bits, 64);
    for (const Level level : {Level::kBaseline, Level::kAvx2, Level::kAvx512, Level::kNeon}) {
      const KernelTable* table = table_for(level);
      if (table == nullptr) continue;
      std::printf("b%d %-9s decode", bits, level_name(level));
      for (int threads = 1; threads <= most; threads *= 2) {
        ThreadPool pool(threads);
        decode(*table, m, pool, x.data(), y.data());
      }
      std::printf("  prefill 1 thread, T=2,4,16,512:");
      ThreadPool pool(1);
      for (const int64_t tokens : {2, 4, 16, 512})
        prefill(*table, m, pool, tokens, x.data(), y.data());
      std::printf("\n");
    }
  }
  return 0;
}
