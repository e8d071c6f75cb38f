// The levels under test: those that this CPU runs, or only the one that JANG_ISA names. Where
// avx512 is among them, so are the kernels of amx, in two ways that need no tiles: compiled over
// tiles in software ("amx_software"), and as the program has them, with every tile instruction
// trapped ("amx_trapped").
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
#include "kernels/level_tables.h"
#endif

namespace jang::kernels {

struct TestLevel {
  std::string name;
  const KernelTable* table;
};
inline void PrintTo(const TestLevel& level, std::ostream* out) { *out << level.name; }

#ifdef JANG_HAVE_AMX_SOFTWARE
/// The level's own entries and, as in dispatch.cpp, those of avx512 for the others.
inline KernelTable over_avx512(const KernelTable& own) {
  KernelTable merged = *table_for(Level::kAvx512);
  constexpr std::size_t kEntries = sizeof(KernelTable) / sizeof(void*);
  void* entries[2][kEntries];
  std::memcpy(entries[0], &merged, sizeof merged);
  std::memcpy(entries[1], &own, sizeof own);
  // Behind the level there is nothing but function pointers.
  for (std::size_t i = 1; i < kEntries; ++i) {
    if (entries[1][i] != nullptr) entries[0][i] = entries[1][i];
  }
  std::memcpy(&merged, entries[0], sizeof merged);
  merged.level = own.level;
  return merged;
}

inline void add_amx_without_tiles(std::vector<TestLevel>& levels) {
  static const KernelTable software = over_avx512(*amx_software_table());
  levels.push_back({"amx_software", &software});
#ifdef JANG_HAVE_AMX_TRAPS
  if (level_supported(Level::kAmx)) return;
  static const KernelTable trapped = over_avx512(*x86_amx_table());
  carry_out_trapped_tiles();
  levels.push_back({"amx_trapped", &trapped});
#endif
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
    if (level == Level::kAvx512) add_amx_without_tiles(levels);
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
