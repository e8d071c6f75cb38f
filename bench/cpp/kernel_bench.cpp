// The linear kernels one operation at a time, at every level of this machine (Google Benchmark).
//
//   kernel_bench --benchmark_filter='decode/avx512/.*'
//
//   read/threads                       GB/s of a read-only pass: the ceiling of decode
//   decode/LEVEL/bits/group/threads    one token, a matrix larger than the caches; GB/s
//   decode_l2/LEVEL/bits/group         one token, a matrix that stays in L2; GB/s of one thread
//   prefill/LEVEL/bits/group/tokens    TOPS of one thread
//   exact/LEVEL/bits/tokens            the same with f32 activations
//   dense/LEVEL/tokens                 bf16 weights and f32 activations: TOPS of one thread, and
//                                      GB/s where one token streams a matrix larger than the caches
//   round/LEVEL                        activations to int8, 4096 floats
#include <benchmark/benchmark.h>

#include <string>

#include "base/thread_pool.h"
#include "kernel_cases.h"

namespace jang::bench {
namespace {

using kernels::KernelTable;
using kernels::Level;

constexpr int64_t kColumns = 4096;
constexpr int kBits[] = {2, 3, 4, 5, 6, 8};

int64_t rows_of(int64_t bytes, int bits) { return bytes / (kColumns / 8 * bits) / 16 * 16; }

void set_bytes(benchmark::State& state, std::size_t bytes) {
  state.counters["GB/s"] = benchmark::Counter(static_cast<double>(bytes) * 1e-9,
                                              benchmark::Counter::kIsIterationInvariantRate);
}

void set_operations(benchmark::State& state, int64_t rows, int64_t tokens) {
  state.counters["TOPS"] = benchmark::Counter(2e-12 * static_cast<double>(rows * kColumns * tokens),
                                              benchmark::Counter::kIsIterationInvariantRate);
}

// With the widest registers of this machine, whatever level is measured beside it.
void read_pass(benchmark::State& state, const KernelTable& widest, int threads) {
  const RandomMatrix matrix(rows_of(96 << 20, 4), kColumns, 4, 64);
  ThreadPool pool(threads);
  for (auto _ : state) {
    pool.split(
        static_cast<int64_t>(matrix.bytes().size()), 4096,
        [&](int64_t begin, int64_t end, int /*worker*/) {
          benchmark::DoNotOptimize(widest.sum_words(matrix.bytes().data() + begin, end - begin));
        });
  }
  set_bytes(state, matrix.bytes().size());
}

void decode(benchmark::State& state, const KernelTable& table, int bits, int group, int64_t bytes,
            int threads) {
  LinearCase linear(table, rows_of(bytes, bits), kColumns, bits, group, 1);
  ThreadPool pool(threads);
  for (auto _ : state) {
    pool.split(linear.affine().rows, 16,
               [&](int64_t begin, int64_t end, int /*worker*/) { linear.fast(begin, end); });
  }
  set_bytes(state, linear.bytes().size());
}

void prefill(benchmark::State& state, const KernelTable& table, int bits, int group,
             int64_t tokens) {
  constexpr int64_t kRows = 256;
  LinearCase linear(table, kRows, kColumns, bits, group, tokens);
  const int64_t block = table.row_block();
  for (auto _ : state) {
    for (int64_t row = 0; row < kRows; row += block) linear.fast(row, row + block);
  }
  set_operations(state, kRows, tokens);
}

void exact(benchmark::State& state, const KernelTable& table, int bits, int64_t tokens) {
  constexpr int64_t kRows = 256;
  LinearCase linear(table, kRows, kColumns, bits, 64, tokens);
  for (auto _ : state) {
    for (int64_t row = 0; row < kRows; row += 64) linear.exact(row, row + 64);
  }
  set_operations(state, kRows, tokens);
}

void dense(benchmark::State& state, const KernelTable& table, int64_t tokens) {
  const int64_t rows = tokens == 1 ? (int64_t{96} << 20) / (2 * kColumns) : 256;
  DenseCase matrix(table, rows, kColumns, tokens);
  const int64_t block = tokens == 1 ? rows : table.row_block();
  for (auto _ : state) {
    for (int64_t row = 0; row < rows; row += block) matrix.multiply(row, row + block);
  }
  set_operations(state, rows, tokens);
  set_bytes(state, matrix.bytes().size());
}

void round_activations(benchmark::State& state, const KernelTable& table) {
  LinearCase linear(table, 16, kColumns, 4, 64, 1);
  for (auto _ : state) linear.round_activations();
}

void add_level(const KernelTable& table, int most_threads) {
  const std::string level = kernels::level_name(table.level);
  const auto name = [&](const char* what, std::initializer_list<int64_t> numbers) {
    std::string text = std::string(what) + "/" + level;
    for (const int64_t n : numbers) text += "/" + std::to_string(n);
    return text;
  };
  for (const int bits : kBits) {
    for (const int group : {64, 128}) {
      for (int threads = 1; threads <= most_threads; threads *= 2) {
        benchmark::RegisterBenchmark(name("decode", {bits, group, threads}).c_str(), decode,
                                     std::cref(table), bits, group, int64_t{96} << 20, threads)
            ->UseRealTime();
      }
    }
    benchmark::RegisterBenchmark(name("decode_l2", {bits, 64}).c_str(), decode, std::cref(table),
                                 bits, 64, int64_t{600} << 10, 1);
    for (const int64_t tokens : {2, 4, 8, 16, 32, 512}) {
      benchmark::RegisterBenchmark(name("prefill", {bits, 64, tokens}).c_str(), prefill,
                                   std::cref(table), bits, 64, tokens);
    }
    for (const int64_t tokens : {1, 512}) {
      benchmark::RegisterBenchmark(name("exact", {bits, tokens}).c_str(), exact, std::cref(table),
                                   bits, tokens);
    }
  }
  for (const int64_t tokens : {1, 16, 512}) {
    benchmark::RegisterBenchmark(name("dense", {tokens}).c_str(), dense, std::cref(table), tokens);
  }
  benchmark::RegisterBenchmark(name("round", {}).c_str(), round_activations, std::cref(table));
}

void add_all() {
  const int most_threads = default_thread_count().threads;
  const char* message = nullptr;
  const KernelTable& widest = *kernels::choose_table(nullptr, &message);
  for (int threads = 1; threads <= most_threads; threads *= 2) {
    benchmark::RegisterBenchmark(("read/" + std::to_string(threads)).c_str(), read_pass,
                                 std::cref(widest), threads)
        ->UseRealTime();
  }
  for (int i = 0; i < kernels::kLevels; ++i) {
    const auto level = static_cast<Level>(i);
    if (level == Level::kReference) continue;
    if (const KernelTable* table = kernels::table_for(level)) add_level(*table, most_threads);
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
