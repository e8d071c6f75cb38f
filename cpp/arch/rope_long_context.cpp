// Optional numbers have the defaults of the papers; null counts as absent.
#include "arch/rope_long_context.h"

#include <cmath>
#include <optional>
#include <string_view>
#include <vector>

#include "arch/rope_config.h"

namespace jang {
namespace {

[[noreturn]] void fail(const RopeDictionary& dictionary, std::string_view key,
                       const std::string& message) {
  dictionary.config.fail(dictionary.owner + "." + std::string(key), message);
}

double positive(const RopeDictionary& dictionary, std::string_view key, const Json& value) {
  return positive_number(dictionary.config, dictionary.owner + "." + std::string(key), value);
}

std::optional<double> optional_number(const RopeDictionary& dictionary, std::string_view key) {
  const Json* value = dictionary.entries.find(key);
  if (value == nullptr) return std::nullopt;
  return positive(dictionary, key, *value);
}

/// 0 says the same as absence.
double number_or_zero(const RopeDictionary& dictionary, std::string_view key) {
  const Json* value = dictionary.entries.find(key);
  if (value == nullptr || (value->is_number() && value->as_double() == 0.0)) return 0.0;
  return positive(dictionary, key, *value);
}

/// The factor, or how often the original positions go into those of the model.
double stretch(const RopeDictionary& dictionary, const RopeSpec& rope) {
  const double ratio =
      static_cast<double>(dictionary.positions) / static_cast<double>(rope.original_positions);
  return optional_number(dictionary, "factor").value_or(ratio);
}

double yarn_magnitude(double factor, double scale) {
  return factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
}

std::vector<double> factors(const RopeDictionary& dictionary, std::string_view key,
                            const RopeSpec& rope) {
  const Json* list = dictionary.entries.find(key);
  if (list == nullptr) fail(dictionary, key, "missing");
  if (!list->is_array()) fail(dictionary, key, "expected a list of numbers");
  const auto count = static_cast<std::size_t>(rope.rotated / 2);
  if (list->as_array().size() != count) {
    fail(dictionary, key,
         "expected " + std::to_string(count) +
             " numbers, one for each pair of rotated channels, found " +
             std::to_string(list->as_array().size()));
  }
  std::vector<double> numbers;
  numbers.reserve(count);
  for (const Json& entry : list->as_array()) numbers.push_back(positive(dictionary, key, entry));
  return numbers;
}

}  // namespace

void read_yarn(const RopeDictionary& dictionary, RopeSpec& rope) {
  if (rope.theta <= 1.0) {
    dictionary.config.fail("rope_theta",
                           "expected a number above 1 where rotary positions are of type yarn");
  }
  rope.factor = stretch(dictionary, rope);
  if (const auto stated = optional_number(dictionary, "attention_factor")) {
    rope.magnitude = *stated;
  } else {
    const double scale = number_or_zero(dictionary, "mscale");
    const double all = number_or_zero(dictionary, "mscale_all_dim");
    const bool both = scale > 0.0 && all > 0.0;
    rope.magnitude = both ? yarn_magnitude(rope.factor, scale) / yarn_magnitude(rope.factor, all)
                          : yarn_magnitude(rope.factor, 1.0);
  }
  if (const double turns = number_or_zero(dictionary, "beta_fast"); turns > 0.0) {
    rope.beta_fast = turns;
  }
  if (const double turns = number_or_zero(dictionary, "beta_slow"); turns > 0.0) {
    rope.beta_slow = turns;
  }
  if (const Json* truncate = dictionary.entries.find("truncate")) {
    if (!truncate->is_bool()) fail(dictionary, "truncate", "expected true or false");
    rope.truncate = truncate->as_bool();
  }
}

void read_longrope(const RopeDictionary& dictionary, RopeSpec& rope) {
  rope.short_factors = factors(dictionary, "short_factor", rope);
  rope.long_factors = factors(dictionary, "long_factor", rope);
  if (const auto stated = optional_number(dictionary, "attention_factor")) {
    rope.magnitude = *stated;
    return;
  }
  const double factor = stretch(dictionary, rope);
  if (factor <= 1.0) return;
  if (rope.original_positions < 2) {
    dictionary.config.fail("original_max_position_embeddings",
                           "expected at least 2 where rotary positions are of type longrope");
  }
  rope.magnitude =
      std::sqrt(1.0 + std::log(factor) / std::log(static_cast<double>(rope.original_positions)));
}

void read_magnitudes(const RopeDictionary& dictionary, RopeSpec& rope) {
  const auto required = [&](std::string_view key) {
    const Json* value = dictionary.entries.find(key);
    if (value == nullptr) fail(dictionary, key, "missing");
    return positive(dictionary, key, *value);
  };
  rope.magnitude = required("short_mscale");
  rope.long_magnitude = required("long_mscale");
}

}  // namespace jang
