// Plan files, the shards of a planned conversion and its end; the package's plan_file, parts and
// finalize build on them.
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bind/bindings.h"
#include "bind/calibration_input.h"
#include "bind/plan_options.h"
#include "bind/statistics_input.h"
#include "convert/documents.h"
#include "convert/layer_point.h"
#include "convert/plan_file.h"
#include "convert/planned_layers.h"
#include "convert/planned_shards.h"
#include "convert/shard_record.h"
#include "io/checksum.h"
#include "io/safetensors_writer.h"

namespace py = pybind11;

namespace jang::bind {
namespace {

using NamedFile = std::tuple<std::string, uint64_t, std::string>;

uint32_t shard_of(const PlanFile& file, uint64_t shard) {
  const std::size_t count = file.plan.shards.size();
  if (shard >= count) {
    throw Error(ErrorCode::kArgument, "shard: expected one of " + std::to_string(count) +
                                          ", found number " + std::to_string(shard));
  }
  return static_cast<uint32_t>(shard);
}

std::vector<std::string> shard_names(const PlanFile& file) {
  std::vector<std::string> names;
  const auto count = static_cast<uint32_t>(file.plan.shards.size());
  for (uint32_t shard = 0; shard < count; ++shard) names.push_back(shard_file_name(shard, count));
  return names;
}

SafetensorsLayout layout_of(const PlanFile& file, uint64_t shard) {
  std::vector<OutputTensor> tensors;
  for (ShardTensor& tensor : shard_tensors(file.plan, shard_of(file, shard)))
    tensors.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape)});
  return layout_safetensors(std::move(tensors));
}

std::optional<StatisticsInput> statistics_of(const std::optional<ArraysByPath>& arrays,
                                             const std::string& file, const std::string& sha256) {
  if (!arrays) return std::nullopt;
  return statistics_input(*arrays, file, sha256);
}

CalibrationInput planned_input(const std::optional<Tokens>& ids, const std::string& text,
                               const std::string& sha256, const std::string& tokens_sha256,
                               uint64_t asked_sequences) {
  CalibrationInput input = calibration_input(ids, text, sha256, 2);
  input.tokens_sha256 = tokens_sha256;
  input.asked_sequences = asked_sequences;
  return input;
}

void bind_plan_file_class(py::module_& module) {
  py::class_<SafetensorsLayout>(module, "ShardLayout", "Where a shard's tensors lie in its file.")
      .def_property_readonly("header",
                             [](const SafetensorsLayout& l) { return py::bytes(l.header); })
      .def_readonly("file_bytes", &SafetensorsLayout::file_bytes)
      .def_property_readonly(
          "tensors",
          [](const SafetensorsLayout& l) {
            std::vector<std::tuple<std::string, uint64_t, uint64_t>> out;
            for (std::size_t i = 0; i < l.tensors.size(); ++i)
              out.emplace_back(l.tensors[i].name, l.begins[i], l.begins[i] + l.tensors[i].bytes());
            return out;
          },
          "(name, first byte, end), in order, without gaps.");
  py::class_<PlannedCalibration>(module, "PlannedCalibration", "What a gptq plan solves against.")
      .def_readonly("text", &PlannedCalibration::text, "Bare name, or \"builtin\".")
      .def_readonly("asked_sequences", &PlannedCalibration::asked_sequences,
                    "For as many the text was cut.")
      .def_readonly("sequences", &PlannedCalibration::sequences)
      .def_readonly("tokens", &PlannedCalibration::tokens, "Of each sequence.");
  py::class_<PlanFile>(module, "PlanFile", "A planned conversion that can be made in parts.")
      .def_property_readonly("text", &plan_file_text)
      .def_readonly("version", &PlanFile::version, "Of the program that made it.")
      .def_readonly("source_name", &PlanFile::source_name)
      .def_readonly("source_revision", &PlanFile::source_revision)
      .def_property_readonly(
          "files",
          [](const PlanFile& file) {
            std::vector<NamedFile> out;
            for (const SourceFile& source : file.files)
              out.emplace_back(source.name, source.bytes, source.sha256);
            return out;
          },
          "(name, bytes, SHA-256) of the source's files; the hash of the header for weights.")
      .def_property_readonly("method", &planned_method, "rtn, mse or gptq.")
      .def_readonly("calibration", &PlanFile::calibration, "None for other methods than gptq.")
      .def_property_readonly(
          "statistics_file",
          [](const PlanFile& file) {
            return file.statistics ? std::optional(file.statistics->file) : std::nullopt;
          },
          "Bare name of the statistics that weight columns, or None.")
      .def_property_readonly("shards", &shard_names, "File names of the shards.")
      .def_property_readonly("checksum",
                             [](const PlanFile& file) { return crc32_text(file.checksum); })
      .def_readonly("plan", &PlanFile::plan)
      .def("layout", &layout_of, py::arg("shard"), "Of the shard of that number, from 0.");
}

void bind_plan_files(py::module_& module) {
  module.def(
      "parse_plan_file",
      [](const py::bytes& bytes, const std::string& name) {
        const std::string text = bytes;
        const py::gil_scoped_release release;
        return parse_plan_file(text, name);
      },
      py::arg("text"), py::arg("name"), "`name` is used in messages. Raises FormatError.");
  module.def(
      "make_plan_file",
      [](const std::string& source, const std::string& profile, std::optional<double> bits,
         std::optional<uint64_t> size, const std::optional<std::string>& dtype,
         std::optional<int> group_size, std::optional<int> router_bits,
         std::optional<int> expert_floor, const std::vector<std::string>& rules,
         std::optional<uint64_t> shard_size, const MeasuredLosses& losses,
         const std::string& method, bool read_weights,
         const std::optional<ArraysByPath>& column_weights, const std::string& statistics_file,
         const std::string& statistics_sha256, const std::vector<NamedFile>& files,
         const std::string& source_name, const std::string& source_revision,
         const std::string& version, int threads, const std::optional<Tokens>& calibration_ids,
         const std::string& calibration_text, const std::string& calibration_sha256,
         const std::string& tokens_sha256, uint64_t asked_sequences, const std::string& scratch,
         const py::object& progress) {
        PlanFileOptions options;
        options.plan = make_plan_options(profile, bits, size, dtype, group_size, router_bits,
                                         expert_floor, rules, shard_size);
        options.plan.losses = losses;
        if (method == "gptq") {
          options.calibration = planned_input(calibration_ids, calibration_text, calibration_sha256,
                                              tokens_sha256, asked_sequences);
          options.scratch = scratch;
        } else if (const auto known = parse_method(method)) {
          options.method = *known;
        } else {
          throw Error(ErrorCode::kArgument,
                      "method: expected rtn, mse or gptq, found '" + method + "'");
        }
        options.read_weights = read_weights;
        options.statistics = statistics_of(column_weights, statistics_file, statistics_sha256);
        for (const auto& [name, bytes, sha256] : files)
          options.files.push_back({name, bytes, sha256});
        options.source_name = source_name;
        options.source_revision = source_revision;
        options.version = version;
        options.threads = threads;
        const JobCallbacks callbacks = job_callbacks(progress);
        const py::gil_scoped_release release;
        return make_plan_file(source, options, callbacks);
      },
      py::arg("source"), py::kw_only(), py::arg("profile") = "JANG_4K",
      py::arg("bits") = py::none(), py::arg("size") = py::none(), py::arg("dtype") = py::none(),
      py::arg("group_size") = py::none(), py::arg("router_bits") = py::none(),
      py::arg("expert_floor") = py::none(), py::arg("rules") = std::vector<std::string>{},
      py::arg("shard_size") = py::none(), py::arg("losses") = MeasuredLosses{},
      py::arg("method") = "mse", py::arg("read_weights") = false,
      py::arg("column_weights") = py::none(), py::arg("statistics_file") = "",
      py::arg("statistics_sha256") = "", py::arg("files"), py::arg("source_name") = "",
      py::arg("source_revision") = "", py::arg("version"), py::arg("threads") = 0,
      py::arg("calibration_ids") = py::none(), py::arg("calibration_text") = "",
      py::arg("calibration_sha256") = "", py::arg("tokens_sha256") = "",
      py::arg("asked_sequences") = 0, py::arg("scratch") = "", py::arg("progress") = py::none(),
      "Plans a conversion in parts from headers; with read_weights also the lattices that tensors\n"
      "lie on, and with gptq these and what widths cost on calibration_ids [sequences, tokens];\n"
      "scratch: a directory for files without a name. files: (name, bytes, SHA-256) of the "
      "source's. Raises FormatError, ArgumentError,\n"
      "UnsupportedError, IoError.");
}

void bind_planned_shards(py::module_& module) {
  py::class_<PlannedShards>(module, "PlannedShards", "An opened source and the plan it is made by.")
      .def(py::init([](const PlanFile& plan, const std::string& plan_name,
                       const std::string& source, const std::optional<ArraysByPath>& column_weights,
                       const std::string& statistics_file, const std::string& statistics_sha256,
                       int threads) {
             const auto statistics =
                 statistics_of(column_weights, statistics_file, statistics_sha256);
             const py::gil_scoped_release release;
             return std::make_unique<PlannedShards>(plan, plan_name, source, statistics, threads);
           }),
           py::arg("plan"), py::arg("plan_name"), py::arg("source"), py::kw_only(),
           py::arg("column_weights") = py::none(), py::arg("statistics_file") = "",
           py::arg("statistics_sha256") = "", py::arg("threads") = 0,
           "Plans again: ArgumentError naming `plan_name` where the result is another one.")
      .def("source_bytes", &PlannedShards::source_bytes, py::arg("shard"),
           "Bytes of the source that a shard is made of.")
      .def(
          "make",
          [](PlannedShards& shards, const std::string& directory, uint32_t shard, uint64_t stretch,
             const py::object& progress, const py::object& notice) {
            const JobCallbacks callbacks = job_callbacks(progress, notice);
            const py::gil_scoped_release release;
            return shards.make(directory, shard, stretch, callbacks);
          },
          py::arg("directory"), py::arg("shard"), py::kw_only(), py::arg("stretch") = 0,
          py::arg("progress") = py::none(), py::arg("notice") = py::none(),
          "Makes a shard in the directory, or continues it; False if it was there and is whole.\n"
          "stretch: source bytes behind which a record is written, 0: those of about 20 seconds.")
      .def(
          "record",
          [](PlannedShards& shards, const std::string& finished, const std::string& directory,
             uint32_t shard) {
            const JobCallbacks callbacks = job_callbacks(py::none());
            const py::gil_scoped_release release;
            return shards.record(finished, directory, shard, callbacks);
          },
          py::arg("finished"), py::arg("directory"), py::arg("shard"),
          "Writes the record of a sound shard that lies in `finished` into the directory; False,\n"
          "and no record, for one with tensors on lattices.");
  py::class_<PlannedLayers>(module, "PlannedLayers",
                            "An opened source and the gptq plan that it is made by.")
      .def(py::init([](const PlanFile& plan, const std::string& plan_name,
                       const std::string& source, const std::optional<Tokens>& calibration_ids,
                       const std::string& calibration_text, const std::string& calibration_sha256,
                       const std::string& tokens_sha256, uint64_t asked_sequences, int threads) {
             if (!plan.calibration)
               throw Error(ErrorCode::kArgument, plan_name, {}, "expected a plan of method gptq");
             CalibrationInput input =
                 planned_input(calibration_ids, calibration_text, calibration_sha256, tokens_sha256,
                               asked_sequences);
             const py::gil_scoped_release release;
             return std::make_unique<PlannedLayers>(plan, plan_name, source, std::move(input),
                                                    threads);
           }),
           py::arg("plan"), py::arg("plan_name"), py::arg("source"), py::kw_only(),
           py::arg("calibration_ids"), py::arg("calibration_text"), py::arg("calibration_sha256"),
           py::arg("tokens_sha256"), py::arg("asked_sequences"), py::arg("threads") = 0,
           "Plans again: ArgumentError naming `plan_name` where the result is another one, or "
           "text,\n"
           "tokens or kernels are not the plan's.")
      .def_property_readonly("stops", &PlannedLayers::stops,
                             "Numbers of layers behind which a part may end; the last is the end.")
      .def_property_readonly("layers", &PlannedLayers::layers, "Of the model.")
      .def(
          "source_bytes",
          [](const PlannedLayers& layers, uint64_t begin, uint64_t end) {
            return layers.source_bytes({begin, end});
          },
          py::arg("begin"), py::arg("end"), "Bytes of the source between two stops.")
      .def(
          "make",
          [](PlannedLayers& layers, const std::string& directory, uint64_t begin, uint64_t end,
             const std::string& needs, uint64_t stretch, const py::object& progress,
             const py::object& notice) {
            const JobCallbacks callbacks = job_callbacks(progress, notice);
            const std::vector<uint64_t>& stops = layers.stops();
            const auto is_stop = [&](uint64_t at) {
              return std::find(stops.begin(), stops.end(), at) != stops.end();
            };
            if (begin >= end || !is_stop(end) || (begin != 0 && !is_stop(begin)))
              throw Error(ErrorCode::kArgument, "begin and end: expected two of the stops");
            const py::gil_scoped_release release;
            return layers.make(directory, {begin, end}, needs, stretch, callbacks);
          },
          py::arg("directory"), py::arg("begin"), py::arg("end"), py::kw_only(), py::arg("needs"),
          py::arg("stretch") = 0, py::arg("progress") = py::none(), py::arg("notice") = py::none(),
          "Makes the tensors between two stops, or continues; False if they were there. IoError "
          "or\n"
          "FormatError with the sentence `needs` where the part before is to be made first.");
  module.def("layer_point_name", &layer_point_name, py::arg("position"), py::arg("layers"),
             "File name of the states that a part leaves behind so many layers.");
  module.def(
      "shard_checksums",
      [](const std::string& directory, const PlanFile& plan, uint64_t shard) {
        const uint32_t index = shard_of(plan, shard);
        std::optional<std::map<std::string, uint32_t>> out;
        const auto sums = read_shard_record(directory, plan, index, {});
        if (!sums || !is_whole_shard(plan.plan, index, *sums)) return out;
        out = output_checksums(plan.plan, index, *sums);
        return out;
      },
      py::arg("directory"), py::arg("plan"), py::arg("shard"),
      "CRC-32 by tensor as a shard's record has them; None without a record of the whole shard.\n"
      "Raises FormatError for a damaged record, ArgumentError for one of another plan.");
  module.def(
      "finish_planned",
      [](const std::string& directory, const PlanFile& plan, const py::bytes& bytes,
         bool think_in_template) {
        const std::string config = bytes;
        const py::gil_scoped_release release;
        const ConvertReport report = finish_planned(
            directory, plan, ModelConfig::parse(config, "config.json"), think_in_template);
        // Behind those of the plan.
        return std::vector<std::string>(
            report.warnings.begin() + static_cast<std::ptrdiff_t>(plan.plan.warnings.size()),
            report.warnings.end());
      },
      py::arg("directory"), py::arg("plan"), py::arg("config"), py::arg("think_in_template"),
      "Writes index, config.json and jang_config.json beside the shards. config: the source's.\n"
      "Returns warnings of the solving.");
}

}  // namespace

void bind_parts(py::module_& module) {
  bind_plan_file_class(module);
  bind_plan_files(module);
  bind_planned_shards(module);
}

}  // namespace jang::bind
