#include "arch/families/grouped_moe.h"

#include <cmath>
#include <string_view>

#include "base/error.h"

namespace jang {
namespace {

constexpr int64_t kMostGroups = 256;  // of the router's scratch

/// The counts of a block, checked against each other.
struct Counts {
  int64_t experts = 0, top_k = 0, width = 0, shared = 0, groups = 1, open_groups = 1;
  float weight_scale = 1.0f;
  bool renormalize = false;
};

int64_t read(const ModelConfig& config, std::string_view key, int64_t high, int64_t fallback) {
  if (fallback == 0) return config.required_integer(key, 1, high);
  return config.integer(key, 1, high).value_or(fallback);
}

std::string text(int64_t number) { return std::to_string(number); }

void check_groups(const ModelConfig& config, const Counts& counts, RouterRule rule) {
  if (counts.experts % counts.groups != 0) {
    config.fail("n_group", "expected a divisor of the " + text(counts.experts) +
                               " experts, found " + text(counts.groups));
  }
  if (counts.open_groups > counts.groups) {
    config.fail("topk_group", "expected at most the " + text(counts.groups) +
                                  " groups of n_group, found " + text(counts.open_groups));
  }
  const int64_t size = counts.experts / counts.groups;
  if (counts.groups > 1 && size < 2 && rule == RouterRule::kSigmoid) {
    config.fail("n_group", "expected groups of at least 2 experts, found " + text(counts.groups) +
                               " groups of the " + text(counts.experts) + " experts");
  }
  if (counts.top_k > counts.open_groups * size) {
    config.fail("num_experts_per_tok", "expected at most the " + text(counts.open_groups * size) +
                                           " experts of topk_group groups, found " +
                                           text(counts.top_k));
  }
}

Counts counts_of(const ModelConfig& config, const GroupedMoeTraits& traits) {
  Counts counts;
  counts.experts = config.experts();
  if (counts.experts == 0) counts.experts = traits.experts;
  counts.top_k = read(config, "num_experts_per_tok", ModelConfig::kMaxExperts, traits.top_k);
  if (counts.top_k > counts.experts) {
    config.fail("num_experts_per_tok", "expected at most the " + text(counts.experts) +
                                           " experts of n_routed_experts, found " +
                                           text(counts.top_k));
  }
  counts.width = read(config, "moe_intermediate_size", ModelConfig::kMaxDim, traits.width);
  // Null states that there are none; only an absent key leaves the family's own count.
  counts.shared = config.integer("n_shared_experts", 0, ModelConfig::kMaxExperts)
                      .value_or(config.contains("n_shared_experts") ? 0 : traits.shared);
  if (counts.shared > ModelConfig::kMaxDim / counts.width) {
    config.fail("n_shared_experts", "n_shared_experts * moe_intermediate_size is above 2^24");
  }
  if (traits.grouped) {
    counts.groups = config.integer("n_group", 1, kMostGroups).value_or(traits.groups);
    counts.open_groups = config.integer("topk_group", 1, kMostGroups).value_or(traits.open_groups);
    check_groups(config, counts, traits.rule);
  }
  const double scale = config.number("routed_scaling_factor").value_or(traits.weight_scale);
  if (!std::isfinite(scale) || scale <= 0 || scale > 1e6) {
    config.fail("routed_scaling_factor", "expected a number above 0 and at most 10^6");
  }
  counts.weight_scale = static_cast<float>(scale);
  if (traits.reads_renormalize)
    counts.renormalize = config.boolean("norm_topk_prob").value_or(true);
  return counts;
}

}  // namespace

int64_t first_routed_layer(const ModelConfig& config, const GroupedMoeTraits& traits) {
  if (config.integer("moe_layer_freq", 1, ModelConfig::kMaxLayers).value_or(1) != 1) {
    throw Error(
        ErrorCode::kUnsupportedModel, config.file(), {},
        "moe_layer_freq other than 1 is not supported in a " + config.model_type() + " model");
  }
  return config.integer("first_k_dense_replace", 0, ModelConfig::kMaxLayers)
      .value_or(traits.dense_layers);
}

MoeSpec grouped_moe(const ModelConfig& config, const std::string& base, int64_t hidden,
                    const GroupedMoeTraits& traits) {
  const Counts counts = counts_of(config, traits);
  const auto stack = [&](const char* name, int64_t out, int64_t in) {
    return StackSpec{base + "switch_mlp." + name, counts.experts, out, in};
  };
  MoeSpec moe;
  moe.router = LinearSpec{base + "gate", counts.experts, hidden, false};
  if (traits.correction) moe.correction = base + "gate.e_score_correction_bias";
  moe.gate = stack("gate_proj", counts.width, hidden);
  moe.up = stack("up_proj", counts.width, hidden);
  moe.down = stack("down_proj", hidden, counts.width);
  moe.experts = counts.experts;
  moe.top_k = counts.top_k;
  moe.rule = traits.rule;
  moe.renormalize = counts.renormalize;
  moe.groups = counts.groups;
  moe.open_groups = counts.open_groups;
  moe.weight_scale = counts.weight_scale;
  if (counts.shared == 0) return moe;
  const auto shared = [&](const char* name, int64_t out, int64_t in) {
    return LinearSpec{base + "shared_experts." + name, out, in, traits.mlp_bias};
  };
  const int64_t width = counts.shared * counts.width;
  moe.shared =
      SharedExpertSpec{{shared("gate_proj", width, hidden), shared("up_proj", width, hidden),
                        shared("down_proj", hidden, width), Activation::kSilu},
                       std::nullopt};
  return moe;
}

void complete_grouped_moe(Json& config, const ModelConfig& source, const GroupedMoeTraits& traits) {
  const Counts counts = counts_of(source, traits);
  config["n_routed_experts"] = counts.experts;
  config["num_experts_per_tok"] = counts.top_k;
  config["moe_intermediate_size"] = counts.width;
  // Absent, stock readers leave the shared experts out; a count of 0 would be a matrix of no rows.
  config["n_shared_experts"] = nullptr;
  if (counts.shared != 0) config["n_shared_experts"] = counts.shared;
  config["first_k_dense_replace"] = first_routed_layer(source, traits);
  config["moe_layer_freq"] = 1;
  config["routed_scaling_factor"] =
      source.number("routed_scaling_factor").value_or(traits.weight_scale);
  config["n_group"] = counts.groups;
  config["topk_group"] = counts.open_groups;
  if (traits.reads_renormalize) config["norm_topk_prob"] = counts.renormalize;
  if (traits.rule != RouterRule::kSigmoid) return;
  config["scoring_func"] = "sigmoid";
  config["topk_method"] = "noaux_tc";
}

}  // namespace jang
