// Which table a process gets: names, forced levels, refusals, complete tables.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include "kernels/cpu_features.h"
#include "kernels/kernel_table.h"

namespace jang::kernels {
namespace {

constexpr Level kAll[kLevels] = {Level::kReference, Level::kBaseline, Level::kAvx2,
                                 Level::kAvx2Vnni,  Level::kAvx512,   Level::kAmx,
                                 Level::kNeon,      Level::kNeonI8mm};

TEST(Dispatch, NamesAreThoseOfTheEnvironmentVariable) {
  const char* names[kLevels] = {"reference", "baseline", "avx2", "avx2_vnni",
                                "avx512",    "amx",      "neon", "neon_i8mm"};
  for (int i = 0; i < kLevels; ++i) EXPECT_STREQ(level_name(kAll[i]), names[i]);
}

TEST(Dispatch, ReferenceAndBaselineRunEverywhere) {
  EXPECT_TRUE(level_supported(Level::kReference));
  EXPECT_TRUE(level_supported(Level::kBaseline));
}

TEST(Dispatch, TablesOfSupportedLevelsAreComplete) {
  for (const Level level : kAll) {
    const KernelTable* table = table_for(level);
    ASSERT_EQ(table != nullptr, level_supported(level)) << level_name(level);
    if (table == nullptr) continue;
    EXPECT_EQ(table->level, level);
    // Behind the level there is nothing but function pointers.
    constexpr std::size_t kEntries = sizeof(KernelTable) / sizeof(void*);
    const char* bytes = reinterpret_cast<const char*>(table);
    for (std::size_t i = 1; i < kEntries; ++i) {
      void* entry = nullptr;
      std::memcpy(&entry, bytes + i * sizeof entry, sizeof entry);
      EXPECT_NE(entry, nullptr) << level_name(level) << ", entry " << i;
    }
  }
}

TEST(Dispatch, EveryLevelHasItsOwnLinearKernels) {
  std::set<const void*> seen;
  int levels = 0;
  for (const Level level : {Level::kReference, Level::kBaseline, Level::kAvx2, Level::kAvx512}) {
    if (const KernelTable* table = table_for(level)) {
      seen.insert(reinterpret_cast<const void*>(table->affine_matmul));
      ++levels;
    }
  }
  EXPECT_EQ(static_cast<int>(seen.size()), levels);
}

TEST(Dispatch, EveryLevelHasItsOwnIntegerKernels) {
  std::set<const void*> seen;
  int levels = 0;
  for (const Level level : {Level::kReference, Level::kBaseline, Level::kAvx2, Level::kAvx2Vnni,
                            Level::kAvx512, Level::kAmx, Level::kNeon, Level::kNeonI8mm}) {
    if (const KernelTable* table = table_for(level)) {
      seen.insert(reinterpret_cast<const void*>(table->affine_matmul_int8));
      ++levels;
    }
  }
  EXPECT_EQ(static_cast<int>(seen.size()), levels);
}

TEST(Dispatch, ForcedLevelsAreTaken) {
  for (const Level level : kAll) {
    const char* message = nullptr;
    const KernelTable* table = choose_table(level_name(level), &message);
    if (level_supported(level)) {
      ASSERT_NE(table, nullptr);
      EXPECT_EQ(table->level, level);
    } else {
      EXPECT_EQ(table, nullptr);
      ASSERT_NE(message, nullptr);
      EXPECT_NE(std::string(message).find(level_name(level)), std::string::npos) << message;
      EXPECT_NE(std::string(message).find(level_compiled(level) ? "does not support"
                                                                : "does not contain"),
                std::string::npos)
          << message;
    }
  }
}

TEST(Dispatch, WithoutAWishTheBestLevelAndNeverReference) {
  const char* message = nullptr;
  for (const char* name : {static_cast<const char*>(nullptr), ""}) {
    const KernelTable* table = choose_table(name, &message);
    ASSERT_NE(table, nullptr);
    Level best = Level::kBaseline;
    for (const Level level : kAll) {
      if (level_supported(level)) best = level;
    }
    EXPECT_EQ(table->level, best);
  }
}

TEST(Dispatch, UnknownNamesAreRefused) {
  const std::string endless(10000, 'x');
  for (const char* name : {"avx3", "AVX2", " avx2", "avx2 ", "best", endless.c_str()}) {
    const char* message = nullptr;
    EXPECT_EQ(choose_table(name, &message), nullptr) << name;
    ASSERT_NE(message, nullptr);
    EXPECT_NE(std::string(message).find("unknown level"), std::string::npos) << message;
    EXPECT_NE(std::string(message).find("neon_i8mm"), std::string::npos)
        << "cut short: " << message;
  }
}

// The tiles of amx: each thing that may be missing, and that a process asks for them only where
// they are.
TEST(Dispatch, TilesNeedTheProcessorTheSystemAndItsPermission) {
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25;
  constexpr unsigned kNeeded = kBf16 | kTiles | kInt8;
  constexpr unsigned kSaved = 0x600e7;
  static int asked;
  const auto grant = []() noexcept { return ++asked > 0; };
  const auto refuse = []() noexcept { return ++asked < 0; };
  const auto reason = [](const char* text) { return std::string(text != nullptr ? text : ""); };

  asked = 0;
  EXPECT_EQ(why_no_tiles(kNeeded, kSaved, grant), nullptr);
  EXPECT_EQ(why_no_tiles(~0u, ~0u, grant), nullptr);
  EXPECT_EQ(asked, 2);
  EXPECT_NE(reason(why_no_tiles(kNeeded, kSaved, refuse)).find("refused"), std::string::npos);
  EXPECT_EQ(asked, 3);
  for (const unsigned missing : {kBf16, kTiles, kInt8}) {
    EXPECT_NE(reason(why_no_tiles(kNeeded & ~missing, kSaved, grant)).find("this CPU"),
              std::string::npos);
  }
  for (const unsigned missing : {1u << 17, 1u << 18}) {
    EXPECT_NE(reason(why_no_tiles(kNeeded, kSaved & ~missing, grant)).find("does not save"),
              std::string::npos);
  }
  EXPECT_EQ(asked, 3);
}

// The whole program runs with JANG_ISA set once per level; then this is the proof that it counts.
TEST(Dispatch, ActiveTableIsTheForcedOne) {
  const char* forced = std::getenv("JANG_ISA");
  const char* message = nullptr;
  const KernelTable* active = active_table(&message);
  ASSERT_NE(active, nullptr) << message;
  if (forced != nullptr && *forced != '\0') {
    EXPECT_STREQ(level_name(active->level), forced);
  } else {
    EXPECT_EQ(active, choose_table(nullptr, &message));
  }
  EXPECT_EQ(active_table(&message), active);
}

// active_table() is fixed at the first call, so each wish gets a child process. Suites of this name
// run before all others, when no call was made yet.
using DispatchDeathTest = testing::TestWithParam<const char*>;

TEST_P(DispatchDeathTest, EnvironmentForcesTheActiveTable) {
  const std::string wish = GetParam();
  const char* refusal = nullptr;
  const KernelTable* expected = choose_table(wish.c_str(), &refusal);
  const auto active = [&wish] {
    setenv("JANG_ISA", wish.c_str(), 1);
    const char* message = nullptr;
    const KernelTable* table = active_table(&message);
    std::fprintf(stderr, "active: %s\n", table != nullptr ? level_name(table->level) : message);
    std::exit(table != nullptr ? 0 : 1);
  };
  EXPECT_EXIT(active(), testing::ExitedWithCode(expected != nullptr ? 0 : 1),
              "active: " + (expected != nullptr ? wish : "JANG_ISA=" + wish));
}

INSTANTIATE_TEST_SUITE_P(Levels, DispatchDeathTest,
                         testing::Values("reference", "baseline", "avx2", "avx2_vnni", "avx512",
                                         "amx", "neon", "neon_i8mm", "sse9"),
                         [](const auto& wish) { return std::string(wish.param); });

}  // namespace
}  // namespace jang::kernels
