// plan_directory, the profile table and what they return; the package's plan builds on them.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bind/bindings.h"
#include "bind/plan_options.h"
#include "convert/convert.h"
#include "plan/profiles.h"

namespace py = pybind11;

namespace jang::bind {
namespace {

std::optional<int> bits_of(const PlannedTensor& planned) {
  return planned.format ? std::optional<int>(planned.format->bits) : std::nullopt;
}

std::optional<int> group_size_of(const PlannedTensor& planned) {
  return planned.format ? std::optional<int>(planned.format->group_size) : std::nullopt;
}

void bind_planned(py::module_& module) {
  py::class_<RoleRow>(module, "RoleRow", "The tensors of one role together.")
      .def_readonly("role", &RoleRow::role)
      .def_readonly("tensors", &RoleRow::tensors)
      .def_readonly("weights", &RoleRow::weights)
      .def_readonly("bits", &RoleRow::bits,
                    "Mean width of the codes, or of the elements where unquantized.")
      .def_readonly("bytes", &RoleRow::bytes, "Payload bytes, scales and biases included.");

  py::class_<PlannedTensor>(module, "PlannedTensor", "A final tensor and how it is stored.")
      .def_property_readonly("name", [](const PlannedTensor& p) { return p.tensor.name; })
      .def_property_readonly(
          "path", [](const PlannedTensor& p) { return p.tensor.path; },
          "Module path: the name without .weight.")
      .def_property_readonly(
          "source", [](const PlannedTensor& p) { return p.tensor.source; },
          "Source tensor; '*' stands for the number of a stacked expert.")
      .def_property_readonly(
          "shape", [](const PlannedTensor& p) { return py::tuple(py::cast(p.tensor.shape)); },
          "Logical shape: [experts,] out, in.")
      .def_property_readonly(
          "role", [](const PlannedTensor& p) { return std::string(role_name(p.tensor.role.role)); })
      .def_property_readonly("weights", [](const PlannedTensor& p) { return p.tensor.elements(); })
      .def_property_readonly("bits", bits_of, "Width of the codes; None if unquantized.")
      .def_property_readonly("group_size", group_size_of, "None if unquantized.")
      .def_property_readonly(
          "dtype",
          [](const PlannedTensor& p) {
            return std::string(dtype_name(p.format ? p.format->metadata : p.dtype));
          },
          "Of scales and biases, or of the tensor where unquantized.")
      .def_property_readonly("bytes", &PlannedTensor::bytes)
      .def_property_readonly(
          "obstacle", [](const PlannedTensor& p) { return p.tensor.obstacle; },
          "Why the tensor can be planned but not converted, or empty.");

  py::class_<FloorRow>(module, "FloorRow", "The lowest width allocation gives to a kind of matrix.")
      .def_readonly("name", &FloorRow::name)
      .def_readonly("wanted", &FloorRow::wanted, "Bits of the table.")
      .def_readonly("bits", &FloorRow::bits, "What holds.")
      .def_readonly("modules", &FloorRow::modules)
      .def_readonly("binding", &FloorRow::binding, "Modules that would have got less.");

  py::class_<Allocation>(module, "Allocation", "What was asked of a size, and what can be had.")
      .def_readonly("requested_bits", &Allocation::requested_bits)
      .def_readonly("requested_bytes", &Allocation::requested_bytes)
      .def_readonly("lowest_bytes", &Allocation::lowest_bytes)
      .def_readonly("highest_bytes", &Allocation::highest_bytes)
      .def_readonly("measured", &Allocation::measured, "Losses were given, not the prior's.")
      .def_readonly("floors", &Allocation::floors);

  py::class_<Plan>(module, "Plan", "The widths that a conversion would choose, and their sizes.")
      .def_readonly("profile", &Plan::profile)
      .def_readonly("target_bits", &Plan::target_bits)
      .def_readonly("allocation", &Plan::allocation, "Of plans for a size, else None.")
      .def_readonly("tensors", &Plan::tensors, "In the order in which they are written.")
      .def_readonly("shards", &Plan::shards, "Indices into tensors.")
      .def_readonly("parameters", &Plan::parameters)
      .def_readonly("payload_bytes", &Plan::payload_bytes)
      .def_readonly("file_bytes", &Plan::file_bytes, "Exact size of all weight files.")
      .def_readonly("average_bits", &Plan::average_bits, "Codes of quantized weights.")
      .def_readonly("average_bits_stored", &Plan::average_bits_stored, "With scales and biases.")
      .def_readonly("bits_per_weight", &Plan::bits_per_weight, "8 * file_bytes / parameters.")
      .def_readonly("prior_loss", &Plan::prior_loss,
                    "Expected loss by the prior, in no unit: to compare plans of one model.")
      .def_property_readonly(
          "activation_dtype",
          [](const Plan& plan) { return std::string(dtype_name(plan.activation_dtype)); })
      .def_readonly("attention_bits", &Plan::attention_bits)
      .def_readonly("mlp_bits", &Plan::mlp_bits)
      .def_readonly("tied_head", &Plan::tied_head)
      .def_readonly("roles", &Plan::roles)
      .def_readonly("warnings", &Plan::warnings);
}

void bind_profiles(py::module_& module) {
  py::class_<Profile>(module, "Profile", "A row of the profile table: bits by column.")
      .def_property_readonly("name", [](const Profile& p) { return "JANG_" + std::string(p.name); })
      .def_readonly("mlp", &Profile::mlp)
      .def_readonly("attention", &Profile::attention)
      .def_readonly("embedding", &Profile::embedding)
      .def_readonly("head", &Profile::head)
      .def_readonly("published_average", &Profile::published_average);
  module.def(
      "profiles",
      [] {
        const auto table = profiles();
        return std::vector<Profile>(table.begin(), table.end());
      },
      "The profiles with fixed columns, in ascending order.");
  module.def(
      "k_profile_targets",
      [] {
        const auto targets = k_profile_targets();
        return std::vector<int>(targets.begin(), targets.end());
      },
      "Mean bits that the K profiles hold.");
  module.def(
      "parse_profile", [](const std::string& text) { return parse_profile(text).canonical; },
      py::arg("text"),
      "The canonical name of a profile in any spelling. Raises ArgumentError with the nearest\n"
      "names.");
}

void bind_plan_directory(py::module_& module) {
  module.def(
      "plan_directory",
      [](const std::string& path, const std::string& profile, std::optional<double> bits,
         std::optional<uint64_t> size, const std::optional<std::string>& dtype,
         std::optional<int> group_size, std::optional<int> router_bits,
         std::optional<int> expert_floor, const std::vector<std::string>& rules,
         std::optional<uint64_t> shard_size, const MeasuredLosses& losses) {
        PlanOptions options = make_plan_options(profile, bits, size, dtype, group_size, router_bits,
                                                expert_floor, rules, shard_size);
        options.losses = losses;
        const py::gil_scoped_release release;
        return plan_directory(path, options, true).plan;
      },
      py::arg("path"), py::kw_only(), py::arg("profile") = "JANG_4K", py::arg("bits") = py::none(),
      py::arg("size") = py::none(), py::arg("dtype") = py::none(),
      py::arg("group_size") = py::none(), py::arg("router_bits") = py::none(),
      py::arg("expert_floor") = py::none(), py::arg("rules") = std::vector<std::string>{},
      py::arg("shard_size") = py::none(), py::arg("losses") = MeasuredLosses{},
      "Plans from headers alone: shards may lack their payloads, and config.json with or without\n"
      "an index is enough where the model type is described. bits (per weight of the files) or\n"
      "size (bytes of the files) take the place of the profile; for them losses counts\n"
      "(measure_losses), else the prior. Raises FormatError, UnsupportedError, ArgumentError, "
      "IoError.");
}

}  // namespace

void bind_plan(py::module_& module) {
  bind_planned(module);
  bind_profiles(module);
  bind_plan_directory(module);
}

}  // namespace jang::bind
