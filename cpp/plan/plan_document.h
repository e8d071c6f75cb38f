// The documents a plan turns into: what goes into the written directory. Byte-stable: same plan,
// same bytes.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "plan/plan.h"

namespace jang {

/// config.json of the output: the source's, completed by the family, with the per-module map
/// (format.md 4.3).
std::string output_config_json(const Plan& plan, const ModelConfig& source);

/// model.safetensors.index.json.
std::string output_index_json(const Plan& plan);

struct ConversionRecord {
  std::string method;           // what really ran: "rtn", "mse"
  std::string source_name;      // directory name or org/name, never a path
  std::string source_revision;  // of a Hub source, or empty
  DType source_dtype = DType::kBF16;
  std::map<std::string, uint32_t> checksums;  // tensor -> CRC-32 of its payload
  bool think_in_template = false;             // what the chat template shows
  std::string generator_version;
};
/// jang_config.json (format.md 4.4).
std::string jang_config_json(const Plan& plan, const ModelConfig& source,
                             const ConversionRecord& record);

}  // namespace jang
