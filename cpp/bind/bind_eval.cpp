// LockStep and OptionScorer for Python: models side by side on the same tokens, and the likelihood
// of continuations.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "bind/bindings.h"
#include "eval/lock_step.h"
#include "eval/option_scores.h"

namespace py = pybind11;

namespace jang::bind {
namespace {

using Tokens = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

std::span<const int32_t> span_of(const Tokens& tokens, const char* name) {
  if (tokens.ndim() != 1) {
    throw Error(ErrorCode::kArgument, std::string(name) + ": expected one dimension, found " +
                                          std::to_string(tokens.ndim()));
  }
  return {tokens.data(), static_cast<std::size_t>(tokens.size())};
}

template <typename T>
py::array_t<T> array_of(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

/// One row per model.
template <typename T>
py::array_t<T> stacked(const WindowStatistics& found,
                       std::vector<T> WindowStatistics::OfModel::*field) {
  const std::size_t columns = found.nll_reference.size();
  py::array_t<T> rows(
      {static_cast<py::ssize_t>(found.models.size()), static_cast<py::ssize_t>(columns)});
  T* out = rows.mutable_data();
  for (const auto& one : found.models) out = std::copy_n((one.*field).data(), columns, out);
  return rows;
}

py::dict run_window(LockStep& models, const Tokens& tokens, const Tokens& targets,
                    int64_t first_scored, const py::object& progress) {
  const auto ids = span_of(tokens, "tokens"), next = span_of(targets, "targets");
  const JobCallbacks callbacks = job_callbacks(progress);
  WindowStatistics found;
  {
    const py::gil_scoped_release release;
    found = models.run(ids, next, first_scored, callbacks);
  }
  py::dict values;
  values["nll_reference"] = array_of(found.nll_reference);
  values["kl"] = stacked(found, &WindowStatistics::OfModel::kl);
  values["nll"] = stacked(found, &WindowStatistics::OfModel::nll);
  values["squared_error"] = stacked(found, &WindowStatistics::OfModel::squared_error);
  values["same_top"] = stacked(found, &WindowStatistics::OfModel::same_top);
  return values;
}

std::vector<double> score(OptionScorer& scorer, const Tokens& context,
                          const std::vector<Tokens>& continuations) {
  const auto prompt = span_of(context, "context");
  std::vector<std::span<const int32_t>> rows;
  rows.reserve(continuations.size());
  for (const Tokens& one : continuations) rows.push_back(span_of(one, "continuation"));
  const py::gil_scoped_release release;
  return scorer.score(prompt, rows, [] { poll_signals(); });
}

}  // namespace

void bind_eval(py::module_& module) {
  py::class_<LockStep>(module, "LockStep",
                       "A reference and other models on the same tokens, a piece at a time.")
      .def(py::init([](Model& reference, const std::vector<Model*>& models, int64_t vocabulary,
                       uint64_t logits_bytes) {
             if (std::find(models.begin(), models.end(), nullptr) != models.end())
               throw Error(ErrorCode::kArgument, "models: one is None");
             return std::make_unique<LockStep>(reference, models, vocabulary, logits_bytes);
           }),
           py::arg("reference"), py::arg("models"), py::kw_only(), py::arg("vocabulary") = 0,
           py::arg("logits_bytes") = uint64_t{1} << 27, py::keep_alive<1, 2>(),
           py::keep_alive<1, 3>(),
           "`vocabulary`: how many entries of each row to compare, the first ones; 0: all, which "
           "must then be equally many. `logits_bytes` bounds the logits in memory. Raises "
           "ArgumentError for no models, the same twice, or vocabularies that differ.")
      .def("run", &run_window, py::arg("tokens"), py::arg("targets"), py::arg("first_scored") = 0,
           py::kw_only(), py::arg("progress") = py::none(),
           R"(One window from empty caches.

`tokens` int32 [n]; `targets` int32 [n], the token after each. Positions from `first_scored` on, p
of them, are compared. Returns a dict of arrays: `nll_reference` float64 [p]; `kl`, `nll`,
`squared_error` (of centred logits) float64 and `same_top` uint8, each [models, p]. Nats.
`progress` is called with tokens done, tokens in all (of all models together) and "".
Raises ArgumentError for a token outside the vocabulary, FormatError for logits that are not
finite.)")
      .def_property_readonly("vocabulary", &LockStep::vocabulary, "Entries of a row compared.")
      .def_property_readonly("piece_rows", &LockStep::piece_rows,
                             "Rows of logits in memory at once, of each of two models.");

  py::class_<OptionScorer>(module, "OptionScorer", "Likelihoods of continuations of a context.")
      .def(py::init([](Model& model) { return std::make_unique<OptionScorer>(model); }),
           py::arg("model"), py::keep_alive<1, 2>())
      .def("score", &score, py::arg("context"), py::arg("continuations"),
           "The summed log-probability (nats) of each continuation, int32 arrays, after `context`, "
           "int32 [n]. What the context shares with that of the call before is not computed again. "
           "Raises ArgumentError for an empty one or a token outside the vocabulary.");
}

}  // namespace jang::bind
