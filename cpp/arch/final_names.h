// How source tensors are named in the written model: prefixes, expert stacks, and what is left out
// (format.md, section 9). Names only; shapes and rows are split_tensor.h's and inventory.h's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "arch/config.h"

namespace jang {

/// Rotary buffers, multi-token prediction, layers past the last, towers of other modalities, keys
/// and values of layers that share another's. (A tied head is judged with the whole inventory.)
bool is_dropped(const ModelConfig& config, std::string_view source_name);

/// The component of a name that says it belongs to another modality ("vision_tower"), or empty.
std::string_view tower_of(std::string_view source_name);

struct FinalName {
  std::string name;           // "model.layers.0.mlp.switch_mlp.gate_proj.weight"
  int64_t expert = -1;        // position in the stack of that name; -1: the whole tensor
  std::string template_name;  // of a stack: the source name with "*" for the number
};
FinalName final_name(const ModelConfig& config, std::string_view source_name);

/// The same prefixes for a module path, as keys of a width map have it.
std::string final_module_path(const ModelConfig& config, std::string_view path);

/// "a.b.c" -> number after "layers", -1 outside.
int64_t layer_number(std::string_view name);

}  // namespace jang
