// Parsing, matching and applying `GLOB=BITS[:GROUP]`.
#include "plan/width_rules.h"

#include <charconv>

#include "base/error.h"

namespace jang {
namespace {

[[noreturn]] void bad_rule(std::string_view text, const std::string& message) {
  throw Error(ErrorCode::kArgument, {}, {},
              "\"" + std::string(text.substr(0, 80)) + "\": " + message,
              "write GLOB=BITS, GLOB=BITS:GROUP or GLOB=none, for example '*.v_proj=6:64'");
}

std::optional<int> parse_int(std::string_view digits) {
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

/// "[a-c]", "[!x]" at pattern[at] == '['. Sets `matched` and returns the position behind it; npos
/// if the bracket never closes, which makes it a plain character.
std::size_t match_class(std::string_view pattern, std::size_t at, char c, bool& matched) {
  std::size_t i = at + 1;
  const bool negated = i < pattern.size() && pattern[i] == '!';
  if (negated) ++i;
  const std::size_t first = i;
  const std::size_t close = pattern.find(']', first + 1);  // a leading ] is a member
  if (close == std::string_view::npos) return close;
  bool found = false;
  while (i < close) {
    if (i + 2 < close && pattern[i + 1] == '-') {
      found = found || (pattern[i] <= c && c <= pattern[i + 2]);
      i += 3;
    } else {
      found = found || pattern[i] == c;
      ++i;
    }
  }
  matched = found != negated;
  return close + 1;
}

void apply(const WidthRule& rule, WidthUnit& unit, std::vector<std::string>& warnings) {
  unit.fixed = true;
  if (!rule.bits) {
    unit.bits = 0;
    return;
  }
  const uint64_t columns = unit.source->columns();
  const int wanted = rule.group_size.value_or(unit.group_size != 0 ? unit.group_size : 64);
  const int group = fitting_group_size(columns, wanted);
  if (group == 0) {
    warnings.push_back(unit.source->path + ": no group size divides its " +
                       std::to_string(columns) + " inputs; stays unquantized");
    return;
  }
  if (rule.group_size && group != wanted) {
    warnings.push_back(unit.source->path + ": group size " + std::to_string(wanted) +
                       " does not divide its " + std::to_string(columns) + " inputs; takes " +
                       std::to_string(group));
  }
  unit.group_size = group;
  unit.bits = *rule.bits;
  if (unit.source->role.role == Role::kRouter && unit.bits < 8) {
    unit.bits = 8;
    warnings.push_back(unit.source->path + ": a router is quantized at 8 bits or not at all");
  }
}

}  // namespace

int fitting_group_size(uint64_t columns, int wanted) noexcept {
  for (auto it = kGroupSizes.rbegin(); it != kGroupSizes.rend(); ++it) {
    if (*it <= wanted && columns != 0 && columns % static_cast<uint64_t>(*it) == 0) return *it;
  }
  return 0;
}

bool glob_match(std::string_view pattern, std::string_view text) noexcept {
  std::size_t p = 0, t = 0;
  std::size_t star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    bool matched = false;
    std::size_t next = p + 1;
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
      continue;
    }
    if (p < pattern.size()) {
      matched = pattern[p] == '?' || pattern[p] == text[t];
      if (pattern[p] == '[') {
        const std::size_t behind = match_class(pattern, p, text[t], matched);
        if (behind != std::string_view::npos) next = behind;
      }
    }
    if (matched) {
      p = next;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

WidthRule parse_width_rule(std::string_view text) {
  const std::size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0) bad_rule(text, "expected GLOB=BITS");
  WidthRule rule;
  rule.pattern = text.substr(0, equals);
  std::string_view value = text.substr(equals + 1);
  if (value == "none") return rule;
  if (const std::size_t colon = value.find(':'); colon != std::string_view::npos) {
    const std::optional<int> group = parse_int(value.substr(colon + 1));
    if (!group || !is_group_size(*group)) bad_rule(text, "the group size must be 32, 64 or 128");
    rule.group_size = group;
    value = value.substr(0, colon);
  }
  rule.bits = parse_int(value);
  if (!rule.bits || !is_bit_width(*rule.bits)) {
    bad_rule(text, "the width must be 2, 3, 4, 5, 6 or 8 bits, or none");
  }
  return rule;
}

void apply_width_rules(const std::vector<WidthRule>& rules, bool tied_head,
                       std::vector<WidthUnit>& units, std::vector<std::string>& warnings) {
  for (const WidthRule& rule : rules) {
    bool used = false;
    for (WidthUnit& unit : units) {
      if (!glob_match(rule.pattern, unit.source->path)) continue;
      used = true;
      apply(rule, unit, warnings);
    }
    if (used) continue;
    const bool head = tied_head && glob_match(rule.pattern, "lm_head");
    throw Error(ErrorCode::kArgument, {}, {},
                "\"" + rule.pattern.substr(0, 80) + "\" matches no module that can be quantized",
                head ? "the head is tied: its width is that of the embedding"
                     : "patterns are compared with whole paths, as `jang plan --json` lists them");
  }
}

}  // namespace jang
