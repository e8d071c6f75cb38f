// The levels under test: those that this CPU runs, or only the one that JANG_ISA names. Where
// avx512 is among them, so are the kernels of amx over tiles in software, as "amx_software".
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"
#ifdef JANG_HAVE_AMX_SOFTWARE
#include "amx_software/software.h"
#endif

namespace jang::kernels {

struct TestLevel {
  std::string name;
  const KernelTable* table;
};
inline void PrintTo(const TestLevel& level, std::ostream* out) { *out << level.name; }

#ifdef JANG_HAVE_AMX_SOFTWARE
/// The level's own entries and, as in dispatch.cpp, those of avx512 for the others.
inline const KernelTable& amx_software() {
  static const KernelTable all = [] {
    KernelTable merged = *table_for(Level::kAvx512);
    constexpr std::size_t kEntries = sizeof(KernelTable) / sizeof(void*);
    void* entries[2][kEntries];
    std::memcpy(entries[0], &merged, sizeof merged);
    std::memcpy(entries[1], amx_software_table(), sizeof merged);
    // Behind the level there is nothing but function pointers.
    for (std::size_t i = 1; i < kEntries; ++i) {
      if (entries[1][i] != nullptr) entries[0][i] = entries[1][i];
    }
    std::memcpy(&merged, entries[0], sizeof merged);
    merged.level = Level::kAmx;
    return merged;
  }();
  return all;
}
#endif

inline std::vector<TestLevel> test_levels() {
  std::vector<TestLevel> levels;
  const char* forced = std::getenv("JANG_ISA");
  const auto wanted = [forced](Level level) {
    return forced == nullptr || *forced == '\0' || std::strcmp(forced, level_name(level)) == 0;
  };
  for (int i = 0; i < kLevels; ++i) {
    const auto level = static_cast<Level>(i);
    if (!level_supported(level) || !wanted(level)) continue;
    levels.push_back({level_name(level), table_for(level)});
#ifdef JANG_HAVE_AMX_SOFTWARE
    if (level == Level::kAvx512) levels.push_back({"amx_software", &amx_software()});
#endif
  }
  return levels;
}

/// A test that runs once per level; `kernels()` is the level's table, `reference()` the definition.
class LevelTest : public testing::TestWithParam<TestLevel> {
 protected:
  static const KernelTable& kernels() { return *GetParam().table; }
  static const KernelTable& reference() { return *table_for(Level::kReference); }
};

inline std::string level_of(const testing::TestParamInfo<TestLevel>& info) {
  return info.param.name;
}

}  // namespace jang::kernels
