// Statistics of inputs and measured losses; the package's statistics, plan and convert build on
// them.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "bind/bindings.h"
#include "bind/plan_options.h"
#include "bind/statistics_input.h"
#include "calibrate/collect_statistics.h"
#include "calibrate/merge_statistics.h"
#include "convert/convert.h"

namespace py = pybind11;

namespace jang::bind {

StatisticsInput statistics_input(const ArraysByPath& arrays, const std::string& file,
                                 const std::string& sha256) {
  StatisticsInput input{{}, file, sha256};
  for (const auto& [path, array] : arrays) {
    MeanSquares& entry = input.mean_squares[path];
    for (py::ssize_t i = 0; i < array.ndim(); ++i) {
      entry.shape.push_back(static_cast<uint64_t>(array.shape(i)));
    }
    entry.values.assign(array.data(), array.data() + array.size());
  }
  return input;
}

namespace {

using Tokens = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

py::dict arrays_of(const StatisticsFile& file) {
  py::dict out;
  for (const auto& [path, entry] : mean_squares(file)) {
    const std::vector<py::ssize_t> shape(entry.shape.begin(), entry.shape.end());
    out[py::str(path)] = py::array_t<float>(shape, entry.values.data());
  }
  return out;
}

py::dict counts_of(const StatisticsFile& file) {
  py::dict out;
  for (const auto& [path, shape] : file.linears()) {
    const LinearSums sums = file.sums(path);
    out[py::str(path)] =
        py::array_t<int64_t>(static_cast<py::ssize_t>(sums.count.size()), sums.count.data());
  }
  return out;
}

void bind_files(py::module_& module) {
  py::class_<StatisticsFile>(module, "Statistics", "A statistics file, checked when it is opened.")
      .def(py::init([](const std::string& path) {
             const py::gil_scoped_release release;
             return StatisticsFile::open(path);
           }),
           py::arg("path"), "Raises FormatError, UnsupportedError or IoError.")
      .def_property_readonly("model_sha256",
                             [](const StatisticsFile& f) { return f.origin().model_sha256; })
      .def_property_readonly("tokenizer_sha256",
                             [](const StatisticsFile& f) { return f.origin().tokenizer_sha256; })
      .def_property_readonly(
          "text_sha256", [](const StatisticsFile& f) { return f.origin().text_sha256; },
          "Of every text, in the order in which they were added.")
      .def_property_readonly("sequences",
                             [](const StatisticsFile& f) { return f.origin().sequences; })
      .def_property_readonly("tokens", [](const StatisticsFile& f) { return f.origin().tokens; })
      .def("mean_squares", &arrays_of,
           "By module path float32 [columns] or [experts, columns]: mean squares of the inputs.")
      .def("counts", &counts_of, "By module path int64 [1] or [experts]: tokens that were added.");

  module.def(
      "collect_statistics",
      [](const std::string& source, const std::string& output, const Tokens& ids,
         const std::string& model_sha256, const std::string& tokenizer_sha256,
         const std::string& text_sha256, bool hessians, int threads, const py::object& progress) {
        if (ids.ndim() != 2) {
          throw Error(ErrorCode::kArgument, "ids: expected [sequences, tokens], found " +
                                                std::to_string(ids.ndim()) + " dimensions");
        }
        const std::vector<int32_t> tokens(ids.data(), ids.data() + ids.size());
        const int64_t length = ids.shape(1);
        const JobCallbacks callbacks = job_callbacks(progress);
        const py::gil_scoped_release release;
        ThreadPool pool(threads != 0 ? threads : default_thread_count().threads);
        collect_statistics(open_model_directory(source), {tokens, length},
                           {model_sha256, tokenizer_sha256, {text_sha256}}, output,
                           {.hessians = hessians}, pool, callbacks);
      },
      py::arg("source"), py::arg("output"), py::arg("ids"), py::kw_only(), py::arg("model_sha256"),
      py::arg("tokenizer_sha256"), py::arg("text_sha256"), py::arg("hessians") = false,
      py::arg("threads") = 0, py::arg("progress") = py::none(),
      "Runs the model over int32 [sequences, tokens] and writes a statistics file, which must not\n"
      "exist. progress(done, total, item) counts sequences through branches, on the calling\n"
      "thread. Raises FormatError, UnsupportedError, ArgumentError, IoError.");
  module.def(
      "merge_statistics",
      [](const std::vector<std::string>& files, const std::string& output) {
        if (files.empty()) throw Error(ErrorCode::kArgument, "files: expected one or more");
        const py::gil_scoped_release release;
        std::vector<StatisticsFile> opened;
        for (const std::string& file : files) opened.push_back(StatisticsFile::open(file));
        merge_statistics(opened, output);
      },
      py::arg("files"), py::arg("output"),
      "Adds the sums of statistics files of one model into a new one. Raises ArgumentError where\n"
      "model, tokenizer or modules differ, FormatError, UnsupportedError, IoError.");
}

void bind_losses(py::module_& module) {
  py::class_<CandidateLoss>(module, "CandidateLoss", "What a format costs a module.")
      .def_readonly("bits", &CandidateLoss::bits)
      .def_readonly("group_size", &CandidateLoss::group_size)
      .def_readonly("error", &CandidateLoss::error, "Relative squared error, weighted.");
  py::class_<ModuleLoss>(module, "ModuleLoss", "What the formats of a module cost.")
      .def_readonly("errors", &ModuleLoss::errors)
      .def_readwrite("sensitivity", &ModuleLoss::sensitivity,
                     "What a unit of error costs; None: the prior's.");
  module.def(
      "measure_losses",
      [](const std::string& source, const ArraysByPath& column_weights, const std::string& file,
         const std::optional<std::string>& dtype, std::optional<int> group_size, int threads,
         const py::object& progress) {
        const StatisticsInput input = statistics_input(column_weights, file, {});
        LossOptions options;
        options.group_size = group_size;
        if (dtype) options.dtype = cast_dtype(*dtype);
        const JobCallbacks callbacks = job_callbacks(progress);
        const py::gil_scoped_release release;
        return measure_losses(source, input, options, threads, callbacks);
      },
      py::arg("source"), py::arg("column_weights"), py::kw_only(), py::arg("file") = "statistics",
      py::arg("dtype") = py::none(), py::arg("group_size") = py::none(), py::arg("threads") = 0,
      py::arg("progress") = py::none(),
      "By module path the weighted error of a sample of its rows in every format it may get, for\n"
      "`losses` of plan_directory and convert_directory. column_weights: float32 [columns] or\n"
      "[experts, columns] by module path. Raises FormatError, UnsupportedError, ArgumentError,\n"
      "IoError.");
}

}  // namespace

void bind_statistics(py::module_& module) {
  bind_files(module);
  bind_losses(module);
}

}  // namespace jang::bind
