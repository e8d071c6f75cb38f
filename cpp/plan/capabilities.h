// The `capabilities` object of jang_config.json: which parsers a chat front end needs (format.md,
// 4.4).
#pragma once

#include "arch/config.h"
#include "io/json.h"

namespace jang {

/// `architecture_type`: the document's architecture.type; `think_in_template`: whether the chat
/// template always opens a <think> at the end of its generation prompt.
Json capabilities_json(const ModelConfig& source, const std::string& architecture_type,
                       const std::string& cache_type, bool think_in_template);

}  // namespace jang
