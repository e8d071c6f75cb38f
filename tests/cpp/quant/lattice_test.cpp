// Sources that already lie on a lattice are found in their cheapest format and stored bit for bit;
// others are not mistaken for one.
#include "quant/lattice.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <limits>

#include "base/error.h"
#include "quant/quantize.h"
#include "quant/stored_values.h"
#include "solver_data.h"

namespace jang {
namespace {

constexpr uint64_t kRows = 24, kColumns = 256;

struct Source {
  DType type;
  std::vector<float> values;
  std::vector<std::byte> bytes;

  Source(DType dtype, std::vector<float> from) : type(dtype), values(std::move(from)) {
    for (float& v : values) v = as_stored(v, type);
    encode();
  }
  void encode() {
    const auto size = static_cast<size_t>(dtype_size(type));
    bytes.resize(values.size() * size);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half =
          type == DType::kF16 ? float_to_half(values[i]) : float_to_bf16(values[i]);
      if (size == 4) {
        std::memcpy(&bytes[i * 4], &values[i], 4);
      } else {
        std::memcpy(&bytes[i * 2], &half, 2);
      }
    }
  }
  SourcePanel panel() const { return {bytes.data(), type, values.size() / kColumns, kColumns}; }
};

// `make(random, group)` gives a function from a value's index to the value.
using Group = std::function<float(size_t)>;
std::vector<float> by_group(size_t width, const std::function<Group(std::mt19937&)>& make,
                            uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<float> values(kRows * kColumns);
  for (size_t g = 0; g < values.size() / width; ++g) {
    const Group value = make(random);
    for (size_t i = 0; i < width; ++i) values[g * width + i] = value(i);
  }
  return values;
}

float random_scale(std::mt19937& random, DType type) {
  return as_stored(0.01f * (0.5f + static_cast<float>(random() % 1000) / 1000.0f), type);
}

// Stored and read back, every value is the source's after rounding to its type.
void expect_exact(const Source& source, const AffineFormat& format) {
  ThreadPool pool(2);
  test::Stored stored(kRows, kColumns, format);
  const LatticeMatch match = store_lattice(source.panel(), format, stored.panel(), pool);
  EXPECT_TRUE(match.lossless()) << match.lossless_groups << " of " << match.groups;
  stored.read(kRows, kColumns, format);
  for (size_t i = 0; i < stored.values.size(); ++i)
    ASSERT_EQ(as_stored(stored.values[i], source.type), source.values[i]) << i;
}

void expect_format(const Source& source, DType metadata, int bits, int group) {
  ThreadPool pool(2);
  const auto match = find_lattice(source.panel(), metadata, pool);
  ASSERT_TRUE(match.has_value());
  EXPECT_EQ(match->format.bits, bits);
  EXPECT_EQ(match->format.group_size, group);
  EXPECT_EQ(match->share(), 1.0);
  expect_exact(source, match->format);
}

TEST(Lattice, SymmetricIntegersOfEveryWidth) {
  for (const auto& [type, metadata] :
       {std::pair{DType::kBF16, DType::kBF16}, std::pair{DType::kF16, DType::kF16},
        std::pair{DType::kBF16, DType::kF32}, std::pair{DType::kF32, DType::kF32}}) {
    for (const int bits : kBitWidths) {
      // Steps of 8-bit lattices are finer than bf16 holds at their ends.
      if (bits == 8 && type == DType::kBF16) continue;
      for (const size_t group : {size_t{32}, size_t{64}, size_t{128}}) {
        SCOPED_TRACE(testing::Message() << dtype_name(type) << " in " << dtype_name(metadata)
                                        << ", " << bits << " bits, g" << group);
        const int half = 1 << (bits - 1);
        const Source source(
            type, by_group(group, [&, type = type](std::mt19937& random) -> Group {
              // A float32 product of a full mantissa is rounded before b is added.
              const float d = random_scale(random, type == DType::kF32 ? DType::kF16 : type);
              return [&random, d, half](size_t i) {
                // Both ends are there, so that no narrower width would do.
                const int code =
                    i == 0   ? 0
                    : i == 1 ? 2 * half - 1
                             : static_cast<int>(random() % (2u * static_cast<unsigned>(half)));
                return d * static_cast<float>(code - half);
              };
            }));
        expect_format(source, metadata, bits, static_cast<int>(group));
      }
    }
  }
}

TEST(Lattice, ZeroPointsOfIntegerQuantizers) {
  // Scales of 8 significant bits: zero * scale is exact in f16 for every zero point.
  const Source source(DType::kF16, by_group(64, [](std::mt19937& random) -> Group {
                        const float s = as_stored(random_scale(random, DType::kBF16), DType::kF16);
                        const int zero = static_cast<int>(random() % 16);
                        return [&random, s, zero](size_t i) {
                          const int code =
                              i < 2 ? static_cast<int>(i) * 15 : static_cast<int>(random() % 16);
                          return s * static_cast<float>(code - zero);
                        };
                      }));
  expect_format(source, DType::kF16, 4, 64);
}

TEST(Lattice, TernaryIsTwoBits) {
  const Source source(DType::kBF16, by_group(128, [](std::mt19937& random) -> Group {
                        const float d = random_scale(random, DType::kBF16);
                        return [&random, d](size_t) {
                          return d * static_cast<float>(static_cast<int>(random() % 3) - 1);
                        };
                      }));
  expect_format(source, DType::kBF16, 2, 128);
}

TEST(Lattice, FourBitFloatsAreFiveBits) {
  constexpr std::array<float, 8> kMagnitudes = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (const bool power_of_two : {true, false}) {
    const Source source(
        DType::kBF16, by_group(32, [&](std::mt19937& random) -> Group {
          const float d = power_of_two ? std::ldexp(1.0f, -static_cast<int>(random() % 8))
                                       : random_scale(random, DType::kBF16);
          return [&, d](size_t i) {
            const float magnitude = i == 0 ? 6.0f : i == 1 ? 0.5f : kMagnitudes[random() % 8];
            return (random() % 2 == 0 ? d : -d) * magnitude;
          };
        }));
    expect_format(source, DType::kBF16, 5, 32);
  }
}

TEST(Lattice, ConstantsAndZeros) {
  const Source source(DType::kBF16, by_group(128, [](std::mt19937& random) -> Group {
                        const float v =
                            random() % 2 == 0 ? 0.0f : random_scale(random, DType::kBF16);
                        return [v](size_t) { return v; };
                      }));
  expect_format(source, DType::kBF16, 2, 128);
}

TEST(Lattice, OrdinaryWeightsAreNone) {
  ThreadPool pool(2);
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
    const Source source(type, by_group(32, [](std::mt19937& random) -> Group {
                          return [&random](size_t) {
                            return 0.02f * std::normal_distribution<float>()(random);
                          };
                        }));
    EXPECT_FALSE(find_lattice(source.panel(), type, pool).has_value());
  }
}

TEST(Lattice, OneGroupInAHundredMayMiss) {
  ThreadPool pool(2);
  Source source(DType::kBF16, by_group(32, [](std::mt19937& random) -> Group {
                  const float d = random_scale(random, DType::kBF16);
                  return [&random, d](size_t i) {
                    return d * static_cast<float>(static_cast<int>(i == 0 ? 0 : random() % 16) - 8);
                  };
                }));
  // 192 groups: one is half a per cent, ten are five.
  const auto spoil = [&](size_t count) {
    for (size_t g = 0; g < count; ++g) source.values[g * 19 * 32 + 3] = 0.0123f;
    source = Source(source.type, source.values);
  };
  spoil(1);
  const auto match = find_lattice(source.panel(), DType::kBF16, pool);
  ASSERT_TRUE(match.has_value());
  EXPECT_FALSE(match->lossless());
  EXPECT_EQ(match->groups - match->lossless_groups, 1u);
  test::Stored stored(kRows, kColumns, match->format);
  EXPECT_EQ(store_lattice(source.panel(), match->format, stored.panel(), pool).lossless_groups,
            match->lossless_groups);
  stored.read(kRows, kColumns, match->format);
  for (size_t i = 0; i < stored.values.size(); ++i) {
    if (i < 32) {
      EXPECT_NEAR(stored.values[i], source.values[i], 0.01f);
    } else {
      ASSERT_EQ(as_stored(stored.values[i], source.type), source.values[i]);
    }
  }
  spoil(10);
  EXPECT_FALSE(find_lattice(source.panel(), DType::kBF16, pool).has_value());
}

TEST(Lattice, ThreadsDoNotMatter) {
  const Source source(DType::kBF16, by_group(32, [](std::mt19937& random) -> Group {
                        const float d = random_scale(random, DType::kBF16);
                        return [&random, d](size_t) {
                          return d * static_cast<float>(static_cast<int>(random() % 16) - 8);
                        };
                      }));
  std::optional<test::Stored> first;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    test::Stored stored(kRows, kColumns, {4, 32, DType::kBF16});
    store_lattice(source.panel(), {4, 32, DType::kBF16}, stored.panel(), pool);
    if (!first) first = stored;
    EXPECT_TRUE(stored == *first);
  }
}

TEST(Lattice, PanelsGiveTheBytesOfTheWhole) {
  const Source source(DType::kBF16, by_group(32, [](std::mt19937& random) -> Group {
                        const float d = random_scale(random, DType::kBF16);
                        // The last of 16 values may leave the lattice.
                        const bool off = random() % 16 == 0;
                        return [&random, d, off](size_t i) {
                          if (off && i == 9) return 0.0123f;
                          return d * static_cast<float>(static_cast<int>(random() % 16) - 8);
                        };
                      }));
  const AffineFormat format{4, 32, DType::kBF16};
  ThreadPool pool(2);
  test::Stored whole(kRows, kColumns, format), parts(kRows, kColumns, format);
  const LatticeMatch match = store_lattice(source.panel(), format, whole.panel(), pool);
  EXPECT_LT(match.lossless_groups, match.groups);
  // Half rows: groups lie one behind the other, whatever the rows are called.
  uint64_t lossless = 0;
  for (uint64_t half = 0; half < 2 * kRows; ++half) {
    const AffinePanel out = parts.panel();
    const uint64_t groups = half * format.row_groups(kColumns / 2) * 2;
    lossless += store_lattice_panel(
        {source.bytes.data() + half * kColumns, DType::kBF16, 1, kColumns / 2}, format,
        {out.codes + half * format.row_bytes(kColumns / 2), out.scales + groups,
         out.biases + groups});
  }
  EXPECT_EQ(lossless, match.lossless_groups);
  EXPECT_TRUE(parts == whole);
}

TEST(Lattice, FormatsServeEveryPart) {
  // Widths 2, 3, 4, 5, 6, 8, none.
  const auto found = [](std::vector<WidthNeeds> parts) {
    std::vector<std::array<uint64_t, 3>> out;
    for (const LatticeMatch& match : lattice_formats(parts, 64, DType::kBF16))
      out.push_back(
          {static_cast<uint64_t>(match.format.bits), match.lossless_groups, match.groups});
    return out;
  };
  using Formats = std::vector<std::array<uint64_t, 3>>;
  EXPECT_EQ(found({{1000, 0, 0, 0, 0, 0, 0}}), (Formats{{2, 1000, 1000}}));
  EXPECT_EQ(found({{990, 0, 5, 5, 0, 0, 0}}), (Formats{{2, 990, 1000}, {5, 1000, 1000}}));
  EXPECT_EQ(found({{989, 11, 0, 0, 0, 0, 0}}), (Formats{{3, 1000, 1000}}));
  EXPECT_EQ(found({{0, 0, 990, 0, 0, 0, 10}}), (Formats{{4, 990, 1000}}));
  EXPECT_EQ(found({{0, 0, 989, 0, 0, 0, 11}}), Formats{});
  EXPECT_EQ(found({{1000, 0, 0, 0, 0, 0, 0}, {0, 0, 100, 0, 0, 0, 0}}), (Formats{{4, 1100, 1100}}));
  EXPECT_EQ(found({{100000, 0, 0, 0, 0, 0, 0}, {0, 0, 98, 0, 0, 0, 2}}), Formats{});
  EXPECT_EQ(found({}), Formats{});
  EXPECT_EQ(found({{0, 0, 0, 0, 0, 0, 0}}), Formats{});
}

TEST(Lattice, RefusesValuesThatAreNotFinite) {
  Source source(DType::kBF16, std::vector<float>(kRows * kColumns, 0.5f));
  source.values[kColumns * 2 + 7] = std::numeric_limits<float>::infinity();
  source.encode();
  ThreadPool pool(1);
  test::Stored stored(kRows, kColumns, {4, 32, DType::kBF16});
  try {
    store_lattice(source.panel(), {4, 32, DType::kBF16}, stored.panel(), pool);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
    EXPECT_NE(error.message().find("row 2, column 7"), std::string::npos) << error.message();
  }
}

}  // namespace
}  // namespace jang
