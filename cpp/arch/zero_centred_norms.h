// Norms whose files hold gamma - 1 (qwen3_next, qwen3_5, qwen3_5_moe): which they are, and whether
// a directory stores them so or as gamma, which is what stock mlx-lm and our own output have.
#pragma once

#include <span>
#include <string_view>

#include "arch/config.h"
#include "arch/inventory.h"
#include "arch/spec.h"

namespace jang {

/// Of this name in config.json: the norms of a written model are gamma.
inline constexpr std::string_view kNormsShiftedKey = "jang_norms_pre_shifted";

bool has_zero_centred_norms(std::string_view model_type) noexcept;
/// Whether the norm of that module path, final or not, is one of them.
bool is_zero_centred(std::string_view model_type, std::string_view path) noexcept;
/// The convolutions tell of plain and stock directories: [channels, 1, taps] is how Hugging Face
/// stores them, whose norms are gamma - 1; stock mlx-lm turns both at once.
bool holds_raw_convolutions(std::span<const SourceTensor> tensors) noexcept;
/// Makes the norms that such files hold add 1 when they run.
void add_one_to_norms(ModelSpec& spec);

}  // namespace jang
