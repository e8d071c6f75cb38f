// Strict JSON in, canonical JSON out, through one small value type, so that the parser stays in one
// file.
//
// Parsing is SAX over nlohmann/json: duplicate keys, NUL bytes, a BOM, invalid UTF-8, trailing
// text, nesting beyond `max_depth` and documents beyond `max_bytes` are errors. Integers stay
// exact: a number written without fraction or exponent that fits int64 or uint64 is an integer,
// everything else a double.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace jang {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json, std::less<>>;  // sorted: what is written is sorted too

  Json() = default;            // null
  Json(std::nullptr_t) {}      // NOLINT(google-explicit-constructor)
  Json(bool v) : value_(v) {}  // NOLINT(google-explicit-constructor)
  /// Any integer type; one that fits int64 is kept as such, so that equal numbers compare equal.
  template <std::integral T>
  requires(!std::same_as<T, bool>) Json(T v) {  // NOLINT(google-explicit-constructor)
    if (std::in_range<int64_t>(v)) {
      value_ = static_cast<int64_t>(v);
    } else {
      value_ = static_cast<uint64_t>(v);
    }
  }
  Json(double v) : value_(v) {}                         // NOLINT(google-explicit-constructor)
  Json(std::string v) : value_(std::move(v)) {}         // NOLINT(google-explicit-constructor)
  Json(std::string_view v) : value_(std::string(v)) {}  // NOLINT(google-explicit-constructor)
  Json(const char* v) : value_(std::string(v)) {}       // NOLINT(google-explicit-constructor)
  Json(Array v) : value_(std::move(v)) {}               // NOLINT(google-explicit-constructor)
  Json(Object v) : value_(std::move(v)) {}              // NOLINT(google-explicit-constructor)

  bool is_null() const noexcept { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const noexcept { return std::holds_alternative<bool>(value_); }
  bool is_integer() const noexcept {
    return std::holds_alternative<int64_t>(value_) || std::holds_alternative<uint64_t>(value_);
  }
  bool is_number() const noexcept { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const noexcept { return std::holds_alternative<std::string>(value_); }
  bool is_array() const noexcept { return std::holds_alternative<Array>(value_); }
  bool is_object() const noexcept { return std::holds_alternative<Object>(value_); }

  // Access after the matching is_*(); anything else is a programmer error.
  bool as_bool() const { return std::get<bool>(value_); }
  double as_double() const;    // of any number
  uint64_t as_uint64() const;  // of an integer that is not negative
  const std::string& as_string() const { return std::get<std::string>(value_); }
  const Array& as_array() const { return std::get<Array>(value_); }
  Array& as_array() { return std::get<Array>(value_); }
  const Object& as_object() const { return std::get<Object>(value_); }
  Object& as_object() { return std::get<Object>(value_); }
  /// The integer if it lies in [low, high]; false otherwise, also for anything but an integer.
  bool get_integer(int64_t low, int64_t high, int64_t& out) const noexcept;

  /// The member, or nullptr if this is no object, has no such key, or holds null there.
  const Json* find(std::string_view key) const noexcept;
  /// Sets a member; turns null into an object first.
  Json& operator[](std::string_view key);

  bool operator==(const Json&) const = default;

 private:
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Array, Object> value_;
};

struct JsonLimits {
  std::size_t max_bytes = 64u << 20;
  int max_depth = 32;
  std::size_t max_nodes = 8'000'000;
  /// Accepts bare Infinity, -Infinity, NaN and {"__float__": "Infinity"} as doubles: config.json
  /// only.
  bool non_finite = false;
};

/// Throws Error{code} naming `file`, the byte offset and what was expected there.
Json parse_json(std::string_view text, const std::string& file, ErrorCode code,
                const JsonLimits& limits = {});

/// UTF-8, keys sorted, two spaces, final newline: the same value always gives the same bytes. A
/// non-finite double is written the way config.json spells it (bare Infinity, -Infinity, NaN).
std::string dump_json(const Json& value);

}  // namespace jang
