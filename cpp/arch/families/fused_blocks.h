// Projections that share one matrix: in the file and in memory they stay one, and layers see views
// of its rows.
#pragma once

#include <string>

#include "arch/spec.h"

namespace jang {

/// The rows of q, k and v, in this order, become those of the module `path`; biases likewise.
void fuse_qkv(AttentionSpec& attention, std::string path);
/// The same of gate and up.
void fuse_gate_up(GatedMlpSpec& mlp, std::string path);

}  // namespace jang
