// Model, KvCache and Sampler for Python: numpy in, numpy out.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

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

const char* precision_name(Precision precision) {
  return precision == Precision::kFast ? "fast" : "exact";
}

Precision parse_precision(const std::string& name) {
  for (const Precision precision : {Precision::kFast, Precision::kExact}) {
    if (name == precision_name(precision)) return precision;
  }
  throw Error(ErrorCode::kArgument, "precision: expected fast or exact, found '" + name + "'");
}

// Signals are looked at a few times a second; a decode step of a small model is shorter than that.
std::function<void()> signal_poll() {
  return [last = std::chrono::steady_clock::now()]() mutable {
    const auto now = std::chrono::steady_clock::now();
    if (now - last < std::chrono::milliseconds(50)) return;
    last = now;
    poll_signals();
  };
}

void check_one_dimension(const Tokens& tokens) {
  if (tokens.ndim() == 1) return;
  throw Error(ErrorCode::kArgument,
              "tokens: expected one dimension, found " + std::to_string(tokens.ndim()));
}

py::array_t<float> forward(Model& model, const Tokens& tokens, KvCache& cache, bool last_only) {
  check_one_dimension(tokens);
  const py::ssize_t vocabulary = model.spec().vocabulary;
  py::array_t<float> logits(last_only ? std::vector<py::ssize_t>{vocabulary}
                                      : std::vector<py::ssize_t>{tokens.size(), vocabulary});
  float* out = logits.mutable_data();
  const auto ids = span_of(tokens);
  {
    const py::gil_scoped_release release;
    model.forward(ids, cache, last_only ? Model::Logits::kLast : Model::Logits::kAll, out,
                  signal_poll());
  }
  return logits;
}

py::array_t<float> forward_batch(Model& model, const std::vector<Tokens>& tokens,
                                 const std::vector<KvCache*>& caches) {
  if (tokens.size() != caches.size()) {
    throw Error(ErrorCode::kArgument, "forward_batch: " + std::to_string(tokens.size()) +
                                          " sequences and " + std::to_string(caches.size()) +
                                          " caches");
  }
  std::vector<BatchEntry> batch;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    check_one_dimension(tokens[i]);
    if (caches[i] == nullptr)
      throw Error(ErrorCode::kArgument, "forward_batch: cache " + std::to_string(i) + " is None");
    batch.push_back({span_of(tokens[i]), caches[i]});
  }
  py::array_t<float> logits(
      std::vector<py::ssize_t>{static_cast<py::ssize_t>(batch.size()), model.spec().vocabulary});
  float* out = logits.mutable_data();
  {
    const py::gil_scoped_release release;
    model.forward_batch(batch, out, signal_poll());
  }
  return logits;
}

KvType kv_type_of(const Model& model, const std::optional<std::string>& name) {
  return name ? parse_kv_type(*name) : model.default_kv_type();
}

py::dict weight_traffic(const Model& model) {
  const auto part = [](const MatrixTotals& totals) {
    py::dict values;
    values["weights"] = totals.weights;
    values["bytes"] = totals.bytes;
    return values;
  };
  const WeightTraffic traffic = model.weight_traffic();
  py::dict parts;
  parts["layers"] = part(traffic.layers);
  parts["head"] = part(traffic.head);
  parts["experts"] = part(traffic.experts);
  parts["wanted_only"] = part(traffic.wanted_only);
  return parts;
}

double read_seconds(Model& model) {
  const py::gil_scoped_release release;
  return model.read_pass([] { poll_signals(); }).seconds;
}

}  // namespace

void bind_model(py::module_& module) {
  py::class_<KvCache>(module, "KvCache",
                      "Keys, values and recurrent states of one sequence; made by "
                      "Model.new_cache().")
      .def_property_readonly("length", &KvCache::length, "Positions held.")
      .def_property_readonly(
          "kv_type", [](const KvCache& cache) { return std::string(kv_type_name(cache.type())); },
          "f32, f16, bf16, q8 or q4.")
      .def("truncate", &KvCache::truncate, py::arg("length"),
           "Forgets everything from position `length` on and returns the positions left: `length`, "
           "or 0 where recurrent layers cannot go back that far and all is forgotten. They can go "
           "back within the last 32 positions at least, and to the mark of keep().")
      .def("keep", &KvCache::keep,
           "Lets truncate() come back to the present length, until it goes back further; replaces "
           "the mark before. Costs a copy of the recurrent states, nothing without any.");

  py::class_<Model>(module, "Model",
                    "A model mapped from a JANG v2, stock MLX or plain Hugging Face directory.")
      .def(py::init([](const std::string& path, const std::string& precision, int threads,
                       const std::optional<std::string>& kv_type, const py::object& on_widen) {
             const py::gil_scoped_release release;
             LoadOptions options{.threads = threads, .precision = parse_precision(precision)};
             if (kv_type) options.kv_type = parse_kv_type(*kv_type);
             if (!on_widen.is_none()) {
               options.on_widen = [&on_widen](uint64_t bytes) {
                 const py::gil_scoped_acquire gil;
                 on_widen(bytes);
               };
             }
             return Model::load(path, options);
           }),
           py::arg("path"), py::kw_only(), py::arg("precision") = "fast", py::arg("threads") = 0,
           py::arg("kv_type") = py::none(), py::arg("on_widen") = py::none(),
           "Opens, validates and maps `path`. `precision`: what quantized weights are multiplied "
           "with, \"fast\" (activations rounded to int8 per group) or \"exact\" (float32). "
           "`threads` 0: chosen from affinity and quota. `kv_type`: of the caches that new_cache() "
           "makes, \"f32\", \"f16\", \"bf16\", \"q8\" or \"q4\"; None: chosen by the model. "
           "`on_widen`: called with the bytes of memory that 8-bit floats are about to take as "
           "float32; not called without any.")
      .def(
          "new_cache",
          [](const Model& model, const std::optional<std::string>& kv_type) {
            return model.new_cache(kv_type_of(model, kv_type));
          },
          py::arg("kv_type") = py::none(),
          "An empty cache for this model; `kv_type` None: the model's own.")
      .def("forward", &forward, py::arg("tokens"), py::arg("cache"), py::kw_only(),
           py::arg("last_only") = false,
           "Appends int32 `tokens` [n] to `cache`; returns float32 logits [n, vocab], or [vocab] "
           "of the last "
           "token. Raises ArgumentError for a token outside the vocabulary.")
      .def("forward_batch", &forward_batch, py::arg("tokens"), py::arg("caches"),
           "Appends several sequences, a list of int32 arrays, each to its own cache in one pass "
           "over the weights; returns float32 logits [n, vocab] of the last token of each. Raises "
           "ArgumentError for a cache given twice; after an error all caches are as before.")
      .def(
          "kv_bytes",
          [](const Model& model, int64_t positions, const std::optional<std::string>& kv_type) {
            return KvCache::bytes_for(model.spec(), kv_type_of(model, kv_type), positions);
          },
          py::arg("positions"), py::arg("kv_type") = py::none(),
          "Bytes of cache that `positions` tokens of context take.")
      .def_property_readonly(
          "kv_type",
          [](const Model& model) { return std::string(kv_type_name(model.default_kv_type())); },
          "Of the caches that new_cache() makes.")
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
      .def_property_readonly("precision",
                             [](const Model& model) { return precision_name(model.precision()); })
      .def_property_readonly("weight_traffic", &weight_traffic,
                             "Matrices that a token is multiplied with, as a dict of dicts: "
                             "`layers` once per token, `head` once per row of logits, `experts` "
                             "the part of `layers` that a token chooses, `wanted_only` the part "
                             "that only tokens pass whose logits are wanted; each with `weights` "
                             "(multiply-adds) and stored `bytes`.")
      .def_property_readonly("expert_bytes_read", &Model::expert_bytes_read,
                             "Stored bytes of the experts that all calls so far have read, each "
                             "once a pass however many tokens chose it.")
      .def("read_pass", &read_seconds,
           "Reads every byte of the weight files once with all threads; returns the seconds taken.")
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
