#include "io/json_fields.h"

#include <utility>

namespace jang {

JsonFields::JsonFields(const Json& json, const std::string& file, std::string where)
    : json_(json), file_(file), where_(std::move(where)) {
  if (!json.is_object()) fail("an object");
}

const Json& JsonFields::member(std::string_view key) const {
  const Json* found = json_.find(key);
  if (found == nullptr) fail(std::string(key));
  return *found;
}

uint64_t JsonFields::count(std::string_view key, int64_t most) const {
  return count_of(member(key), key, most);
}

std::vector<int64_t> JsonFields::counts(std::string_view key) const {
  std::vector<int64_t> out;
  for (const Json& item : array(key))
    out.push_back(static_cast<int64_t>(count_of(item, key, kMaxCount)));
  return out;
}

double JsonFields::number(std::string_view key) const { return number_of(member(key), key); }

std::vector<double> JsonFields::numbers(std::string_view key) const {
  std::vector<double> out;
  for (const Json& item : array(key)) out.push_back(number_of(item, key));
  return out;
}

bool JsonFields::flag(std::string_view key) const {
  const Json& value = member(key);
  if (!value.is_bool()) fail("true or false as " + std::string(key));
  return value.as_bool();
}

const std::string& JsonFields::text(std::string_view key) const {
  const Json& value = member(key);
  if (!value.is_string()) fail("text as " + std::string(key));
  return value.as_string();
}

std::vector<std::string> JsonFields::texts(std::string_view key) const {
  std::vector<std::string> out;
  for (const Json& item : array(key)) {
    if (!item.is_string()) fail("texts as " + std::string(key));
    out.push_back(item.as_string());
  }
  return out;
}

std::optional<JsonFields> JsonFields::object(std::string_view key) const {
  const Json* found = json_.find(key);
  if (found == nullptr) return std::nullopt;
  return JsonFields(*found, file_, place(key));
}

void JsonFields::each(std::string_view key,
                      const std::function<void(const JsonFields&)>& visit) const {
  const Json::Array& items = array(key);
  for (std::size_t i = 0; i < items.size(); ++i)
    visit(JsonFields(items[i], file_, place(key) + "[" + std::to_string(i) + "]"));
}

void JsonFields::each_member(
    std::string_view key,
    const std::function<void(const std::string&, const JsonFields&)>& visit) const {
  const Json& members = member(key);
  if (!members.is_object()) fail("an object as " + std::string(key));
  for (const auto& [name, value] : members.as_object()) visit(name, JsonFields(value, file_, name));
}

void JsonFields::fail(const std::string& wanted) const {
  throw Error(ErrorCode::kConfigValue, file_, {}, where_ + ": expected " + wanted);
}

const Json::Array& JsonFields::array(std::string_view key) const {
  const Json& value = member(key);
  if (!value.is_array()) fail("an array as " + std::string(key));
  return value.as_array();
}

uint64_t JsonFields::count_of(const Json& value, std::string_view key, int64_t most) const {
  int64_t out = 0;
  if (!value.get_integer(0, most, out))
    fail(std::string(key) + " from 0 to " + std::to_string(most));
  return static_cast<uint64_t>(out);
}

double JsonFields::number_of(const Json& value, std::string_view key) const {
  if (!value.is_number()) fail("a number as " + std::string(key));
  return value.as_double();
}

}  // namespace jang
