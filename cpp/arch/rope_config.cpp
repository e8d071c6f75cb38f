// Both spellings of rotary settings, read into a RopeSpec and written back in the older one.
#include "arch/rope_config.h"

#include <cmath>
#include <string>

#include "arch/rope_long_context.h"
#include "base/error.h"

namespace jang {
namespace {

const Json* rope_dictionary(const ModelConfig& config, std::string& key) {
  for (const std::string_view name : {"rope_scaling", "rope_parameters"}) {
    const Json* value = config.find(name);
    if (value == nullptr) continue;
    if (!value->is_object()) config.fail(name, "expected an object or null");
    if (value->as_object().empty()) continue;
    key = name;
    return value;
  }
  return nullptr;
}

double required(const ModelConfig& config, const Json& dictionary, const std::string& owner,
                std::string_view key) {
  const std::string name = owner + "." + std::string(key);
  const Json* value = dictionary.find(key);
  if (value == nullptr) config.fail(name, "missing");
  return positive_number(config, name, *value);
}

RopeType rope_type(const ModelConfig& config, const Json& dictionary, const std::string& owner,
                   bool proportional) {
  const Json* name = dictionary.find("rope_type");
  if (name == nullptr) name = dictionary.find("type");
  if (name == nullptr) {
    // An old dictionary without a type but with a factor would be a guess either way.
    if (dictionary.find("factor") != nullptr) config.fail(owner + ".rope_type", "missing");
    return RopeType::kDefault;
  }
  if (!name->is_string()) config.fail(owner + ".rope_type", "expected a string");
  const std::string& type = name->as_string();
  if (type == "default" || type == "mrope") return RopeType::kDefault;
  if (type == "linear") return RopeType::kLinear;
  if (type == "dynamic") return RopeType::kDynamic;
  if (type == "llama3") return RopeType::kLlama3;
  if (type == "yarn") return RopeType::kYarn;
  if (type == "longrope" || type == "su") return RopeType::kLongRope;
  if (type == "proportional" && proportional) return RopeType::kProportional;
  throw Error(
      ErrorCode::kUnsupportedModel, config.file(), {},
      "rotary positions of type \"" + type.substr(0, 40) +
          "\" are not supported; supported: default, linear, dynamic, llama3, yarn, longrope" +
          (proportional ? ", proportional" : ""));
}

int64_t original_positions(const ModelConfig& config, const Json& dictionary, int64_t positions) {
  constexpr std::string_view kKey = "original_max_position_embeddings";
  if (const auto top = config.integer(kKey, 1, int64_t{1} << 40)) return *top;
  const Json* value = dictionary.find(kKey);
  if (value == nullptr) return positions;
  const double number = positive_number(config, std::string(kKey), *value);
  if (number != std::floor(number) || number > 0x1p40) {
    config.fail(kKey, "expected an integer from 1 to 2^40");
  }
  return static_cast<int64_t>(number);
}

std::string_view type_name(RopeType type) {
  switch (type) {
    case RopeType::kDefault:
      return "default";
    case RopeType::kLinear:
      return "linear";
    case RopeType::kDynamic:
      return "dynamic";
    case RopeType::kLlama3:
      return "llama3";
    case RopeType::kYarn:
      return "yarn";
    case RopeType::kLongRope:
      return "longrope";
    case RopeType::kProportional:
      return "proportional";
  }
  return "default";
}

/// partial_rotary_factor in effect, and where it was found.
double partial_factor(const ModelConfig& config, double fallback, std::string& key) {
  std::string owner;
  key = "partial_rotary_factor";
  const Json* dictionary = rope_dictionary(config, owner);
  const Json* value = dictionary == nullptr ? nullptr : dictionary->find(key);
  if (value != nullptr) {
    key = owner + "." + key;
  } else {
    value = config.find(key);
  }
  return value == nullptr ? fallback : positive_number(config, key, *value);
}

int64_t rotated_channels(const ModelConfig& config, int64_t head_dim, const RopeRules& rules) {
  std::string key;
  const double factor = partial_factor(config, rules.partial.value_or(1.0), key);
  if (!rules.partial && factor != 1.0) {
    throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
                key + " other than 1 is not supported in a " + config.model_type() + " model");
  }
  if (factor > 1.0) config.fail(key, "expected a number above 0 and at most 1");
  const auto rotated = static_cast<int64_t>(static_cast<double>(head_dim) * factor);
  if (rotated == head_dim && head_dim % 2 != 0) {
    config.fail("head_dim", "rotary positions need an even number");
  }
  if (rotated < 2 || rotated % 2 != 0) {
    config.fail(key, "expected an even number of rotated channels, at least 2, found " +
                         std::to_string(rotated) + " of the " + std::to_string(head_dim) +
                         " of a head");
  }
  return rotated;
}

/// Of all channel pairs a part turns, at the frequencies that they have among all.
void read_proportional(const ModelConfig& config, const Json& dictionary, const std::string& owner,
                       RopeSpec& rope) {
  const auto optional = [&](std::string_view key) {
    const Json* value = dictionary.find(key);
    return value == nullptr ? 1.0 : positive_number(config, owner + "." + std::string(key), *value);
  };
  rope.factor = optional("factor");
  const double part = optional("partial_rotary_factor");
  if (part > 1.0)
    config.fail(owner + ".partial_rotary_factor", "expected a number above 0 and at most 1");
  rope.turning = static_cast<int64_t>(std::floor(part * static_cast<double>(rope.rotated) / 2.0));
}

/// `rope` with what a dictionary of rotary settings, if there is one, says; `owner` names it.
RopeSpec read_dictionary(const ModelConfig& config, const Json* dictionary,
                         const std::string& owner, const RopeRules& rules, RopeSpec rope) {
  if (dictionary == nullptr) return rope;
  if (const Json* theta = dictionary->find("rope_theta")) {
    rope.theta = positive_number(config, owner + ".rope_theta", *theta);
  }
  for (const auto& [key, value] : dictionary->as_object()) {
    if (value.is_object()) {
      throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
                  owner + "." + key + ": rotary positions per layer type are not supported in a " +
                      config.model_type() + " model");
    }
  }
  rope.type = rope_type(config, *dictionary, owner, rules.proportional);
  const bool partly = rules.partial || rope.type == RopeType::kProportional;
  if (const Json* partial = dictionary->find("partial_rotary_factor"); partial && !partly) {
    if (positive_number(config, owner + ".partial_rotary_factor", *partial) != 1.0) {
      throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
                  owner + ".partial_rotary_factor other than 1 is not supported in a " +
                      config.model_type() + " model");
    }
  }
  if (rope.type == RopeType::kYarn && rules.yarn_is_longrope) rope.type = RopeType::kLongRope;
  const int64_t positions =
      config.integer("max_position_embeddings", 1, int64_t{1} << 40).value_or(rules.positions);
  const int64_t fallback = rules.original_positions.value_or(positions);
  switch (rope.type) {
    case RopeType::kDefault:
      break;
    case RopeType::kLinear:
      rope.factor = required(config, *dictionary, owner, "factor");
      break;
    case RopeType::kDynamic:
      rope.factor = required(config, *dictionary, owner, "factor");
      rope.original_positions = positions;
      break;
    case RopeType::kLlama3:
      rope.factor = required(config, *dictionary, owner, "factor");
      rope.low_freq_factor = required(config, *dictionary, owner, "low_freq_factor");
      rope.high_freq_factor = required(config, *dictionary, owner, "high_freq_factor");
      rope.original_positions = original_positions(config, *dictionary, fallback);
      if (rope.high_freq_factor <= rope.low_freq_factor) {
        config.fail(owner + ".high_freq_factor", "must be larger than low_freq_factor");
      }
      break;
    case RopeType::kYarn:
      rope.original_positions = original_positions(config, *dictionary, fallback);
      read_yarn({config, *dictionary, owner, positions}, rope);
      break;
    case RopeType::kLongRope:
      rope.original_positions = original_positions(config, *dictionary, fallback);
      read_longrope({config, *dictionary, owner, positions}, rope);
      if (rules.stated_magnitudes) read_magnitudes({config, *dictionary, owner, positions}, rope);
      break;
    case RopeType::kProportional:
      read_proportional(config, *dictionary, owner, rope);
      break;
  }
  return rope;
}

const Json* object_at(const ModelConfig& config, std::string_view key) {
  const Json* value = config.find(key);
  if (value == nullptr || value->is_object()) return value;
  config.fail(key, "expected an object or null");
}

/// The entry of a layer type in rope_parameters, or nullptr.
const Json* layer_dictionary(const ModelConfig& config, std::string_view layer_type,
                             std::string& owner) {
  const Json* all = object_at(config, "rope_parameters");
  if (all == nullptr || all->as_object().empty()) return nullptr;
  owner = "rope_parameters." + std::string(layer_type);
  bool keyed = false;
  for (const auto& [key, value] : all->as_object()) keyed = keyed || value.is_object();
  if (!keyed) {
    config.fail("rope_parameters", "expected an object for each layer type (full_attention, ...)");
  }
  const Json* value = all->find(layer_type);
  if (value != nullptr && !value->is_object()) config.fail(owner, "expected an object or null");
  return value;
}

/// Words of stock readers for what `rope` does, on a copy of the dictionary it comes from.
Json scaling_json(Json scaling, const RopeSpec& rope) {
  scaling.as_object().erase("rope_theta");
  const std::string_view type = type_name(rope.type);
  scaling["type"] = type;
  scaling["rope_type"] = type;
  if (rope.type == RopeType::kLlama3 || rope.type == RopeType::kYarn ||
      rope.type == RopeType::kLongRope) {
    scaling["original_max_position_embeddings"] = rope.original_positions;
  }
  if (rope.type == RopeType::kYarn) scaling["factor"] = rope.factor;
  return scaling;
}

}  // namespace

double positive_number(const ModelConfig& config, const std::string& key, const Json& value) {
  if (!value.is_number()) config.fail(key, "expected a number");
  const double number = value.as_double();
  if (!std::isfinite(number) || number <= 0) config.fail(key, "expected a finite number above 0");
  return number;
}

RopeSpec read_rope(const ModelConfig& config, int64_t head_dim, const RopeRules& rules) {
  RopeSpec rope;
  rope.interleaved = rules.interleaved;
  rope.theta = rules.theta;
  if (const Json* theta = config.find("rope_theta")) {
    rope.theta = positive_number(config, "rope_theta", *theta);
  }
  rope.rotated = rotated_channels(config, head_dim, rules);

  std::string owner;
  const Json* dictionary = rope_dictionary(config, owner);
  return read_dictionary(config, dictionary, owner, rules, rope);
}

RopeSpec read_layer_rope(const ModelConfig& config, std::string_view layer_type,
                         std::string_view theta_key, bool scaled, int64_t head_dim,
                         double default_theta, int64_t default_positions, bool proportional) {
  RopeRules rules;
  rules.positions = default_positions;
  rules.proportional = proportional;
  RopeSpec rope;
  rope.rotated = head_dim;
  rope.theta = default_theta;
  if (head_dim % 2 != 0) config.fail("head_dim", "rotary positions need an even number");
  if (const Json* theta = config.find(theta_key)) {
    rope.theta = positive_number(config, std::string(theta_key), *theta);
  }
  std::string owner;
  const Json* own = layer_dictionary(config, layer_type, owner);
  rope = read_dictionary(config, own, owner, rules, rope);
  const Json* scaling = scaled ? object_at(config, "rope_scaling") : nullptr;
  if (scaling == nullptr || scaling->as_object().empty()) return rope;
  return read_dictionary(config, scaling, "rope_scaling", rules, rope);
}

double score_scale(const ModelConfig& config, const RopeSpec& rope) {
  std::string owner;
  const Json* dictionary = rope_dictionary(config, owner);
  if (rope.type == RopeType::kDefault || dictionary == nullptr || rope.factor <= 1.0) return 1.0;
  const Json* all = dictionary->find("mscale_all_dim");
  if (all == nullptr || (all->is_number() && all->as_double() == 0.0)) return 1.0;
  const double scale =
      0.1 * positive_number(config, owner + ".mscale_all_dim", *all) * std::log(rope.factor) + 1.0;
  return scale * scale;
}

void write_rope(Json& text, const ModelConfig& source, const RopeSpec& rope) {
  text["rope_theta"] = rope.theta;
  std::string owner;
  const Json* dictionary = rope_dictionary(source, owner);
  if (rope.type == RopeType::kDefault || dictionary == nullptr) {
    text["rope_scaling"] = nullptr;
    return;
  }
  text["rope_scaling"] = scaling_json(*dictionary, rope);
}

void write_layer_rope(Json& text, const ModelConfig& source, const RopeSpec& rope,
                      std::string_view layer_type) {
  text["rope_theta"] = rope.theta;
  text["rope_scaling"] = nullptr;
  if (rope.type == RopeType::kDefault) return;
  std::string owner;
  const Json* dictionary = object_at(source, "rope_scaling");
  if (dictionary == nullptr || dictionary->as_object().empty()) {
    dictionary = layer_dictionary(source, layer_type, owner);
  }
  text["rope_scaling"] = scaling_json(*dictionary, rope);
}

void write_partial_rotary(Json& text, const ModelConfig& source, const RopeRules& rules) {
  std::string key;
  text["partial_rotary_factor"] = partial_factor(source, rules.partial.value_or(1.0), key);
}

}  // namespace jang
