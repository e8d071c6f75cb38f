// What looks like a model of ours and is not: recognised and refused by name (format.md, section
// 7).
#pragma once

#include <filesystem>

#include "arch/config.h"
#include "io/checkpoint.h"
#include "io/json.h"

namespace jang {

/// quantization_config with a method of another library that has no reader here, for directories
/// without `quantization`.
void refuse_foreign_method(const ModelConfig& config);

/// Variants of jang_config.json: JANGTQ, other weight formats, rotated weights, newer versions.
/// `file` is named in messages.
void refuse_foreign_jang(const Json& jang_config, const std::string& file);

/// Files beside the weights that only other formats have.
void refuse_foreign_files(const std::filesystem::path& directory);

/// Tensor names that only other formats have.
void refuse_foreign_tensors(const Checkpoint& checkpoint, bool jang_v1);

}  // namespace jang
