// The quantized modules of a JANG v1 directory (format.md, section 7): codes as one bit stream over
// the whole matrix, a scale and a zero point or a bias a block, and, depending on the version,
// where width and shape stand. Every number is held against the sizes of the payloads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arch/config.h"
#include "arch/directory.h"
#include "io/checkpoint.h"
#include "io/json.h"

namespace jang {

struct V1Module {
  std::string source;  // name that the tensor had before it was quantized
  WidthEntry width;
  std::vector<uint64_t> shape;  // [E,] out, in
  const CheckpointTensor* codes = nullptr;
  const CheckpointTensor* scales = nullptr;
  const CheckpointTensor* offsets = nullptr;
  bool zero_points = false;  // w = (q - offset) * s; else w = s * q + offset
};

struct V1Contents {
  std::vector<V1Module> modules;
  std::vector<const CheckpointTensor*> plain;  // whatever belongs to no module
};

/// Weights of a group of a v1 directory, 64 where `jang_config` does not say. Error{kConfigValue}
/// naming `file`; kUnsupportedFormat for blocks that are no groups of ours.
int v1_block_size(const Json& jang_config, const std::string& file);

/// All of a v1 directory, which was opened with kMapped. Reads the small payloads that say what the
/// large ones are. Errors: kMissingTensor, kTripleShape, kUnsupportedFormat, each naming file and
/// tensor; of a version without shapes also those of sources_from_config.
V1Contents read_v1_modules(const ModelDirectory& directory);

/// Whether a tensor of that name is a part of a v1 module, and of which: its base, or empty.
std::string v1_base(const std::string& name);

}  // namespace jang
