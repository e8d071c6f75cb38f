// Every kernel level gives the bits of the reference level: quantizers on every shape of data,
// packing at every width, with buffers that end at an unmapped page and start at any address.
#include <gtest/gtest.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "quant/affine_format.h"
#include "test_data.h"

namespace jang {
namespace {

using kernels::KernelTable;
using kernels::Level;
using test::run_kernel;

void expect_same(const test::Quantized& found, const test::Quantized& expected) {
  ASSERT_EQ(found.codes, expected.codes);
  ASSERT_EQ(0,
            std::memcmp(found.scales.data(), expected.scales.data(), expected.scales.size() * 4));
  ASSERT_EQ(0,
            std::memcmp(found.biases.data(), expected.biases.data(), expected.biases.size() * 4));
}

class Levels : public testing::TestWithParam<int> {};

// 37 groups: two whole registers of lanes and a rest at the widest level.
constexpr int64_t kGroups = 37;

TEST_P(Levels, QuantizersMatchTheReference) {
  const int bits = GetParam();
  const KernelTable* reference = kernels::table_for(Level::kReference);
  for (const int group : kGroupSizes) {
    for (int shape = 0; shape < test::kShapes; ++shape) {
      const auto values =
          test::make_values(static_cast<test::Shape>(shape), kGroups * group, group, 11);
      for (const auto type : test::kTypes) {
        const auto rtn = run_kernel(reference->quantize_rtn, values, group, bits, type);
        const auto mse = run_kernel(reference->quantize_mse, values, group, bits, type);
        for (const KernelTable* table : test::supported_levels()) {
          SCOPED_TRACE(test::name_of(table) + " group " + std::to_string(group) + " shape " +
                       std::to_string(shape) + " type " + std::to_string(static_cast<int>(type)));
          expect_same(run_kernel(table->quantize_rtn, values, group, bits, type), rtn);
          expect_same(run_kernel(table->quantize_mse, values, group, bits, type), mse);
        }
      }
    }
  }
}

TEST_P(Levels, WeightedSearchMatchesTheReference) {
  const int bits = GetParam();
  const KernelTable* reference = kernels::table_for(Level::kReference);
  for (const int group : kGroupSizes) {
    for (const auto shape : {test::Shape::kGaussian, test::Shape::kSparse, test::Shape::kOutlier}) {
      const auto values = test::make_values(shape, kGroups * group, group, 5);
      auto weights = test::make_values(test::Shape::kHeavyTailed, 3 * group, group, 6);
      for (float& w : weights) w = w * w + 1e-8f;
      const auto expected = run_kernel(reference->quantize_mse, values, group, bits,
                                       kernels::FloatType::kBF16, weights);
      for (const KernelTable* table : test::supported_levels()) {
        SCOPED_TRACE(test::name_of(table));
        expect_same(run_kernel(table->quantize_mse, values, group, bits, kernels::FloatType::kBF16,
                               weights),
                    expected);
      }
    }
  }
}

#if defined(__SSE__)
TEST_P(Levels, FlushingDenormalsChangesNothing) {
  const int bits = GetParam();
  for (const KernelTable* table : test::supported_levels()) {
    for (int shape = 0; shape < test::kShapes; ++shape) {
      auto values = test::make_values(static_cast<test::Shape>(shape), kGroups * 32, 32, 12);
      values[3] = 1e-42f;
      values[40] = -1e-39f;
      const auto type = kernels::FloatType::kBF16;
      const auto rtn = run_kernel(table->quantize_rtn, values, 32, bits, type);
      const auto mse = run_kernel(table->quantize_mse, values, 32, bits, type);
      const unsigned before = _mm_getcsr();
      _mm_setcsr(before | 0x8040u);  // flush to zero, denormals are zero
      const auto rtn_flushed = run_kernel(table->quantize_rtn, values, 32, bits, type);
      const auto mse_flushed = run_kernel(table->quantize_mse, values, 32, bits, type);
      _mm_setcsr(before);
      SCOPED_TRACE(test::name_of(table) + " shape " + std::to_string(shape));
      expect_same(rtn_flushed, rtn);
      expect_same(mse_flushed, mse);
    }
  }
}
#endif

TEST_P(Levels, AnyNumberOfGroupsStaysInItsBuffers) {
  const int bits = GetParam();
  const KernelTable* reference = kernels::table_for(Level::kReference);
  constexpr int kGroup = 32;
  for (int64_t groups = 1; groups <= 33; groups += groups < 18 ? 1 : 5) {
    const auto values = test::make_values(test::Shape::kSparse, groups * kGroup, kGroup, 21);
    const auto expected =
        run_kernel(reference->quantize_mse, values, kGroup, bits, kernels::FloatType::kF16);
    const auto n = static_cast<size_t>(groups);
    const test::GuardedBytes source(values.size() * 4), scales(n * 4), biases(n * 4),
        codes(values.size());
    std::memcpy(source.data(), values.data(), values.size() * 4);
    for (const KernelTable* table : test::supported_levels()) {
      SCOPED_TRACE(test::name_of(table) + " groups " + std::to_string(groups));
      const kernels::QuantTask task{.values = reinterpret_cast<const float*>(source.data()),
                                    .weights = nullptr,
                                    .weight_groups = 1,
                                    .groups = groups,
                                    .group = kGroup,
                                    .bits = bits,
                                    .metadata = kernels::FloatType::kF16,
                                    .scales = reinterpret_cast<float*>(scales.data()),
                                    .biases = reinterpret_cast<float*>(biases.data()),
                                    .codes = codes.data()};
      table->quantize_rtn(task);
      table->quantize_mse(task);
      ASSERT_EQ(0, std::memcmp(codes.data(), expected.codes.data(), values.size()));
      ASSERT_EQ(0, std::memcmp(scales.data(), expected.scales.data(), n * 4));
      ASSERT_EQ(0, std::memcmp(biases.data(), expected.biases.data(), n * 4));
    }
  }
}

TEST_P(Levels, PackRoundTripsAtAnyAddress) {
  const int bits = GetParam();
  const KernelTable* reference = kernels::table_for(Level::kReference);
  std::mt19937 random(3);
  for (int64_t n = 32; n <= 32 * 9; n += 32) {
    const auto size = static_cast<size_t>(n);
    const size_t packed_size = size * static_cast<size_t>(bits) / 8;
    std::vector<uint8_t> codes(size);
    for (auto& c : codes) c = static_cast<uint8_t>(random() & ((1u << bits) - 1u));
    std::vector<uint8_t> expected(packed_size);
    reference->pack(codes.data(), n, bits, expected.data());
    for (const KernelTable* table : test::supported_levels()) {
      for (const size_t offset :
           {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{7}, size_t{61}}) {
        SCOPED_TRACE(test::name_of(table) + " n " + std::to_string(n) + " offset " +
                     std::to_string(offset));
        const test::GuardedBytes packed(packed_size, offset), unpacked(size, offset),
            in(size, offset);
        std::memcpy(in.data(), codes.data(), size);
        table->pack(in.data(), n, bits, packed.data());
        ASSERT_EQ(0, std::memcmp(packed.data(), expected.data(), packed_size));
        table->unpack(packed.data(), n, bits, unpacked.data());
        ASSERT_EQ(0, std::memcmp(unpacked.data(), codes.data(), size));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, Levels, testing::ValuesIn(kBitWidths));

TEST(LevelSet, HasAPortableOneBesideTheReference) {
  EXPECT_NE(kernels::table_for(Level::kReference), nullptr);
  EXPECT_NE(kernels::table_for(Level::kBaseline), nullptr);
}

}  // namespace
}  // namespace jang
