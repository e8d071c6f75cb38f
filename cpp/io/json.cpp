// Strict parsing: nlohmann/json's SAX events build our value type; nothing of its DOM, which takes
// the last of two equal keys, is involved.
//
// Its lexer skips a BOM and takes NUL for the end of the text, so both are looked for first. It
// knows no Infinity or NaN: where they are allowed, a bare one outside strings is rewritten to
// {"__float__": "..."}, the other accepted spelling, before parsing.
#include "io/json.h"

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/utf8.h"
#include "io/json_error.h"

namespace jang {
namespace {

constexpr std::string_view kFloatKey = "__float__";

std::optional<double> non_finite_value(std::string_view text) {
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  return std::nullopt;
}

/// Bare non-finite numbers made into objects; nothing else changes.
std::string spell_out_non_finite(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      out += c;
      if (c == '\\' && i + 1 < text.size()) out += text[++i];
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    std::string_view word;
    for (const std::string_view w : {"Infinity", "-Infinity", "NaN"}) {
      if (text.substr(i, w.size()) == w) word = w;
    }
    if (word.empty()) {
      out += c;
    } else {
      out.append("{\"").append(kFloatKey).append("\":\"").append(word).append("\"}");
      i += word.size() - 1;
    }
  }
  return out;
}

class Builder {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  Builder(const std::string& file, ErrorCode code, const JsonLimits& limits)
      : file_(file), code_(code), limits_(limits) {}

  bool null() { return scalar(Json()); }
  bool boolean(bool v) { return scalar(Json(v)); }
  bool number_integer(number_integer_t v) { return scalar(Json(v)); }
  bool number_unsigned(number_unsigned_t v) { return scalar(Json(v)); }
  bool number_float(number_float_t v, const string_t&) { return scalar(Json(v)); }
  bool string(string_t& v) { return scalar(Json(std::move(v))); }
  bool binary(binary_t&) { return fail("binary value"); }
  bool start_object(std::size_t) { return open(Json(Json::Object{})); }
  bool start_array(std::size_t) { return open(Json(Json::Array{})); }
  bool end_array() { return close(); }

  bool key(string_t& k) {
    auto& object = stack_.back().value.as_object();
    const auto [place, is_new] = object.try_emplace(std::move(k));
    if (!is_new) fail("duplicate key " + quoted_path(place->first));
    stack_.back().key = &place->first;
    stack_.back().slot = &place->second;
    return true;
  }

  bool end_object() {
    if (limits_.non_finite) {
      const auto& object = stack_.back().value.as_object();
      if (object.size() == 1 && object.begin()->first == kFloatKey &&
          object.begin()->second.is_string()) {
        const auto& text = object.begin()->second.as_string();
        const auto value = non_finite_value(text);
        if (!value) fail("expected Infinity, -Infinity or NaN in __float__, found '" + text + "'");
        stack_.back().value = Json(*value);
      }
    }
    return close();
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& e) {
    return fail(json_fault(position, token, e.what()));
  }

  Json take() { return std::move(root_); }

 private:
  // A container being filled. It moves into its parent when it ends, so no pointer into a growing
  // vector is kept; `slot` and `key` point into a map, which does not move its nodes.
  struct Open {
    Json value;
    const std::string* key = nullptr;
    Json* slot = nullptr;
  };

  [[noreturn]] bool fail(const std::string& message) const {
    throw Error(code_, file_, {}, message);
  }

  std::string quoted_path(const std::string& last) const {
    std::string path;
    for (const Open& open : stack_) {
      if (&open != &stack_.back() && open.key != nullptr) path += *open.key + '.';
    }
    return "'" + path + last + "'";
  }

  void count_node() {
    if (++nodes_ > limits_.max_nodes) {
      fail("expected at most " + std::to_string(limits_.max_nodes) + " values, found more");
    }
  }

  bool place(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (stack_.back().value.is_array()) {
      stack_.back().value.as_array().push_back(std::move(value));
    } else {
      *stack_.back().slot = std::move(value);
    }
    return true;
  }

  bool scalar(Json value) {
    count_node();
    return place(std::move(value));
  }

  bool open(Json value) {
    count_node();
    if (stack_.size() >= static_cast<std::size_t>(limits_.max_depth)) {
      fail("expected at most " + std::to_string(limits_.max_depth) +
           " levels of nesting, found more");
    }
    stack_.push_back(Open{std::move(value), nullptr, nullptr});
    return true;
  }

  bool close() {
    Json done = std::move(stack_.back().value);
    stack_.pop_back();
    return place(std::move(done));
  }

  const std::string& file_;
  ErrorCode code_;
  const JsonLimits& limits_;
  std::vector<Open> stack_;
  std::size_t nodes_ = 0;
  Json root_;
};

}  // namespace

double Json::as_double() const {
  if (const auto* v = std::get_if<int64_t>(&value_)) return static_cast<double>(*v);
  if (const auto* v = std::get_if<uint64_t>(&value_)) return static_cast<double>(*v);
  return std::get<double>(value_);
}

uint64_t Json::as_uint64() const {
  if (const auto* v = std::get_if<int64_t>(&value_)) return static_cast<uint64_t>(*v);
  return std::get<uint64_t>(value_);
}

bool Json::get_integer(int64_t low, int64_t high, int64_t& out) const noexcept {
  // What fits int64 is stored as int64, so the unsigned alternative is always out of range.
  const auto* v = std::get_if<int64_t>(&value_);
  if (v == nullptr || *v < low || *v > high) return false;
  out = *v;
  return true;
}

const Json* Json::find(std::string_view key) const noexcept {
  const auto* object = std::get_if<Object>(&value_);
  if (object == nullptr) return nullptr;
  const auto place = object->find(key);
  return place == object->end() || place->second.is_null() ? nullptr : &place->second;
}

Json& Json::operator[](std::string_view key) {
  if (is_null()) value_ = Object{};
  Object& object = as_object();
  const auto place = object.find(key);
  return place != object.end() ? place->second : object[std::string(key)];
}

std::string json_fault(std::size_t position, std::string_view last_token, std::string_view what) {
  // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while ..."
  constexpr std::array<std::string_view, 3> kPrefixes{"] ", "column ", ": "};
  for (const std::string_view prefix : kPrefixes) {
    const std::size_t at = what.find(prefix);
    if (at == std::string_view::npos) break;
    what.remove_prefix(at + prefix.size());
  }
  what = what.substr(0, what.find("; last read: "));
  return "byte " + std::to_string(position) + ": expected JSON, " + std::string(what) + ", near '" +
         std::string(last_token.substr(0, 80)) + "'";
}

Json parse_json(std::string_view text, const std::string& file, ErrorCode code,
                const JsonLimits& limits) {
  const auto fail = [&](const std::string& message) { throw Error(code, file, {}, message); };
  if (text.size() > limits.max_bytes) {
    fail("expected at most " + std::to_string(limits.max_bytes) + " bytes, found " +
         std::to_string(text.size()));
  }
  if (text.substr(0, 3) == "\xef\xbb\xbf") fail("byte 0: expected JSON, found a byte order mark");
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    fail("byte " + std::to_string(nul) + ": expected JSON, found a NUL byte");
  }
  if (const std::size_t valid = utf8_valid_prefix(text); valid != text.size()) {
    fail("byte " + std::to_string(valid) + ": expected UTF-8, found an invalid sequence");
  }
  std::string spelled_out;
  if (limits.non_finite && (text.find("Infinity") != std::string_view::npos ||
                            text.find("NaN") != std::string_view::npos)) {
    spelled_out = spell_out_non_finite(text);
    text = spelled_out;
  }
  Builder builder(file, code, limits);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace jang
