// Casts of panels and the search for values that are no numbers.
#include "convert/values.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "convert/source_model.h"

namespace jang {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A panel that starts at an odd address.
struct OddPanel {
  OddPanel(const std::vector<float>& values, DType dtype, uint64_t rows) {
    const auto bytes = encode(values, dtype);
    storage.resize(bytes.size() + 1);
    std::memcpy(storage.data() + 1, bytes.data(), bytes.size());
    panel = {storage.data() + 1, dtype, rows, values.size() / rows};
  }
  std::vector<std::byte> storage;
  SourcePanel panel;
};

TEST(Values, NonFiniteValuesAreFoundWhereTheyAre) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
      for (const uint64_t index : {uint64_t{0}, uint64_t{4095}, uint64_t{4096}, uint64_t{9999}}) {
        std::vector<float> values(10000, 1.5f);
        EXPECT_FALSE(find_non_finite(OddPanel(values, dtype, 100).panel));
        values[index] = bad;
        const auto place = find_non_finite(OddPanel(values, dtype, 100).panel);
        ASSERT_TRUE(place);
        EXPECT_EQ(place->row, index / 100);
        EXPECT_EQ(place->column, index % 100);
        EXPECT_TRUE(std::isnan(bad) ? std::isnan(place->value) : place->value == bad);
      }
    }
  }
}

TEST(Values, LargestFiniteValuesAreFinite) {
  EXPECT_FALSE(find_non_finite(OddPanel({65504.f, -65504.f}, DType::kF16, 1).panel));
  const float huge = std::numeric_limits<float>::max();
  EXPECT_FALSE(find_non_finite(OddPanel({huge, -huge}, DType::kF32, 1).panel));
}

TEST(Values, CastsRoundToNearestEven) {
  const std::vector<float> values = {1.0f, 1.00390625f, 1.01171875f, -3.1415927f, 1e-8f, 65504.f};
  for (const DType from : {DType::kF32, DType::kBF16, DType::kF16}) {
    const OddPanel source(values, from, 2);
    for (const DType to : {DType::kF32, DType::kBF16, DType::kF16}) {
      std::vector<std::byte> out(values.size() * 4);
      EXPECT_FALSE(cast_panel(source.panel, to, out.data()).has_value() &&
                   !(from == DType::kBF16 && to == DType::kF16));
      for (std::size_t i = 0; i < values.size(); ++i) {
        float exact = values[i];
        if (from == DType::kBF16) exact = bf16_to_float(float_to_bf16(exact));
        if (from == DType::kF16) exact = half_to_float(float_to_half(exact));
        const auto expected = encode({exact}, to);
        EXPECT_EQ(std::memcmp(out.data() + i * expected.size(), expected.data(), expected.size()),
                  0);
      }
    }
  }
}

TEST(Values, OverflowIsReportedWithItsPlace) {
  std::vector<float> values(12, 1.0f);
  values[7] = 1e5f;
  std::vector<std::byte> out(values.size() * 2);
  const auto lost = cast_panel(OddPanel(values, DType::kBF16, 3).panel, DType::kF16, out.data());
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->row, 1u);
  EXPECT_EQ(lost->column, 3u);
  EXPECT_NEAR(lost->value, 1e5f, 500.f);
  values[7] = std::numeric_limits<float>::max();
  EXPECT_TRUE(cast_panel(OddPanel(values, DType::kF32, 3).panel, DType::kBF16, out.data()));
}

}  // namespace
}  // namespace jang
