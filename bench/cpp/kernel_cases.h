// Inputs of one kernel call at a time, shared by the benchmarks and the instruction counts.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/kernel_table.h"

namespace jang::bench {

/// Random codes, bf16 scales and biases that keep results finite.
class RandomMatrix {
 public:
  RandomMatrix(int64_t rows, int64_t columns, int bits, int group) {
    const int64_t code_bytes = rows * columns / 8 * bits;
    const int64_t metadata_bytes = rows * columns / group * 2;
    bytes_ = AlignedBuffer<uint8_t>(static_cast<std::size_t>(code_bytes + 2 * metadata_bytes));
    uint64_t state = 1;
    for (std::size_t i = 0; i + 8 <= bytes_.size(); i += 8) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const uint64_t word = state ^ (state >> 29);
      std::memcpy(bytes_.data() + i, &word, sizeof word);
    }
    constexpr uint16_t kHundredth = 0x3c23;  // as bf16
    for (int64_t i = code_bytes; i < code_bytes + 2 * metadata_bytes; i += 2)
      std::memcpy(bytes_.data() + i, &kHundredth, sizeof kHundredth);
    affine_ = {bytes_.data(),
               bytes_.data() + code_bytes,
               bytes_.data() + code_bytes + metadata_bytes,
               rows,
               columns,
               bits,
               group,
               kernels::FloatType::kBF16};
  }

  const kernels::AffineMatrix& affine() const { return affine_; }
  std::span<const uint8_t> bytes() const { return bytes_.span(); }

 private:
  AlignedBuffer<uint8_t> bytes_;
  kernels::AffineMatrix affine_{};
};

/// A matrix, activations in both forms, and room for the result.
class LinearCase {
 public:
  LinearCase(const kernels::KernelTable& table, int64_t rows, int64_t columns, int bits, int group,
             int64_t tokens)
      : table_(table),
        matrix_(rows, columns, bits, group),
        tokens_(tokens),
        x_(static_cast<std::size_t>(tokens * columns)),
        y_(static_cast<std::size_t>(tokens * rows)) {
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(i % 17) - 8.0f;
    const int64_t code_stride = round_up(columns, kernels::kActivationBlock);
    const int64_t group_stride = round_up(columns / group, kernels::kGroupBlock);
    codes_ = AlignedBuffer<int8_t>(static_cast<std::size_t>(tokens * code_stride));
    metadata_ = AlignedBuffer<float>(static_cast<std::size_t>(3 * tokens * group_stride));
    float* const floats = metadata_.data();
    rounded_ = {codes_.data(),
                floats,
                floats + tokens * group_stride,
                floats + 2 * tokens * group_stride,
                code_stride,
                group_stride};
    round_activations();
  }

  const kernels::AffineMatrix& affine() const { return matrix_.affine(); }
  std::span<const uint8_t> bytes() const { return matrix_.bytes(); }

  void round_activations() {
    const kernels::AffineMatrix& m = matrix_.affine();
    table_.quantize_activations(x_.data(), m.columns, tokens_, m.columns, m.group,
                                table_.activation_order(m.bits), rounded_);
  }
  void fast(int64_t row_begin, int64_t row_end) {
    table_.affine_matmul_int8(matrix_.affine(), rounded_, tokens_, y_.data(), affine().rows,
                              row_begin, row_end);
  }
  void exact(int64_t row_begin, int64_t row_end) {
    table_.affine_matmul(matrix_.affine(), x_.data(), affine().columns, tokens_, y_.data(),
                         affine().rows, row_begin, row_end);
  }

 private:
  static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

  const kernels::KernelTable& table_;
  RandomMatrix matrix_;
  int64_t tokens_;
  AlignedBuffer<float> x_, y_, metadata_;
  AlignedBuffer<int8_t> codes_;
  kernels::Int8Activations rounded_{};
};

/// A matrix of bf16 weights and rows of floats.
class DenseCase {
 public:
  DenseCase(const kernels::KernelTable& table, int64_t rows, int64_t columns, int64_t tokens)
      : table_(table),
        tokens_(tokens),
        bytes_(static_cast<std::size_t>(2 * rows * columns)),
        x_(static_cast<std::size_t>(tokens * columns)),
        y_(static_cast<std::size_t>(tokens * rows)) {
    constexpr uint16_t kHundredth = 0x3c23;  // as bf16
    for (std::size_t i = 0; i < bytes_.size(); i += 2)
      std::memcpy(bytes_.data() + i, &kHundredth, sizeof kHundredth);
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(i % 17) / 7.0f;
    matrix_ = {bytes_.data(), rows, columns, kernels::FloatType::kBF16};
  }

  std::span<const uint8_t> bytes() const { return bytes_.span(); }
  void multiply(int64_t row_begin, int64_t row_end) {
    table_.dense_matmul(matrix_, x_.data(), matrix_.columns, tokens_, y_.data(), matrix_.rows,
                        row_begin, row_end);
  }

 private:
  const kernels::KernelTable& table_;
  int64_t tokens_;
  AlignedBuffer<uint8_t> bytes_;
  AlignedBuffer<float> x_, y_;
  kernels::DenseMatrix matrix_{};
};

}  // namespace jang::bench
