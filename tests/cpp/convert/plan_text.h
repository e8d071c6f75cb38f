// Plan files changed on purpose.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "base/error.h"
#include "io/checksum.h"
#include "io/json.h"

namespace jang {

/// A text with the checksum that it should have.
inline std::string resealed(const std::string& text, const std::function<void(Json&)>& change) {
  Json document = parse_json(text, "p", ErrorCode::kConfigSyntax);
  change(document);
  document.as_object().erase("checksum");
  const std::string body = dump_json(document);
  document["checksum"] = crc32_text(crc32_of(std::as_bytes(std::span(body))));
  return dump_json(document);
}

}  // namespace jang
