// Data for the quantizer tests: seeded groups of many shapes, buffers that end at an unmapped page,
// and the kernel levels of this machine.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/float16.h"
#include "kernels/kernel_table.h"

namespace jang::test {

inline std::vector<const kernels::KernelTable*> supported_levels() {
  std::vector<const kernels::KernelTable*> tables;
  for (int level = 0; level < kernels::kLevels; ++level) {
    const auto* table = kernels::table_for(static_cast<kernels::Level>(level));
    if (table != nullptr) tables.push_back(table);
  }
  return tables;
}

inline std::string name_of(const kernels::KernelTable* table) {
  return kernels::level_name(table->level);
}

inline float as_stored(float x, kernels::FloatType type) {
  switch (type) {
    case kernels::FloatType::kF16:
      return half_to_float(float_to_half(x));
    case kernels::FloatType::kBF16:
      return bf16_to_float(float_to_bf16(x));
    case kernels::FloatType::kF32:
      break;
  }
  return x;
}

inline constexpr kernels::FloatType kTypes[] = {kernels::FloatType::kF32, kernels::FloatType::kF16,
                                                kernels::FloatType::kBF16};

/// Shapes of weights that break naive quantizers, each `count` values of groups of `group`.
enum class Shape {
  kGaussian,
  kHeavyTailed,
  kConstant,
  kSparse,
  kMostlyZero,
  kAllZero,
  kPositive,
  kNegative,
  kOffset,
  kTiny,
  kDenormal,
  kHuge,
  kOutlier,
  kAlternating,
  kLattice,
  kHalfSteps,
};
inline constexpr int kShapes = static_cast<int>(Shape::kHalfSteps) + 1;

inline std::vector<float> make_values(Shape shape, int64_t count, int group, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::student_t_distribution<float> heavy(3.0f);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  std::vector<float> values(static_cast<size_t>(count));
  float level = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    if (i % group == 0) level = normal(random);
    float& v = values[static_cast<size_t>(i)];
    switch (shape) {
      case Shape::kGaussian:
        v = 0.02f * normal(random);
        break;
      case Shape::kHeavyTailed:
        v = 0.02f * heavy(random);
        break;
      case Shape::kConstant:
        v = level;
        break;
      case Shape::kSparse:
        v = uniform(random) < 0.3f ? 0.0f : normal(random);
        break;
      case Shape::kMostlyZero:
        v = uniform(random) < 0.8f ? 0.0f : normal(random);
        break;
      case Shape::kAllZero:
        v = i % 2 == 0 ? 0.0f : -0.0f;
        break;
      case Shape::kPositive:
        v = std::fabs(normal(random));
        break;
      case Shape::kNegative:
        v = -0.5f - std::fabs(normal(random));
        break;
      case Shape::kOffset:
        v = 100.0f * level + 0.01f * normal(random);
        break;
      case Shape::kTiny:
        v = 1e-6f * normal(random);
        break;
      case Shape::kDenormal:
        v = 1e-40f * normal(random);
        break;
      case Shape::kHuge:
        v = 1e37f * normal(random);
        break;
      case Shape::kOutlier:
        v = i % group == 7 ? 20.0f : 0.1f * normal(random);
        break;
      case Shape::kAlternating:
        v = i % 2 == 0 ? -level : level;
        break;
      case Shape::kLattice:
        v = 0.125f * static_cast<float>(static_cast<int>(random() % 4) - 2);
        break;
      case Shape::kHalfSteps:
        v = 0.5f * static_cast<float>(static_cast<int>(random() % 31) - 15);
        break;
    }
  }
  return values;
}

/// Bytes whose last one is followed by an inaccessible page.
class GuardedBytes {
 public:
  explicit GuardedBytes(size_t size, size_t offset_from_end = 0) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t body = (size + offset_from_end + page - 1) / page * page;
    bytes_ = body + page;
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(base_ + body, page, PROT_NONE);
    data_ = base_ + body - size - offset_from_end;
  }
  ~GuardedBytes() { munmap(base_, bytes_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  uint8_t* data() const { return data_; }

 private:
  uint8_t* base_;
  uint8_t* data_;
  size_t bytes_;
};

/// What a quantizer kernel returns for whole groups.
struct Quantized {
  std::vector<float> scales, biases;
  std::vector<uint8_t> codes;
};

inline Quantized run_kernel(void (*quantize)(const kernels::QuantTask&),
                            const std::vector<float>& values, int group, int bits,
                            kernels::FloatType metadata, const std::vector<float>& weights = {}) {
  const auto groups = static_cast<int64_t>(values.size()) / group;
  Quantized out{std::vector<float>(static_cast<size_t>(groups)),
                std::vector<float>(static_cast<size_t>(groups)),
                std::vector<uint8_t>(values.size())};
  quantize({.values = values.data(),
            .weights = weights.empty() ? nullptr : weights.data(),
            .weight_groups = weights.empty() ? 1 : static_cast<int64_t>(weights.size()) / group,
            .groups = groups,
            .group = group,
            .bits = bits,
            .metadata = metadata,
            .scales = out.scales.data(),
            .biases = out.biases.data(),
            .codes = out.codes.data()});
  return out;
}

/// sum w (x - (s q + b))^2 of one group, in double.
inline double group_error(const std::vector<float>& values, const Quantized& q, int group, size_t g,
                          const std::vector<float>& weights = {}) {
  double error = 0;
  for (size_t i = 0; i < static_cast<size_t>(group); ++i) {
    const size_t at = g * static_cast<size_t>(group) + i;
    const double w = weights.empty() ? 1.0 : static_cast<double>(weights[at % weights.size()]);
    const double r =
        static_cast<double>(values[at]) -
        (static_cast<double>(q.scales[g]) * q.codes[at] + static_cast<double>(q.biases[g]));
    error += w * r * r;
  }
  return error;
}

}  // namespace jang::test
