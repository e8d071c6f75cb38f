// Chooses a width for every tensor: profile, then floors and routers, then the user's rules.
#include "plan/plan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>

#include "base/error.h"
#include "plan/allocate.h"
#include "plan/plan_layout.h"
#include "plan/prior.h"
#include "plan/profiles.h"
#include "plan/width_rules.h"
#include "plan/widths.h"

namespace jang {
namespace {

// From here on the existing converter doubles its groups.
constexpr int64_t kWideGroupExperts = 150;
constexpr int kDefaultGroupSize = 64;
constexpr int64_t kActiveExpertsIfAbsent = 8;

void check_options(const PlanOptions& options) {
  const auto fail = [](const std::string& message) {
    throw Error(ErrorCode::kArgument, {}, {}, message);
  };
  if (options.group_size && !is_group_size(*options.group_size)) {
    fail("group size " + std::to_string(*options.group_size) + ": expected 32, 64 or 128");
  }
  if (options.router_bits && *options.router_bits != 8) {
    fail("router bits " + std::to_string(*options.router_bits) +
         ": routers are quantized at 8 bits or not at all");
  }
  if (options.expert_floor && !is_bit_width(*options.expert_floor)) {
    fail("expert floor " + std::to_string(*options.expert_floor) +
         ": expected 2, 3, 4, 5, 6 or 8 bits");
  }
  if (options.shard_bytes == 0) fail("shard size 0: expected at least one byte");
  if (options.dtype && !is_float_weight(*options.dtype)) {
    fail("dtype " + std::string(dtype_name(*options.dtype)) + ": expected BF16, F16 or F32");
  }
}

WidthContext make_context(const ModelConfig& config, const Inventory& inventory) {
  WidthContext context{config, inventory, config.layers()};
  for (const FinalTensor& tensor : inventory.tensors) {
    context.layers = std::max(context.layers, tensor.role.layer + 1);
    if (tensor.role.role == Role::kExpert && tensor.shape.size() == 3) {
      context.experts = std::max(context.experts, static_cast<int64_t>(tensor.shape[0]));
    }
  }
  context.active_experts =
      std::min(context.experts, config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts)
                                    .value_or(kActiveExpertsIfAbsent));
  return context;
}

int default_group_size(const WidthContext& context, const ProfileName& profile) {
  const bool wide = profile.kind == ProfileKind::kTiered && context.experts >= kWideGroupExperts;
  return wide ? 128 : kDefaultGroupSize;
}

std::vector<WidthUnit> make_units(const WidthContext& context, int group_size) {
  std::vector<WidthUnit> units;
  for (uint32_t i = 0; i < context.inventory.tensors.size(); ++i) {
    const FinalTensor& tensor = context.inventory.tensors[i];
    if (!tensor.packable || tensor.elements() == 0) continue;
    WidthUnit unit;
    unit.tensor = i;
    unit.source = &tensor;
    unit.column = column_of(context, tensor);
    unit.weights = tensor.elements();
    unit.group_size = fitting_group_size(tensor.columns(), group_size);
    units.push_back(unit);
  }
  return units;
}

std::string percent_text(double share) {
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "%.0f %%", 100 * share);
  return text.data();
}

void assign_profile(const WidthContext& context, const ProfileName& profile,
                    const PlanOptions& options, int group_size, std::vector<WidthUnit>& units,
                    Plan& plan) {
  switch (profile.kind) {
    case ProfileKind::kColumns:
      plan.target_bits = profile.columns->mlp;
      assign_columns(context, *profile.columns, units);
      return;
    case ProfileKind::kBudget: {
      plan.target_bits = profile.low;
      const double lowered =
          assign_budget(context, profile.low, options.expert_floor.value_or(0), units);
      if (lowered > 0.5) {
        plan.warnings.push_back(percent_text(lowered) + " of the MLP weights were lowered to " +
                                std::to_string(rung_below(profile.low)) +
                                " bits to keep the mean at " + std::to_string(profile.low));
      }
      return;
    }
    case ProfileKind::kUniform:
      plan.target_bits = profile.low;
      assign_uniform(context, profile.low, group_size, units);
      return;
    case ProfileKind::kMixed:
      plan.target_bits = profile.low;
      assign_mixed(context, profile.low, profile.high, group_size, units);
      return;
    case ProfileKind::kTiered:
      plan.target_bits = profile.columns != nullptr ? profile.columns->mlp : profile.low;
      assign_tiers(context, profile, group_size, units);
      return;
  }
}

void apply_options(const PlanOptions& options, std::vector<WidthUnit>& units) {
  for (WidthUnit& unit : units) {
    const Role role = unit.source->role.role;
    if (options.expert_floor && role == Role::kExpert && unit.bits != 0) {
      unit.bits = std::max(unit.bits, *options.expert_floor);
    }
    if (options.router_bits && role == Role::kRouter) {
      unit.group_size = fitting_group_size(unit.source->columns(), 64);
      unit.bits = unit.group_size == 0 ? 0 : *options.router_bits;
      unit.fixed = true;
    }
  }
}

/// The dtype of most weights. What is widened from 8-bit floats counts as the one that config.json
/// says the model computes in: its values are exact in F32 only, but it was never a model in F32.
DType main_dtype(const ModelConfig& config, const Inventory& inventory) {
  std::map<DType, uint64_t> weights;
  for (const FinalTensor& tensor : inventory.tensors) {
    const DType dtype = tensor.blocks ? config.dtype().value_or(tensor.dtype) : tensor.dtype;
    weights[dtype] += tensor.elements();
  }
  const auto most =
      std::max_element(weights.begin(), weights.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == weights.end() ? DType::kBF16 : most->first;
}

/// What experts are chosen by: one of many near each other, which a cast would tie.
bool decides_choice(const FinalTensor& tensor) { return tensor.name.ends_with("correction_bias"); }

void place_tensors(const WidthContext& context, const PlanOptions& options,
                   const std::vector<WidthUnit>& units, Plan& plan) {
  const Inventory& inventory = context.inventory;
  plan.activation_dtype = options.dtype.value_or(main_dtype(context.config, inventory));
  plan.tensors.reserve(inventory.tensors.size());
  for (const FinalTensor& tensor : inventory.tensors) {
    PlannedTensor planned;
    planned.tensor = tensor;
    planned.dtype = decides_choice(tensor) ? tensor.dtype : options.dtype.value_or(tensor.dtype);
    plan.tensors.push_back(std::move(planned));
  }
  for (const WidthUnit& unit : units) {
    if (unit.bits == 0) {
      if (unit.group_size == 0) {
        plan.warnings.push_back(unit.source->path + ": no group size divides its " +
                                std::to_string(unit.source->columns()) +
                                " inputs; stays unquantized");
      }
      continue;
    }
    PlannedTensor& planned = plan.tensors[unit.tensor];
    planned.format = AffineFormat{unit.bits, unit.group_size, plan.activation_dtype};
    planned.lattice =
        holds_lattice(options.lattices, unit.source->path, unit.bits, unit.group_size);
  }
}

/// Stock mlx-lm's recipes know one group size, and say nothing of what it does not divide.
void warn_of_undivided(const std::vector<WidthUnit>& units, int group_size, Plan& plan) {
  uint64_t count = 0, weights = 0, all = 0;
  for (const WidthUnit& unit : units) {
    all += unit.weights;
    if (unit.bits != 0 || unit.group_size == 0) continue;
    if (unit.source->columns() % static_cast<uint64_t>(group_size) == 0) continue;
    ++count;
    weights += unit.weights;
  }
  if (count == 0) return;
  plan.warnings.push_back(std::to_string(count) + (count == 1 ? " matrix" : " matrices") +
                          " with " +
                          percent_text(static_cast<double>(weights) / static_cast<double>(all)) +
                          " of the weights: groups of " + std::to_string(group_size) +
                          " do not divide the inputs; unquantized, as mlx-lm leaves them; "
                          "--group-size 32 divides them");
}

void plan_profile(const WidthContext& context, const PlanOptions& options, Plan& plan) {
  const ProfileName profile = parse_profile(options.profile);
  const int group_size = options.group_size.value_or(default_group_size(context, profile));
  std::vector<WidthUnit> units = make_units(context, group_size);
  plan.profile = profile.canonical;
  assign_profile(context, profile, options, group_size, units, plan);
  apply_options(options, units);
  apply_width_rules(options.rules, plan.tied_head, units, plan.warnings);
  take_lattices(options.lattices, options.group_size, units);
  if (profile.kind == ProfileKind::kUniform || profile.kind == ProfileKind::kMixed)
    warn_of_undivided(units, group_size, plan);
  place_tensors(context, options, units, plan);
  lay_out(plan, options.shard_bytes);
  if (profile.kind == ProfileKind::kBudget && plan.average_bits > profile.low) {
    plan.warnings.push_back("the mean is above " + std::to_string(profile.low) +
                            " bits: the expert floor, quantized routers or --set rules raised it");
  }
}

/// Options come first here: what they say takes its bytes, allocation spends the rest.
void plan_to_size(const WidthContext& context, const PlanOptions& options, Plan& plan) {
  std::vector<WidthUnit> units =
      make_units(context, options.group_size.value_or(kDefaultGroupSize));
  apply_options(options, units);
  apply_width_rules(options.rules, plan.tied_head, units, plan.warnings);
  const Plan empty = plan;
  const auto file_bytes = [&](const std::vector<WidthUnit>& chosen) {
    Plan trial = empty;
    place_tensors(context, options, chosen, trial);
    lay_out(trial, options.shard_bytes);
    return trial.file_bytes;
  };
  const DType metadata = options.dtype.value_or(main_dtype(context.config, context.inventory));
  allocate(context, options, metadata, file_bytes, units, plan);
  place_tensors(context, options, units, plan);
  lay_out(plan, options.shard_bytes);
}

}  // namespace

Plan make_plan(const ModelConfig& config, const Inventory& inventory, const PlanOptions& options) {
  check_options(options);
  const WidthContext context = make_context(config, inventory);
  Plan plan;
  plan.parameters = inventory.parameters;
  plan.tied_head = inventory.tied_head;
  plan.warnings = inventory.warnings;
  if (options.target) {
    plan_to_size(context, options, plan);
  } else {
    plan_profile(context, options, plan);
  }
  plan.prior_loss = prior_loss(context, plan);
  return plan;
}

std::map<std::string, uint32_t> quantized_tensors(const Plan& plan) {
  std::map<std::string, uint32_t> found;
  for (uint32_t i = 0; i < plan.tensors.size(); ++i) {
    if (plan.tensors[i].format) found.emplace(plan.tensors[i].tensor.path, i);
  }
  return found;
}

std::map<std::string, uint32_t> tensors_to_solve(const Plan& plan) {
  std::map<std::string, uint32_t> found = quantized_tensors(plan);
  std::erase_if(found, [&](const auto& item) { return plan.tensors[item.second].lattice; });
  return found;
}

}  // namespace jang
