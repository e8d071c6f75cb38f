// What the solvers compute with, at every level: products of any size and stride within rounding of
// the definition and independent of how outputs are cut, and columns rounded with error feedback.
#include <gtest/gtest.h>

#include <cmath>
#include <type_traits>
#include <vector>

#include "guarded.h"
#include "levels.h"
#include "random_data.h"

namespace jang::kernels {
namespace {

std::size_t area(int64_t a, int64_t b) { return static_cast<std::size_t>(a * b); }

template <typename T>
class Guarded {
 public:
  explicit Guarded(std::size_t n) : bytes_(n * sizeof(T)), size_(n) {}
  T* data() { return reinterpret_cast<T*>(bytes_.data()); }
  void fill(uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (std::size_t i = 0; i < size_; ++i) data()[i] = static_cast<T>(normal(random));
  }
  std::vector<T> copy() { return {data(), data() + size_}; }
  void assign(const std::vector<T>& from) { std::copy(from.begin(), from.end(), data()); }

 private:
  GuardedBytes bytes_;
  std::size_t size_;
};

template <typename T>
void run(const KernelTable& table, const ProductTask<T>& task) {
  if constexpr (std::is_same_v<T, float>) {
    table.product_f32(task);
  } else {
    table.product_f64(task);
  }
}

class SolvingTest : public LevelTest {
 protected:
  template <typename T>
  static void check_product(int64_t rows, int64_t columns, int64_t depth, bool by_column,
                            bool weighted, T alpha) {
    SCOPED_TRACE(testing::Message() << rows << " x " << columns << " x " << depth << ", "
                                    << sizeof(T) << " bytes, by column " << by_column);
    Guarded<T> a(area(rows, depth)), b(area(depth, columns)), c(area(rows, columns)),
        weights(static_cast<std::size_t>(depth));
    AlignedScratch<T> scratch;
    a.fill(1);
    b.fill(2);
    c.fill(3);
    weights.fill(4);
    const std::vector<T> before = c.copy();
    const ProductTask<T> task = {.a = a.data(),
                                 .a_depth_stride = by_column ? 1 : rows,
                                 .a_row_stride = by_column ? depth : 1,
                                 .b = b.data(),
                                 .b_stride = columns,
                                 .weights = weighted ? weights.data() : nullptr,
                                 .c = c.data(),
                                 .c_stride = columns,
                                 .rows = rows,
                                 .columns = columns,
                                 .depth = depth,
                                 .alpha = alpha,
                                 .scratch = scratch.data()};
    run(kernels(), task);
    const std::vector<T> found = c.copy();
    c.assign(before);
    run(reference(), task);
    const double epsilon = std::is_same_v<T, float> ? 0x1p-23 : 0x1p-52;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        double magnitude = std::fabs(static_cast<double>(before[area(i, columns) + area(j, 1)]));
        for (int64_t k = 0; k < depth; ++k) {
          const double w = weighted ? static_cast<double>(weights.data()[k]) : 1.0;
          magnitude += std::fabs(
              w * static_cast<double>(task.a[k * task.a_depth_stride + i * task.a_row_stride]) *
              static_cast<double>(b.data()[k * columns + j]));
        }
        const std::size_t at = area(i, columns) + static_cast<std::size_t>(j);
        ASSERT_NEAR(static_cast<double>(found[at]), static_cast<double>(c.data()[at]),
                    (2.0 + std::sqrt(static_cast<double>(depth))) * epsilon * magnitude)
            << i << ", " << j;
      }
    }
  }

  template <typename T>
  class AlignedScratch {
   public:
    AlignedScratch() : values_(static_cast<std::size_t>(kProductScratch<T>) + 64 / sizeof(T)) {}
    T* data() {
      const auto address = reinterpret_cast<std::uintptr_t>(values_.data());
      return values_.data() + ((64 - address % 64) % 64) / sizeof(T);
    }

   private:
    std::vector<T> values_;
  };
};

TEST_P(SolvingTest, ProductsOfEverySize) {
  for (int64_t size = 1; size <= 50; ++size) {
    check_product<float>(size, 51 - size, 7 + size, size % 2 == 0, size % 3 == 0, 1.0f);
    check_product<double>(size, 51 - size, 7 + size, size % 2 == 0, size % 3 == 0, -1.0);
  }
  check_product<float>(kProductTile, kProductTile, 300, false, false, -1.0f);
  check_product<double>(kProductTile, kProductTile, 300, false, false, -1.0);
  check_product<float>(128, 191, 513, true, true, 0.5f);
  check_product<float>(5, 9, 0, false, false, 1.0f);
}

// Any cut of rows and columns, in either order of the operand, gives the same bits.
TEST_P(SolvingTest, ElementsDoNotDependOnTheirTile) {
  constexpr int64_t kRows = 61, kColumns = 83, kDepth = 555;
  const std::vector<float> a = normal_floats(area(kRows, kDepth), 5);
  const std::vector<float> b = normal_floats(area(kDepth, kColumns), 6);
  AlignedScratch<float> scratch;
  std::vector<float> whole(area(kRows, kColumns)), parts(whole.size());
  ProductTask<float> task = {.a = a.data(),
                             .a_depth_stride = kRows,
                             .a_row_stride = 1,
                             .b = b.data(),
                             .b_stride = kColumns,
                             .weights = nullptr,
                             .c = whole.data(),
                             .c_stride = kColumns,
                             .rows = kRows,
                             .columns = kColumns,
                             .depth = kDepth,
                             .alpha = 1.0f,
                             .scratch = scratch.data()};
  kernels().product_f32(task);
  std::vector<float> transposed(a.size());
  for (int64_t k = 0; k < kDepth; ++k) {
    for (int64_t i = 0; i < kRows; ++i)
      transposed[area(i, kDepth) + static_cast<std::size_t>(k)] =
          a[area(k, kRows) + static_cast<std::size_t>(i)];
  }
  task.a_depth_stride = 1;
  task.a_row_stride = kDepth;
  for (const auto& [row, row_end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 30}, {30, 61}}) {
    for (const auto& [column, column_end] :
         {std::pair<int64_t, int64_t>{0, 17}, {17, 66}, {66, 83}}) {
      task.a = transposed.data() + row * kDepth;
      task.b = b.data() + column;
      task.c = parts.data() + row * kColumns + column;
      task.rows = row_end - row;
      task.columns = column_end - column;
      kernels().product_f32(task);
    }
  }
  EXPECT_TRUE(same_bits(whole, parts));
}

struct Feedback {
  static constexpr int64_t kStride = 112;
  static constexpr int64_t kGroups = 3;
  int64_t columns, rows;
  int bits;
  std::vector<float> targets, base, feedback, scales, biases, costs, errors, losses, clipped;
  std::vector<int32_t> groups;
  std::vector<uint8_t> codes;

  Feedback(int64_t column_count, int64_t row_count, int width)
      : columns(column_count),
        rows(row_count),
        bits(width),
        targets(normal_floats(area(columns, kStride), 11)),
        base(normal_floats(area(columns, kStride), 12)),
        feedback(normal_floats(area(columns, columns), 13, 0.2f)),
        scales(normal_floats(area(kGroups, kStride), 14)),
        biases(normal_floats(area(kGroups, kStride), 15)),
        costs(normal_floats(static_cast<std::size_t>(columns), 16)),
        errors(area(columns, kStride), 77.0f),
        losses(kStride),
        clipped(area(kGroups, kStride)),
        codes(area(columns, kStride), 255) {
    const auto steps = static_cast<float>((1 << bits) - 1);
    // Every third scale is negative, and the grids leave some targets outside.
    for (std::size_t i = 0; i < scales.size(); ++i) {
      scales[i] = (std::fabs(scales[i]) + 1.0f) * 3.0f / steps;
      biases[i] -= 0.5f * steps * scales[i];
      if (i % 3 == 0) {
        biases[i] += steps * scales[i];
        scales[i] = -scales[i];
      }
    }
    for (float& c : costs) c *= c;
    for (int64_t k = 0; k < columns; ++k) groups.push_back(static_cast<int32_t>(k * 7 % kGroups));
  }
  FeedbackTask task() {
    return {.targets = targets.data(),
            .base = base.data(),
            .feedback = feedback.data(),
            .feedback_stride = columns,
            .scales = scales.data(),
            .biases = biases.data(),
            .groups = groups.data(),
            .costs = costs.data(),
            .errors = errors.data(),
            .codes = codes.data(),
            .losses = losses.data(),
            .clipped = clipped.data(),
            .stride = kStride,
            .rows = rows,
            .columns = columns,
            .bits = bits};
  }
};

// Each step is checked against the errors that the kernel itself wrote, so that one tie rounded the
// other way does not make all that follows differ.
TEST_P(SolvingTest, FeedbackRoundsToTheNearestCode) {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int64_t columns : {1, 2, 3, 4, 5, 31, 128}) {
      for (const int64_t rows : {16, 32, 64, 80, 112}) {
        Feedback f(columns, rows, bits);
        kernels().round_with_feedback(f.task());
        const double steps = (1 << bits) - 1;
        for (int64_t r = 0; r < rows; ++r) {
          double loss = 0.0, clipped[Feedback::kGroups] = {};
          for (int64_t k = 0; k < columns; ++k) {
            SCOPED_TRACE(testing::Message() << bits << " bits, row " << r << ", column " << k);
            const std::size_t at = area(k, Feedback::kStride) + static_cast<std::size_t>(r);
            const int32_t group = f.groups[static_cast<std::size_t>(k)];
            const std::size_t pair = area(group, Feedback::kStride) + static_cast<std::size_t>(r);
            const double s = static_cast<double>(f.scales[pair]);
            const double b = static_cast<double>(f.biases[pair]);
            double t = static_cast<double>(f.targets[at]);
            double magnitude = std::fabs(t);
            for (int64_t i = 0; i < k; ++i) {
              const double part =
                  static_cast<double>(f.feedback[area(i, columns) + static_cast<std::size_t>(k)]) *
                  static_cast<double>(
                      f.errors[area(i, Feedback::kStride) + static_cast<std::size_t>(r)]);
              t -= part;
              magnitude += std::fabs(part);
            }
            const double slack = 64 * 0x1p-23 * (magnitude + std::fabs(b));
            const double code = f.codes[at];
            ASSERT_LE(code, steps);
            const double value = s * code + b;
            const double nearest = std::clamp((t - b) / s, 0.0, steps);
            ASSERT_LE(std::fabs(nearest - code) * std::fabs(s), 0.5 * std::fabs(s) + slack);
            ASSERT_NEAR(static_cast<double>(f.errors[at]), value - static_cast<double>(f.base[at]),
                        slack + 1e-6 * std::fabs(value));
            loss += static_cast<double>(f.costs[static_cast<std::size_t>(k)]) * (value - t) *
                    (value - t);
            const double outside = std::max(-(t - b) / s, (t - b) / s - steps) - 0.5;
            clipped[group] += outside > 0.0 ? 1.0 : 0.0;
          }
          const auto row = static_cast<std::size_t>(r);
          ASSERT_NEAR(static_cast<double>(f.losses[row]), loss, 1e-3 * loss + 1e-5);
          for (std::size_t g = 0; g < 3; ++g)
            ASSERT_NEAR(static_cast<double>(f.clipped[g * Feedback::kStride + row]), clipped[g],
                        1.0);
        }
        // Rows that were not asked for are not touched.
        for (int64_t k = 0; k < columns; ++k) {
          for (int64_t r = rows; r < Feedback::kStride; ++r) {
            const std::size_t at = area(k, Feedback::kStride) + static_cast<std::size_t>(r);
            ASSERT_EQ(f.errors[at], 77.0f);
            ASSERT_EQ(f.codes[at], 255);
          }
        }
      }
    }
  }
}

TEST_P(SolvingTest, FeedbackRowsDoNotDependOnOthers) {
  Feedback all(67, 112, 3), some(67, 112, 3);
  kernels().round_with_feedback(all.task());
  for (const auto& [begin, rows] :
       {std::pair<int64_t, int64_t>{0, 16}, {16, 48}, {64, 16}, {80, 32}}) {
    FeedbackTask task = some.task();
    task.targets += begin;
    task.base += begin;
    task.scales += begin;
    task.biases += begin;
    task.errors += begin;
    task.codes += begin;
    task.losses += begin;
    task.clipped += begin;
    task.rows = rows;
    kernels().round_with_feedback(task);
  }
  EXPECT_TRUE(same_bits(all.errors, some.errors));
  EXPECT_TRUE(same_bits(all.losses, some.losses));
  EXPECT_TRUE(same_bits(all.clipped, some.clipped));
  EXPECT_EQ(all.codes, some.codes);
}

INSTANTIATE_TEST_SUITE_P(Levels, SolvingTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
