// Widths as a file states them: `quantization` of config.json, and the manifest of
// jang_config.json. Strict: an entry is understood completely or refused (format.md, section 7).
#pragma once

#include <string>

#include "arch/config.h"
#include "arch/directory.h"
#include "io/json.h"

namespace jang {

/// `quantization` of config.json. Keys are renamed like tensors. Faults are Error{kMapEntry} naming
/// the module; modes and widths of other formats Error{kUnsupportedFormat} naming them.
WidthMap parse_width_map(const ModelConfig& config, const Json& quantization);

/// Bits and group of each path of tensor_quantization_manifest; `file` is the one it stands in.
/// Empty without a manifest.
std::map<std::string, WidthEntry, std::less<>> parse_manifest_widths(const ModelConfig& config,
                                                                     const Json& jang_config,
                                                                     const std::string& file);

}  // namespace jang
