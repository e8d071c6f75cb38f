// Several statistics files of one model as one: sums and counts add, module by module.
#pragma once

#include <filesystem>
#include <span>

#include "calibrate/statistics_file.h"

namespace jang {

/// Adds `files`, one or more, in their order into `output`, which must not exist. H is kept where
/// all have it. Throws kArgument naming both files where model, tokenizer or modules differ.
void merge_statistics(std::span<const StatisticsFile> files, const std::filesystem::path& output);

}  // namespace jang
