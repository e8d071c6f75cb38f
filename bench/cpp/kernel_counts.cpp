// One kernel call inside a function of its own, for an instruction counter to watch:
//
//   JANG_ISA=avx2 valgrind --tool=callgrind --toggle-collect=counted_region kernel_counts linear 4
//   64 8
//
//   linear BITS GROUP TOKENS      64 rows x 1024 columns in fast precision
//   round GROUP TOKENS            activations of 1024 columns to int8
//   attention QUERIES KEYS        one kv head, 128 channels, f32 cache
//
// tools/instruction_gate.py runs all cases and compares them with bench/instruction_counts.json.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernel_cases.h"

namespace {

using namespace jang;

constexpr int64_t kRows = 64, kColumns = 1024, kDim = 128;

/// A history of f32 keys and values, and as many queries at its end.
class AttentionCase {
 public:
  AttentionCase(const kernels::KernelTable& table, int queries, int64_t keys)
      : table_(table), positions_(static_cast<std::size_t>(queries), keys - 1) {
    const int64_t blocks = (keys + kernels::kKvBlock - 1) / kernels::kKvBlock;
    storage_.assign(static_cast<std::size_t>(2 * blocks * kernels::kKvBlock * kDim), 0.01f);
    floats_.assign(static_cast<std::size_t>(queries * (2 * kDim + 2) +
                                            kernels::attention_scratch(queries, kDim)),
                   0.0f);
    for (int64_t b = 0; b < 2 * blocks; ++b)
      blocks_.push_back(
          reinterpret_cast<const uint8_t*>(storage_.data() + b * kernels::kKvBlock * kDim));
    float* next = floats_.data();
    const auto take = [&](int64_t n) { return (next += n) - n; };
    task_.queries = take(queries * kDim);
    task_.query_stride = kDim;
    task_.positions = positions_.data();
    task_.n_queries = queries;
    task_.kv.key_blocks = blocks_.data();
    task_.kv.value_blocks = blocks_.data() + blocks;
    task_.kv.type = kernels::KvType::kF32;
    task_.kv.length = keys;
    task_.kv.key_dim = task_.kv.value_dim = static_cast<int>(kDim);
    task_.key_end = keys;
    task_.scale = 0.1f;
    task_.state.max = take(queries);
    task_.state.sum = take(queries);
    task_.state.acc = take(queries * kDim);
    task_.scratch = take(kernels::attention_scratch(queries, kDim));
    for (int q = 0; q < queries; ++q) task_.state.max[q] = -__builtin_inff();
  }
  void run() { table_.attend(task_); }

 private:
  const kernels::KernelTable& table_;
  std::vector<int64_t> positions_;
  std::vector<float> storage_, floats_;
  std::vector<const uint8_t*> blocks_;
  kernels::AttentionTask task_{};
};

}  // namespace

extern "C" [[gnu::noinline]] void counted_region(void (*run)(void*), void* object) { run(object); }

namespace {

template <typename F>
void count(F f) {
  f();  // first use of pages and of lazily made tables
  counted_region([](void* object) { (*static_cast<F*>(object))(); }, &f);
}

}  // namespace

int main(int argc, char** argv) {
  const char* message = nullptr;
  const kernels::KernelTable* table = kernels::active_table(&message);
  if (table == nullptr) return std::fprintf(stderr, "%s\n", message), 1;
  const std::string what = argc > 1 ? argv[1] : "";
  const auto number = [&](int i) { return i < argc ? std::atoi(argv[i]) : 0; };
  if (what == "linear" && argc == 5) {
    bench::LinearCase linear(*table, kRows, kColumns, number(2), number(3), number(4));
    count([&] { linear.fast(0, kRows); });
  } else if (what == "round" && argc == 4) {
    bench::LinearCase linear(*table, 1, kColumns, 4, number(2), number(3));
    count([&] { linear.round_activations(); });
  } else if (what == "attention" && argc == 4) {
    AttentionCase attention(*table, number(2), number(3));
    count([&] { attention.run(); });
  } else {
    std::fprintf(stderr,
                 "usage: linear BITS GROUP TOKENS | round GROUP TOKENS | attention QUERIES KEYS\n");
    return 2;
  }
  return 0;
}
