// Canonical text of a value. nlohmann/json spells strings and finite numbers: shortest digits that
// read back equal.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/json.h"

namespace jang {
namespace {

void append_scalar(std::string& out, const Json& value) {
  if (value.is_null()) {
    out += "null";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "true" : "false";
  } else if (value.is_string()) {
    try {
      out += nlohmann::json(value.as_string()).dump();
    } catch (const nlohmann::json::exception&) {
      throw Error(ErrorCode::kArgument,
                  "cannot write '" + value.as_string() + "': not valid UTF-8");
    }
  } else if (!value.is_integer() && !std::isfinite(value.as_double())) {
    const double v = value.as_double();
    out += std::isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity";
  } else if (int64_t integer = 0; value.get_integer(std::numeric_limits<int64_t>::min(),
                                                    std::numeric_limits<int64_t>::max(), integer)) {
    out += std::to_string(integer);
  } else if (value.is_integer()) {
    out += std::to_string(value.as_uint64());
  } else {
    out += nlohmann::json(value.as_double()).dump();
  }
}

void append(std::string& out, const Json& value, std::size_t indent) {
  const auto line = [&](std::size_t depth) {
    out += '\n';
    out.append(2 * depth, ' ');
  };
  if (value.is_array() && !value.as_array().empty()) {
    char before = '[';
    for (const Json& item : value.as_array()) {
      out += before;
      line(indent + 1);
      append(out, item, indent + 1);
      before = ',';
    }
    line(indent);
    out += ']';
  } else if (value.is_object() && !value.as_object().empty()) {
    char before = '{';
    for (const auto& [key, member] : value.as_object()) {
      out += before;
      line(indent + 1);
      append_scalar(out, Json(key));
      out += ": ";
      append(out, member, indent + 1);
      before = ',';
    }
    line(indent);
    out += '}';
  } else if (value.is_array()) {
    out += "[]";
  } else if (value.is_object()) {
    out += "{}";
  } else {
    append_scalar(out, value);
  }
}

}  // namespace

std::string dump_json(const Json& value) {
  std::string out;
  append(out, value, 0);
  out += '\n';
  return out;
}

}  // namespace jang
