// convert_directory, inspect_directory, verify_directory, upgrade_directory and what they return;
// the package's convert, inspect, verify and upgrade build on them.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bind/bindings.h"
#include "bind/calibration_input.h"
#include "bind/plan_options.h"
#include "bind/statistics_input.h"
#include "convert/conversion_needs.h"
#include "convert/convert.h"
#include "convert/inspect.h"
#include "convert/source_feed.h"
#include "convert/upgrade.h"
#include "convert/verify.h"

namespace py = pybind11;

namespace jang::bind {
namespace {

Method method_of(const std::string& name) {
  const auto method = parse_method(name);
  if (!method)
    throw Error(ErrorCode::kArgument, "method: expected rtn, mse or gptq, found '" + name + "'");
  return *method;
}

std::optional<SourceFeed> feed_of(const py::object& feed) {
  if (feed.is_none()) return std::nullopt;
  SourceFeed calls;
  calls.schedule = [feed](const auto& steps) {
    const py::gil_scoped_acquire gil;
    feed.attr("schedule")(steps);
  };
  calls.need = [feed](const SourceFeed::Files& files) {
    const py::gil_scoped_acquire gil;
    feed.attr("need")(files);
  };
  calls.done = [feed](const SourceFeed::Files& files) {
    const py::gil_scoped_acquire gil;
    feed.attr("done")(files);
  };
  calls.sample = [feed](const std::string& file, uint64_t begin, uint64_t bytes) {
    const py::gil_scoped_acquire gil;
    feed.attr("sample")(file, begin, bytes);
  };
  return calls;
}

void bind_convert_directory(py::module_& module) {
  py::class_<LatticeSummary>(module, "LatticeSummary",
                             "Tensors stored on the lattice that their source lies on.")
      .def_readonly("tensors", &LatticeSummary::tensors)
      .def_readonly("lossless_tensors", &LatticeSummary::lossless_tensors,
                    "Those of which no group loses anything.")
      .def_readonly("groups", &LatticeSummary::groups)
      .def_readonly("lossless_groups", &LatticeSummary::lossless_groups);
  py::class_<ConvertReport>(module, "ConvertReport", "What a conversion wrote.")
      .def_readonly("plan", &ConvertReport::plan, "The plan, as run.")
      .def_readonly("file_bytes", &ConvertReport::file_bytes, "Bytes of all weight files.")
      .def_readonly("seconds", &ConvertReport::seconds)
      .def_readonly("lattices", &ConvertReport::lattices)
      .def_readonly("files", &ConvertReport::files, "Bare names written, in order.")
      .def_readonly("warnings", &ConvertReport::warnings);

  module.def(
      "convert_directory",
      [](const std::string& source, const std::string& partial, const std::string& profile,
         std::optional<double> bits, std::optional<uint64_t> size,
         const std::optional<std::string>& dtype, std::optional<int> group_size,
         std::optional<int> router_bits, std::optional<int> expert_floor,
         const std::vector<std::string>& rules, std::optional<uint64_t> shard_size,
         const std::string& method, int threads, const std::string& source_name,
         const std::string& source_revision, bool think_in_template,
         const std::string& generator_version, const std::optional<Tokens>& calibration_ids,
         const std::string& calibration_text, const std::string& calibration_sha256,
         int calibration_streams, const MeasuredLosses& losses,
         const std::optional<ArraysByPath>& column_weights, const std::string& statistics_file,
         const std::string& statistics_sha256, const std::optional<std::string>& resume_key,
         uint64_t resume_stretch, const py::object& feed, const py::object& progress,
         const py::object& notice) {
        ConvertOptions options{};
        options.plan = make_plan_options(profile, bits, size, dtype, group_size, router_bits,
                                         expert_floor, rules, shard_size);
        options.plan.losses = losses;
        if (column_weights) {
          options.statistics =
              statistics_input(*column_weights, statistics_file, statistics_sha256);
        }
        if (method == "gptq") {
          options.calibration = calibration_input(calibration_ids, calibration_text,
                                                  calibration_sha256, calibration_streams);
        } else {
          options.method = method_of(method);
        }
        options.threads = threads;
        options.source_name = source_name;
        options.source_revision = source_revision;
        options.think_in_template = think_in_template;
        options.generator_version = generator_version;
        options.resume_key = resume_key;
        options.resume_stretch = resume_stretch;
        const std::optional<SourceFeed> bringing = feed_of(feed);
        if (bringing) options.feed = &*bringing;
        const JobCallbacks callbacks = job_callbacks(progress, notice);
        const py::gil_scoped_release release;
        return convert_directory(source, partial, options, callbacks);
      },
      py::arg("source"), py::arg("partial"), py::kw_only(), py::arg("profile") = "JANG_4K",
      py::arg("bits") = py::none(), py::arg("size") = py::none(), py::arg("dtype") = py::none(),
      py::arg("group_size") = py::none(), py::arg("router_bits") = py::none(),
      py::arg("expert_floor") = py::none(), py::arg("rules") = std::vector<std::string>{},
      py::arg("shard_size") = py::none(), py::arg("method") = "mse", py::arg("threads") = 0,
      py::arg("source_name") = "", py::arg("source_revision") = "",
      py::arg("think_in_template") = false, py::arg("generator_version"),
      py::arg("calibration_ids") = py::none(), py::arg("calibration_text") = "",
      py::arg("calibration_sha256") = "", py::arg("calibration_streams") = 2,
      py::arg("losses") = MeasuredLosses{}, py::arg("column_weights") = py::none(),
      py::arg("statistics_file") = "", py::arg("statistics_sha256") = "",
      py::arg("resume_key") = py::none(), py::arg("resume_stretch") = 0,
      py::arg("feed") = py::none(), py::arg("progress") = py::none(),
      py::arg("notice") = py::none(),
      "Writes shards, index, config.json and jang_config.json into the existing directory\n"
      "`partial`. calibration_ids: int32 [sequences, tokens], for method gptq;\n"
      "calibration_streams 2 also runs the full-precision model beside the quantized one.\n"
      "column_weights: float32 [columns] or [experts, columns] by module path, for method mse;\n"
      "losses: those of measure_losses, where bits or size is given.\n"
      "resume_key: what the bytes depend on; what an interrupted conversion with the same key "
      "left\n"
      "in `partial` is then continued, and the state for that stays there. resume_stretch: source\n"
      "bytes behind which methods other than gptq write it, 0: those of about 20 seconds.\n"
      "feed: an object that brings the weight files of `source`, which have sizes and headers:\n"
      "schedule([(files, files done with behind)]), need(files), done(files), and, on any thread,\n"
      "sample(file, begin, bytes); not for method gptq.\n"
      "progress(done, total, item) counts bytes of source weights, notice(line) is told how the\n"
      "work goes on, both on the calling thread.\n"
      "threads 0: as many as the process may use. Raises FormatError, UnsupportedError,\n"
      "ArgumentError, IoError.");
}

void bind_feed_files(py::module_& module) {
  module.def(
      "feed_schedule",
      [](const std::string& source, const Plan& plan) {
        const py::gil_scoped_release release;
        const Checkpoint checkpoint = Checkpoint::open(source, Checkpoint::Access::kHeadersOnly);
        return feed_schedule(feed_steps(plan, checkpoint, {}), checkpoint);
      },
      py::arg("source"), py::arg("plan"),
      "What a conversion by `plan` will ask its feed for: [(files, files done with behind)].\n"
      "Raises FormatError, IoError.");
  module.def(
      "compared_files",
      [](const std::string& source) {
        const py::gil_scoped_release release;
        return compared_files(source);
      },
      py::arg("source"),
      "Weight files whose payloads are compared before planning: those of the embedding and of a\n"
      "head that is stored although config.json ties it. Raises FormatError, UnsupportedError,\n"
      "IoError.");
}

void bind_resume_bytes(py::module_& module) {
  module.def(
      "resume_bytes",
      [](const std::string& source, uint64_t tokens, int streams) {
        const py::gil_scoped_release release;
        return resume_bytes(source, tokens, streams);
      },
      py::arg("source"), py::arg("tokens"), py::arg("streams") = 2,
      "Bytes that a gptq conversion takes at most beside its output, to be able to continue after\n"
      "an interruption. Raises FormatError, UnsupportedError, IoError.");
}

void bind_needs(py::module_& module) {
  py::class_<ConversionNeeds>(module, "ConversionNeeds",
                              "What a conversion takes beside its output.")
      .def_readonly("threads", &ConversionNeeds::threads, "That this holds for.")
      .def_property_readonly(
          "memory",
          [](const ConversionNeeds& needs) {
            std::vector<std::pair<std::string, uint64_t>> shares;
            for (const MemoryShare& share : needs.memory)
              shares.emplace_back(share.what, share.bytes.value());
            return shares;
          },
          "(what, bytes) of all that is held at the same time, the largest first.")
      .def_property_readonly(
          "memory_bytes", [](const ConversionNeeds& needs) { return needs.memory_bytes().value(); },
          "The peak of anonymous memory: their sum.")
      .def_property_readonly(
          "scratch_bytes", [](const ConversionNeeds& needs) { return needs.scratch.value(); },
          "Disk space of files that calibration writes and removes.");
  module.def(
      "conversion_needs",
      [](const std::string& source, const Plan& plan, int64_t sequences, int64_t tokens,
         int streams, bool casts, uint64_t statistics_bytes, int threads) {
        NeedsOptions options;
        if (sequences > 0) options.calibration = CalibrationShape{sequences, tokens, streams == 2};
        options.casts = casts;
        options.statistics_bytes = statistics_bytes;
        options.threads = threads;
        const py::gil_scoped_release release;
        return conversion_needs(source, plan, options);
      },
      py::arg("source"), py::arg("plan"), py::kw_only(), py::arg("sequences") = 0,
      py::arg("tokens") = 0, py::arg("streams") = 2, py::arg("casts") = false,
      py::arg("statistics_bytes") = 0, py::arg("threads") = 0,
      "Memory and scratch files of a conversion by `plan`, an upper bound. sequences 0: without\n"
      "calibration, where the source is not opened. Raises FormatError, UnsupportedError, "
      "IoError.");
}

void bind_inspect(py::module_& module) {
  py::class_<InspectedTensor>(module, "InspectedTensor",
                              "A quantized module or a plain tensor; the shape is logical.")
      .def_readonly("name", &InspectedTensor::name)
      .def_readonly("dtype", &InspectedTensor::dtype)
      .def_readonly("shape", &InspectedTensor::shape)
      .def_readonly("bits", &InspectedTensor::bits)
      .def_readonly("group_size", &InspectedTensor::group_size)
      .def_readonly("bytes", &InspectedTensor::bytes)
      .def_readonly("file", &InspectedTensor::file);
  py::class_<Inspection>(module, "Inspection", "What a directory holds.")
      .def_readonly("format", &Inspection::format, "jang, jang-v1, mlx or hf.")
      .def_readonly("model_type", &Inspection::model_type)
      .def_readonly("profile", &Inspection::profile)
      .def_readonly("method", &Inspection::method)
      .def_readonly("average_bits", &Inspection::average_bits)
      .def_readonly("bits_per_weight", &Inspection::bits_per_weight)
      .def_readonly("bytes", &Inspection::bytes, "Bytes of all weight files.")
      .def_readonly("parameters", &Inspection::parameters)
      .def_readonly("roles", &Inspection::roles)
      .def_readonly("tensors", &Inspection::tensors);
  module.def(
      "inspect_directory",
      [](const std::string& path) {
        const py::gil_scoped_release release;
        return inspect_directory(path);
      },
      py::arg("path"),
      "Reads headers and JSON of a JANG, MLX or plain directory. Raises FormatError,\n"
      "UnsupportedError, IoError.");
}

void bind_verify(py::module_& module) {
  py::class_<Fault>(module, "Fault", "One thing that is wrong with a directory.")
      .def_property_readonly("code",
                             [](const Fault& fault) { return std::string(code_name(fault.code)); })
      .def_readonly("file", &Fault::file)
      .def_readonly("tensor", &Fault::tensor)
      .def_readonly("message", &Fault::message);
  py::class_<TensorError>(module, "TensorError", "A quantized module against its source.")
      .def_readonly("path", &TensorError::path)
      .def_readonly("relative_rms", &TensorError::relative_rms)
      .def_readonly("max_abs", &TensorError::max_abs)
      .def_readonly("bound", &TensorError::bound, "What relative_rms may be.");
  py::class_<Verification>(module, "Verification", "Faults, notices, and errors by tensor.")
      .def_readonly("faults", &Verification::faults)
      .def_readonly("notices", &Verification::notices)
      .def_readonly("tensors", &Verification::tensors);
  module.def(
      "verify_directory",
      [](const std::string& path, const std::optional<std::string>& against, int threads,
         const py::object& progress) {
        const JobCallbacks callbacks = job_callbacks(progress);
        std::optional<std::filesystem::path> source;
        if (against) source = *against;
        const py::gil_scoped_release release;
        return verify_directory(path, source, threads, callbacks);
      },
      py::arg("path"), py::kw_only(), py::arg("against") = py::none(), py::arg("threads") = 0,
      py::arg("progress") = py::none(),
      "Checks everything but SHA256SUMS. progress(done, total, item) counts bytes read, on the\n"
      "calling thread. Raises UnsupportedError for a format that is refused by name, IoError.");
}

void bind_upgrade(py::module_& module) {
  py::class_<UpgradeChange>(module, "UpgradeChange", "One thing that an upgrade changes.")
      .def_readonly("tensor", &UpgradeChange::tensor, "Empty: the directory.")
      .def_readonly("what", &UpgradeChange::what)
      .def_readonly("why", &UpgradeChange::why);
  py::class_<UpgradePlan>(module, "UpgradePlan", "What an upgrade would do.")
      .def_readonly("format", &UpgradePlan::format, "Of the source: jang-v1, jang or mlx.")
      .def_readonly("current", &UpgradePlan::current, "There is nothing to do.")
      .def_readonly("plan", &UpgradePlan::plan)
      .def_readonly("changes", &UpgradePlan::changes);
  module.def(
      "plan_upgrade",
      [](const std::string& source) {
        const py::gil_scoped_release release;
        return plan_upgrade(source);
      },
      py::arg("source"),
      "What upgrading a quantized directory would do. Raises FormatError, UnsupportedError, "
      "IoError.");
  module.def(
      "upgrade_directory",
      [](const std::string& source, const std::string& partial, int threads,
         const std::string& source_name, bool think_in_template,
         const std::string& generator_version, const py::object& progress) {
        const UpgradeOptions options{threads, source_name, think_in_template, generator_version};
        const JobCallbacks callbacks = job_callbacks(progress);
        const py::gil_scoped_release release;
        return upgrade_directory(source, partial, options, callbacks);
      },
      py::arg("source"), py::arg("partial"), py::kw_only(), py::arg("threads") = 0,
      py::arg("source_name") = "", py::arg("think_in_template") = false,
      py::arg("generator_version"), py::arg("progress") = py::none(),
      "Writes shards, index, config.json and jang_config.json of an upgraded directory into the\n"
      "existing directory `partial`. progress(done, total, item) counts bytes written, on the\n"
      "calling thread. Raises FormatError, UnsupportedError, IoError.");
}

}  // namespace

void bind_convert(py::module_& module) {
  bind_convert_directory(module);
  bind_resume_bytes(module);
  bind_needs(module);
  bind_feed_files(module);
  bind_inspect(module);
  bind_verify(module);
  bind_upgrade(module);
}

}  // namespace jang::bind
