// quantize_panel and its companions: types, alignment, long rows, threads, errors by row and
// column, and the way back.
#include "quant/quantize.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "test_data.h"

namespace jang {
namespace {

struct Matrix {
  std::vector<std::byte> codes, scales, biases;
  AffinePanel panel() { return {codes.data(), scales.data(), biases.data()}; }
  bool operator==(const Matrix&) const = default;
};

Matrix room(const AffineFormat& format, uint64_t rows, uint64_t columns) {
  const auto metadata =
      rows * format.row_groups(columns) * static_cast<uint64_t>(dtype_size(format.metadata));
  return {std::vector<std::byte>(rows * format.row_bytes(columns)),
          std::vector<std::byte>(metadata), std::vector<std::byte>(metadata)};
}

std::vector<std::byte> source_bytes(const std::vector<float>& values, DType dtype, size_t offset) {
  const auto size = static_cast<size_t>(dtype_size(dtype));
  std::vector<std::byte> bytes(offset + values.size() * size);
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(bytes.data() + offset + i * 4, &values[i], 4);
    } else {
      const uint16_t u = dtype == DType::kF16 ? float_to_half(values[i]) : float_to_bf16(values[i]);
      std::memcpy(bytes.data() + offset + i * 2, &u, 2);
    }
  }
  return bytes;
}

class Panel : public testing::TestWithParam<DType> {};

TEST_P(Panel, DependsNeitherOnAlignmentNorOnHowItIsCutNorOnThreads) {
  const DType dtype = GetParam();
  for (const Method method : {Method::kRtn, Method::kMse}) {
    for (const uint64_t columns : {uint64_t{128}, uint64_t{384}, uint64_t{16512}}) {
      const uint64_t rows = columns > 1000 ? 3 : 700;
      const AffineFormat format{.bits = 3, .group_size = 128, .metadata = dtype};
      const auto values = test::make_values(test::Shape::kHeavyTailed,
                                            static_cast<int64_t>(rows * columns), 128, 7);
      const auto aligned = source_bytes(values, dtype, 0);
      const SourcePanel source{aligned.data(), dtype, rows, columns};
      Matrix whole = room(format, rows, columns);
      quantize_panel(source, format, method, whole.panel());

      const auto shifted = source_bytes(values, dtype, 1);
      Matrix misaligned = room(format, rows, columns);
      quantize_panel({shifted.data() + 1, dtype, rows, columns}, format, method,
                     misaligned.panel());
      EXPECT_EQ(misaligned, whole);

      Matrix by_row = room(format, rows, columns);
      const auto size = static_cast<uint64_t>(dtype_size(dtype));
      for (uint64_t row = 0; row < rows; ++row) {
        const auto metadata_at = row * format.row_groups(columns) * size;
        quantize_panel({aligned.data() + row * columns * size, dtype, 1, columns}, format, method,
                       {by_row.codes.data() + row * format.row_bytes(columns),
                        by_row.scales.data() + metadata_at, by_row.biases.data() + metadata_at});
      }
      EXPECT_EQ(by_row, whole);

      for (const int threads : {1, 2, 5}) {
        ThreadPool pool(threads);
        Matrix parallel = room(format, rows, columns);
        quantize_matrix(source, format, method, parallel.panel(), pool);
        EXPECT_EQ(parallel, whole) << threads << " threads";
      }
    }
  }
}

TEST_P(Panel, ImportanceFollowsTheColumnsOfLongRows) {
  const DType dtype = GetParam();
  constexpr uint64_t kColumns = 16384 + 256;
  const AffineFormat format{.bits = 2, .group_size = 64, .metadata = dtype};
  const auto values = test::make_values(test::Shape::kGaussian, 2 * kColumns, 64, 8);
  auto weights = test::make_values(test::Shape::kHeavyTailed, kColumns, 64, 9);
  for (float& w : weights) w = w * w + 1e-6f;
  const auto bytes = source_bytes(values, dtype, 0);
  Matrix whole = room(format, 2, kColumns);
  quantize_panel({bytes.data(), dtype, 2, kColumns}, format, Method::kMse, whole.panel(), weights);

  // The last 256 columns of row 1 as a matrix of their own, with their own weights.
  constexpr uint64_t kTail = 256;
  const auto size = static_cast<uint64_t>(dtype_size(dtype));
  Matrix tail = room(format, 1, kTail);
  quantize_panel({bytes.data() + (2 * kColumns - kTail) * size, dtype, 1, kTail}, format,
                 Method::kMse, tail.panel(), std::span(weights).last(kTail));
  EXPECT_TRUE(std::equal(tail.codes.rbegin(), tail.codes.rend(), whole.codes.rbegin()));
  EXPECT_TRUE(std::equal(tail.scales.rbegin(), tail.scales.rend(), whole.scales.rbegin()));
}

TEST_P(Panel, DequantizesToScaleTimesCodePlusBias) {
  const DType dtype = GetParam();
  constexpr uint64_t kRows = 5, kColumns = 8192 + 64;
  for (const int bits : kBitWidths) {
    const AffineFormat format{.bits = bits, .group_size = 64, .metadata = dtype};
    const auto values = test::make_values(test::Shape::kGaussian, kRows * kColumns, 64, 10);
    const auto bytes = source_bytes(values, dtype, 0);
    const SourcePanel source{bytes.data(), dtype, kRows, kColumns};
    Matrix q = room(format, kRows, kColumns);
    quantize_panel(source, format, Method::kRtn, q.panel());
    std::vector<uint8_t> codes(kRows * kColumns);
    unpack_codes(q.codes.data(), kRows, kColumns, bits, codes);
    std::vector<float> scales(codes.size() / 64), biases(scales.size()), found(codes.size());
    load_floats({q.scales.data(), dtype, 1, scales.size()}, scales.data());
    load_floats({q.biases.data(), dtype, 1, biases.size()}, biases.data());
    std::vector<float> exact(codes.size());
    load_floats(source, exact.data());
    ThreadPool pool(2);
    dequantize_matrix(q.panel(), format, kRows, kColumns, found.data(), pool);
    double squares = 0, power = 0, worst = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      const volatile float product = scales[i / 64] * static_cast<float>(codes[i]);
      ASSERT_EQ(found[i], product + biases[i / 64]);
      const double r = static_cast<double>(found[i]) - static_cast<double>(exact[i]);
      squares += r * r;
      power += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
      worst = std::max(worst, std::fabs(r));
    }
    PanelError error = panel_error(source, q.panel(), format);
    EXPECT_NEAR(error.error_squares, squares, 1e-9 * squares);
    EXPECT_EQ(error.max_abs, worst);
    EXPECT_NEAR(error.relative_rms(), std::sqrt(squares / power), 1e-9);

    std::vector<std::byte> repacked(q.codes.size());
    pack_codes(codes, kColumns, bits, repacked.data());
    EXPECT_EQ(repacked, q.codes);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Panel, testing::Values(DType::kF32, DType::kF16, DType::kBF16));

Error refusal(std::vector<float> values, uint64_t columns, DType source, DType metadata,
              Method method, int threads = 1) {
  const AffineFormat format{.bits = 4, .group_size = 32, .metadata = metadata};
  const auto bytes = source_bytes(values, source, 0);
  const uint64_t rows = values.size() / columns;
  Matrix q = room(format, rows, columns);
  ThreadPool pool(threads);
  try {
    quantize_matrix({bytes.data(), source, rows, columns}, format, method, q.panel(), pool);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return {ErrorCode::kIo, ""};
}

TEST(Refusal, NonFiniteSourceNamesRowAndColumn) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const Method method : {Method::kRtn, Method::kMse}) {
      auto values = test::make_values(test::Shape::kGaussian, 300 * 96, 32, 13);
      values[217 * 96 + 35] = std::numeric_limits<float>::quiet_NaN();
      const Error nan = refusal(values, 96, dtype, dtype, method, 3);
      EXPECT_EQ(nan.code(), ErrorCode::kNonFinite);
      EXPECT_EQ(nan.message(), "row 217, column 35: NaN where a finite weight is expected");
      values[217 * 96 + 35] = -infinity;
      EXPECT_EQ(refusal(values, 96, dtype, dtype, method).message(),
                "row 217, column 35: -infinity where a finite weight is expected");
      values[217 * 96 + 35] = infinity;
      EXPECT_EQ(refusal(values, 96, dtype, dtype, method).message(),
                "row 217, column 35: infinity where a finite weight is expected");
    }
  }
}

TEST(Refusal, MetadataOutOfRangeOfHalfAdvisesBf16) {
  auto values = test::make_values(test::Shape::kGaussian, 4 * 64, 32, 14);
  std::fill_n(values.begin() + 2 * 64 + 32, 32, 70000.0f);
  for (const Method method : {Method::kRtn, Method::kMse}) {
    const Error error = refusal(values, 64, DType::kF32, DType::kF16, method);
    EXPECT_EQ(error.code(), ErrorCode::kRange);
    EXPECT_EQ(error.message(),
              "the group at row 2, column 32: its bias is beyond the range of F16");
    EXPECT_NE(error.hint().find("bf16"), std::string::npos);
  }
}

TEST(Refusal, RangeBeyondFloatIsAnError) {
  std::vector<float> values(64, 0.0f);
  values[33] = 3e38f;
  values[34] = -3e38f;
  const Error error = refusal(values, 64, DType::kF32, DType::kF32, Method::kRtn);
  EXPECT_EQ(error.code(), ErrorCode::kRange);
  EXPECT_EQ(error.message(), "the group at row 0, column 32: its scale is beyond the range of F32");
}

TEST(Refusal, ImportanceMustBePositiveAndFinite) {
  const AffineFormat format{.bits = 4, .group_size = 32, .metadata = DType::kF32};
  const std::vector<float> values(32, 1.0f);
  Matrix q = room(format, 1, 32);
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    std::vector<float> weights(32, 1.0f);
    weights[9] = bad;
    EXPECT_THROW(
        quantize_panel({reinterpret_cast<const std::byte*>(values.data()), DType::kF32, 1, 32},
                       format, Method::kMse, q.panel(), weights),
        Error);
  }
}

TEST(Empty, MatricesAreNoWork) {
  const AffineFormat format{};
  ThreadPool pool(2);
  quantize_matrix({nullptr, DType::kBF16, 0, 64}, format, Method::kMse, {}, pool);
  quantize_panel({nullptr, DType::kBF16, 4, 0}, format, Method::kRtn, {});
  dequantize_matrix({}, format, 0, 64, nullptr, pool);
  EXPECT_EQ(panel_error({nullptr, DType::kBF16, 0, 64}, {}, format).relative_rms(), 0.0);
}

TEST(PanelErrors, MergeAndKeepNaN) {
  PanelError a{.error_squares = 1, .source_squares = 4, .max_abs = 0.5};
  a.merge({.error_squares = 3, .source_squares = 12, .max_abs = 0.25});
  EXPECT_EQ(a.relative_rms(), 0.5);
  EXPECT_EQ(a.max_abs, 0.5);
  a.merge({.max_abs = std::numeric_limits<double>::quiet_NaN()});
  a.merge({.max_abs = 9});
  EXPECT_TRUE(std::isnan(a.max_abs));
}

TEST(Methods, SpellingRoundTrips) {
  EXPECT_EQ(method_name(Method::kRtn), "rtn");
  EXPECT_EQ(parse_method("mse"), Method::kMse);
  EXPECT_EQ(parse_method("MSE"), std::nullopt);
  EXPECT_EQ(parse_method(""), std::nullopt);
}

TEST(Codes, FitTheirWidth) {
  EXPECT_TRUE(codes_fit(std::vector<uint8_t>{0, 3, 1}, 2));
  EXPECT_FALSE(codes_fit(std::vector<uint8_t>{0, 4, 1}, 2));
  EXPECT_TRUE(codes_fit(std::vector<uint8_t>{255}, 8));
}

}  // namespace
}  // namespace jang
