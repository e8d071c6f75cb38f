// The GPTQ solver and what it is made of (Google Benchmark), each as a share of the multiply-adds
// that the same threads do on registers alone in the same run.
//
//   solver_bench --benchmark_filter='layer/.*'
//
//   product/LEVEL/f32|f64/threads  C += A^T B, 4096 x 4096 x 4096 (f64: share of half the peak)
//   layer/hessian/threads          sums of 2048 tokens of 4096 inputs
//   layer/factor/threads           permutation, Cholesky, unit factor: 4096 inputs
//   layer/STEP/threads             4096 x 4096 weights, g64, 4 bits, after the factorization: grid,
//                                  then feedback, then twice refit and descent; each includes the
//                                  steps before it, and the losses of the report
//
// "peak" counts the multiply-adds that the formulas need: sums kept for the report count too.
#include <benchmark/benchmark.h>

#include <chrono>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/large_pages.h"
#include "kernels/kernel_table.h"
#include "quant/active_kernels.h"
#include "quant/gptq.h"
#include "quant/products.h"

namespace jang::bench {
namespace {

using kernels::KernelTable;

constexpr int64_t kColumns = 4096;
constexpr int64_t kTokens = 2048;
constexpr double kCube = static_cast<double>(kColumns) * kColumns * kColumns;

// Multiply-adds a second of `threads` cores on registers, measured once a level.
double peak(const KernelTable& table, int threads) {
  static std::map<std::pair<kernels::Level, int>, double> known;
  double& rate = known[{table.level, threads}];
  if (rate > 0.0) return rate;
  ThreadPool pool(threads);
  constexpr int64_t kRounds = 20'000'000;
  for (int attempt = 0; attempt < 3; ++attempt) {
    std::vector<int64_t> done(static_cast<std::size_t>(threads));
    const auto start = std::chrono::steady_clock::now();
    pool.split(threads, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t i = begin; i < end; ++i) {
        float out = 0.0f;
        done[static_cast<std::size_t>(i)] = table.multiply_adds(kRounds, &out);
        benchmark::DoNotOptimize(out);
      }
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    double sum = 0.0;
    for (const int64_t n : done) sum += static_cast<double>(n);
    rate = std::max(rate, sum / seconds.count());
  }
  return rate;
}

void set_share(benchmark::State& state, double multiply_adds, double ceiling) {
  state.counters["GMAC/s"] =
      benchmark::Counter(multiply_adds * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["peak"] =
      benchmark::Counter(multiply_adds / ceiling, benchmark::Counter::kIsIterationInvariantRate);
}

template <typename T>
void product(benchmark::State& state, const KernelTable& table, int threads) {
  const auto size = static_cast<std::size_t>(kColumns * kColumns);
  AlignedBuffer<T> a(size), b(size), c(size);
  std::fill_n(a.data(), size, T{1});
  std::fill_n(b.data(), size, T{1});
  std::fill_n(c.data(), size, T{0});
  ThreadPool pool(threads);
  std::vector<AlignedBuffer<T>> scratch;
  for (int i = 0; i < threads; ++i) scratch.push_back(product_scratch<T>());
  for (auto _ : state) {
    pool.share(kColumns, kernels::kProductTile, [&](int64_t begin, int64_t end, int worker) {
      multiply_add<T>(table, {.a = a.data() + begin,
                              .a_depth_stride = kColumns,
                              .a_row_stride = 1,
                              .b = b.data(),
                              .b_stride = kColumns,
                              .weights = nullptr,
                              .c = c.data() + begin * kColumns,
                              .c_stride = kColumns,
                              .rows = end - begin,
                              .columns = kColumns,
                              .depth = kColumns,
                              .alpha = T{1},
                              .scratch = scratch[static_cast<std::size_t>(worker)].data()});
    });
  }
  set_share(state, kCube, peak(table, threads) * sizeof(float) / sizeof(T));
}

std::vector<float> random_floats(int64_t count, float deviation) {
  std::minstd_rand random(1);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

// Inputs with outlier channels and a few shared directions, as layers have.
const AlignedBuffer<float>& tokens() {
  static const AlignedBuffer<float> x = [] {
    const std::vector<float> random = random_floats(kTokens * kColumns, 1.0f);
    auto values = large_page_buffer<float>(random.size());
    std::copy(random.begin(), random.end(), values.data());
    for (int64_t t = 0; t < kTokens; ++t) {
      float* row = values.data() + t * kColumns;
      const float shared = row[0];
      for (int64_t j = 0; j < kColumns; ++j)
        row[j] = (row[j] + 0.7f * shared) * (j % 97 == 5 ? 8.0f : 1.0f);
    }
    return values;
  }();
  return x;
}

void hessian(benchmark::State& state, int threads) {
  ThreadPool pool(threads);
  Hessian h(kColumns, HessianKind::kFull);
  h.add(tokens().data(), kColumns, kTokens, {}, pool);
  for (auto _ : state) h.add(tokens().data(), kColumns, kTokens, {}, pool);
  set_share(state, static_cast<double>(kTokens) * kColumns * kColumns / 2,
            peak(active_kernels(), threads));
}

Hessian accumulated(ThreadPool& pool) {
  Hessian h(kColumns, HessianKind::kFull);
  for (int i = 0; i < 4; ++i) h.add(tokens().data(), kColumns, kTokens, {}, pool);
  return h;
}

void factor(benchmark::State& state, int threads) {
  ThreadPool pool(threads);
  Hessian h = accumulated(pool);
  // The first one takes fresh memory from the system, as a conversion does once.
  benchmark::DoNotOptimize(factor_hessian(h, {}, pool));
  for (auto _ : state) benchmark::DoNotOptimize(factor_hessian(h, {}, pool));
  set_share(state, kCube / 6, peak(active_kernels(), threads) / 2);
}

void solve(benchmark::State& state, const SolveOptions& options, double products, int threads) {
  ThreadPool pool(threads);
  Hessian h = accumulated(pool);
  const GptqSolver solver(h, {}, pool);
  const std::vector<float> weights = random_floats(kColumns * kColumns, 0.02f);
  const SourcePanel source = {reinterpret_cast<const std::byte*>(weights.data()), DType::kF32,
                              kColumns, kColumns};
  const AffineFormat format{4, 64, DType::kBF16};
  std::vector<std::byte> codes(kColumns * format.row_bytes(kColumns));
  std::vector<std::byte> scales(kColumns * format.row_groups(kColumns) * 2), biases(scales.size());
  SolveReport report;
  for (auto _ : state) {
    report = solver.quantize(source, format, options, {codes.data(), scales.data(), biases.data()},
                             pool);
  }
  set_share(state, products * kCube, peak(active_kernels(), threads));
  state.counters["error"] = report.error;
}

void add_all() {
  const int most = default_thread_count().threads;
  for (int threads = 1; threads <= most; threads *= 2) {
    const std::string suffix = "/" + std::to_string(threads);
    for (int i = 0; i < kernels::kLevels; ++i) {
      const auto level = static_cast<kernels::Level>(i);
      const KernelTable* table = kernels::table_for(level);
      if (level == kernels::Level::kReference || table == nullptr) continue;
      const std::string name = std::string("product/") + kernels::level_name(level);
      benchmark::RegisterBenchmark((name + "/f32" + suffix).c_str(), product<float>,
                                   std::cref(*table), threads)
          ->UseRealTime();
      benchmark::RegisterBenchmark((name + "/f64" + suffix).c_str(), product<double>,
                                   std::cref(*table), threads)
          ->UseRealTime();
    }
    const auto layer = [&](const char* step, auto&&... arguments) {
      benchmark::RegisterBenchmark((std::string("layer/") + step + suffix).c_str(), arguments...,
                                   threads)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    };
    layer("hessian", hessian);
    layer("factor", factor);
    // Products of n^3, half of one for each loss: two (of the target and of plain rounding); half
    // for the feedback and one more loss; two rounds of two and the last loss.
    layer("grid", solve, SolveOptions{.feedback = false, .polish_rounds = 0}, 1.0);
    layer("feedback", solve, SolveOptions{.polish_rounds = 0}, 2.0);
    layer("all", solve, SolveOptions{}, 6.5);
  }
}

}  // namespace
}  // namespace jang::bench

int main(int argc, char** argv) {
  jang::bench::add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
