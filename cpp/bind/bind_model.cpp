// Model, KvCache and Sampler for Python: numpy in, numpy out.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <string>

#include "base/error.h"
#include "bind/bindings.h"
#include "model/model.h"
#include "model/sampler.h"

namespace py = pybind11;

namespace jang::bind {
namespace {

using Tokens = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Floats = py::array_t<float, py::array::c_style>;

std::span<const int32_t> span_of(const Tokens& tokens) {
  return {tokens.data(), static_cast<std::size_t>(tokens.size())};
}

py::array_t<float> forward(Model& model, const Tokens& tokens, KvCache& cache, bool last_only) {
  if (tokens.ndim() != 1) {
    throw Error(ErrorCode::kArgument,
                "tokens: expected one dimension, found " + std::to_string(tokens.ndim()));
  }
  const py::ssize_t vocabulary = model.spec().vocabulary;
  py::array_t<float> logits(last_only ? std::vector<py::ssize_t>{vocabulary}
                                      : std::vector<py::ssize_t>{tokens.size(), vocabulary});
  float* out = logits.mutable_data();
  const auto ids = span_of(tokens);
  {
    const py::gil_scoped_release release;
    // Signals are looked at a few times a second; a decode step of a small model is shorter than
    // that.
    auto last = std::chrono::steady_clock::now();
    model.forward(ids, cache, last_only ? Model::Logits::kLast : Model::Logits::kAll, out, [&] {
      const auto now = std::chrono::steady_clock::now();
      if (now - last < std::chrono::milliseconds(50)) return;
      last = now;
      poll_signals();
    });
  }
  return logits;
}

}  // namespace

void bind_model(py::module_& module) {
  py::class_<KvCache>(module, "KvCache",
                      "Keys and values of one sequence; made by Model.new_cache().")
      .def_property_readonly("length", &KvCache::length, "Positions held.")
      .def("truncate", &KvCache::truncate, py::arg("length"),
           "Forgets everything from position `length` on.");

  py::class_<Model>(module, "Model",
                    "A model mapped from a JANG v2, stock MLX or plain Hugging Face directory.")
      .def(py::init([](const std::string& path, int threads) {
             const py::gil_scoped_release release;
             return Model::load(path, {.threads = threads});
           }),
           py::arg("path"), py::kw_only(), py::arg("threads") = 0,
           "Opens, validates and maps `path`. `threads` 0: chosen from affinity and quota.")
      .def("new_cache", &Model::new_cache, "An empty cache for this model.")
      .def("forward", &forward, py::arg("tokens"), py::arg("cache"), py::kw_only(),
           py::arg("last_only") = false,
           "Appends int32 `tokens` [n] to `cache`; returns float32 logits [n, vocab], or [vocab] "
           "of the last "
           "token. Raises ArgumentError for a token outside the vocabulary.")
      .def(
          "kv_bytes",
          [](const Model& model, int64_t positions) {
            return KvCache::bytes_for(model.spec(), positions);
          },
          py::arg("positions"), "Bytes of cache that `positions` tokens of context take.")
      .def_property_readonly("model_type", [](const Model& m) { return m.spec().model_type; })
      .def_property_readonly("vocabulary", [](const Model& m) { return m.spec().vocabulary; })
      .def_property_readonly("hidden_size", [](const Model& m) { return m.spec().hidden; })
      .def_property_readonly("n_layers", [](const Model& m) { return m.spec().layers.size(); })
      .def_property_readonly(
          "max_positions", [](const Model& m) { return m.spec().max_positions; },
          "Context length of the config.")
      .def_property_readonly(
          "eos_ids", [](const Model& m) { return m.eos_ids(); },
          "Of config.json and generation_config.json.")
      .def_property_readonly(
          "format", [](const Model& m) { return std::string(m.format()); }, "jang, mlx or hf.")
      .def_property_readonly("weight_bytes", &Model::weight_bytes,
                             "Size of the weight files in bytes.")
      .def_property_readonly("threads", &Model::threads)
      .def_property_readonly("load_seconds", &Model::load_seconds,
                             "Opening, validating and mapping.");

  py::class_<Sampler>(module, "Sampler",
                      "From logits to the next token; seeded, the same on every platform.")
      .def(py::init([](float temperature, int64_t top_k, float top_p, float min_p,
                       float repetition_penalty, int64_t repetition_window, uint64_t seed) {
             return Sampler(
                 {temperature, top_k, top_p, min_p, repetition_penalty, repetition_window, seed});
           }),
           py::kw_only(), py::arg("temperature") = 0.0f, py::arg("top_k") = 0,
           py::arg("top_p") = 1.0f, py::arg("min_p") = 0.0f, py::arg("repetition_penalty") = 1.0f,
           py::arg("repetition_window") = 64, py::arg("seed") = 0,
           "Raises ArgumentError for an option out of range.")
      .def(
          "next",
          [](Sampler& sampler, Floats logits, const Tokens& history) {
            if (logits.ndim() != 1)
              throw Error(ErrorCode::kArgument, "logits: expected one dimension");
            return sampler.next({logits.mutable_data(), static_cast<std::size_t>(logits.size())},
                                span_of(history));
          },
          py::arg("logits").noconvert(), py::arg("history"),
          "The next token id. `logits` float32 [vocab] is changed in place; `history` int32 [n] is "
          "what the "
          "repetition penalty looks at.");
}

}  // namespace jang::bind
