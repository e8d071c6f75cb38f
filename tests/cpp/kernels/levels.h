// The levels under test: those that this CPU runs, or only the one that JANG_ISA names.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace jang::kernels {

inline std::vector<Level> test_levels() {
  std::vector<Level> levels;
  const char* forced = std::getenv("JANG_ISA");
  for (int i = 0; i < kLevels; ++i) {
    const auto level = static_cast<Level>(i);
    if (!level_supported(level)) continue;
    if (forced != nullptr && *forced != '\0' && std::string(forced) != level_name(level)) continue;
    levels.push_back(level);
  }
  return levels;
}

/// A test that runs once per level; `kernels()` is the level's table, `reference()` the definition.
class LevelTest : public testing::TestWithParam<Level> {
 protected:
  static const KernelTable& kernels() { return *table_for(GetParam()); }
  static const KernelTable& reference() { return *table_for(Level::kReference); }
};

inline std::string level_of(const testing::TestParamInfo<Level>& info) {
  return level_name(info.param);
}

}  // namespace jang::kernels
