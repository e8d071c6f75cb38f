// The input of a linear layer rounded to int8, once per group size and order that its weights ask
// for.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"

namespace jang {

class RoundedActivations {
 public:
  RoundedActivations(ThreadPool& pool, const kernels::KernelTable& kernels)
      : pool_(pool), kernels_(kernels) {}

  /// Forgets the last input and takes another, [tokens][columns] contiguous, which must live until
  /// the last use.
  void set_input(const float* x, int64_t tokens, int64_t columns);
  /// Makes the rounded form for weights of this format if it is not there yet. Not inside a region
  /// of the pool.
  void prepare(int bits, int group);
  /// What prepare() made.
  const kernels::Int8Activations& get(int bits, int group) const;

 private:
  struct Form {
    int group = 0;
    kernels::ActivationOrder order{};
    bool current = false;
    AlignedBuffer<int8_t> codes;
    AlignedBuffer<float> scales, sums, residuals;
    kernels::Int8Activations view{};
  };
  const Form* find(int bits, int group) const;
  void round(Form& form);

  ThreadPool& pool_;
  const kernels::KernelTable& kernels_;
  std::vector<Form> forms_;  // buffers stay from one input to the next
  const float* x_ = nullptr;
  int64_t tokens_ = 0, columns_ = 0;
};

}  // namespace jang
