// Members of a JSON object from a file that a program of ours wrote, each checked as it is taken:
// what is missing or of another kind is an error that names the file and the place in it.
//
// Relies on io/json.h for what is JSON at all; leaves what values mean to whoever asks for them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace jang {

class JsonFields {
 public:
  static constexpr int64_t kMaxCount = int64_t{1} << 53;  // every program's numbers reach so far

  /// `where`: the place of `json` in the file, for messages. Both outlive this object. Throws
  /// Error{kConfigValue}, as all members do, if it is no object.
  JsonFields(const Json& json, const std::string& file, std::string where);

  /// Null counts as absent.
  bool has(std::string_view key) const { return json_.find(key) != nullptr; }
  const Json& member(std::string_view key) const;
  uint64_t count(std::string_view key, int64_t most = kMaxCount) const;
  std::vector<int64_t> counts(std::string_view key) const;
  double number(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;
  bool flag(std::string_view key) const;
  const std::string& text(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;
  std::optional<JsonFields> object(std::string_view key) const;
  /// Calls visit(fields) for every item of an array of objects.
  void each(std::string_view key, const std::function<void(const JsonFields&)>& visit) const;
  /// Calls visit(key, fields) for every member of an object of objects.
  void each_member(std::string_view key,
                   const std::function<void(const std::string&, const JsonFields&)>& visit) const;

  /// "WHERE: expected WANTED"
  [[noreturn]] void fail(const std::string& wanted) const;
  const std::string& file() const noexcept { return file_; }

 private:
  const Json::Array& array(std::string_view key) const;
  uint64_t count_of(const Json& value, std::string_view key, int64_t most) const;
  double number_of(const Json& value, std::string_view key) const;
  std::string place(std::string_view key) const { return where_ + "." + std::string(key); }

  const Json& json_;
  const std::string& file_;
  std::string where_;
};

}  // namespace jang
