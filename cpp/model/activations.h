// The input of linear layers rounded to int8, once per group size and order that their weights ask
// for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"

namespace jang {

class RoundedActivations {
 public:
  RoundedActivations(ThreadPool& pool, const kernels::KernelTable& kernels)
      : pool_(pool), kernels_(kernels) {}

  /// Forgets the last input and takes another, [rows][columns] contiguous, which must live until
  /// the last use. Copies of the rows `picked` (alive until prepare()) count from `rows` on.
  void set_input(const float* x, int64_t rows, int64_t columns,
                 std::span<const int32_t> picked = {});
  /// Makes the rounded form for weights of this format if it is not there yet. Not inside a region
  /// of the pool.
  void prepare(int bits, int group);
  /// Only room for the form, if it is not there yet: its rows are made by round_rows().
  void reserve(int bits, int group);
  /// Rounds rows [first, first + count) of the input in every form that has room. Inside a region
  /// too; no row in two calls at a time.
  void round_rows(int64_t first, int64_t count);
  /// What prepare() or reserve() made, from row `first` on.
  kernels::Int8Activations get(int bits, int group, int64_t first = 0) const;

 private:
  struct Form {
    int group = 0;
    kernels::ActivationOrder order{};
    bool current = false;
    AlignedBuffer<int8_t> codes;
    AlignedBuffer<float> scales, sums, residuals;
    kernels::Int8Activations view{};
  };
  /// Where the form of this format is or would be.
  std::size_t place(int bits, int group) const;
  Form& make_room(int bits, int group);
  void round(const Form& form, int64_t first, int64_t count) const;
  void copy_picked(const Form& form) const;

  ThreadPool& pool_;
  const kernels::KernelTable& kernels_;
  std::vector<Form> forms_;  // buffers stay from one input to the next
  const float* x_ = nullptr;
  int64_t rows_ = 0, columns_ = 0;
  std::span<const int32_t> picked_;
};

}  // namespace jang
