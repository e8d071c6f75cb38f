// A small llama or mixtral written to a temporary directory, and its forward pass in plain double:
// the oracle of the runtime.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "io/safetensors_writer.h"

namespace jang {

struct TinyModel {
  int64_t hidden = 96, layers = 2, heads = 6, kv_heads = 2, dim = 32, inner = 160, vocabulary = 67;
  double theta = 10000, eps = 1e-5;
  bool tied = false, attention_bias = false;
  int64_t window = 0;
  int64_t experts = 0, top_k = 2;  // > 0: every feed-forward is routed, mixtral's names
  std::string model_type = "llama";
  std::map<std::string, std::vector<float>> tensors;
  std::map<std::string, std::vector<uint64_t>> shapes;

  void fill(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto add = [&](const std::string& name, std::vector<uint64_t> shape, float scale,
                         float mean) {
      uint64_t n = 1;
      for (const uint64_t s : shape) n *= s;
      std::vector<float> values(n);
      for (float& v : values) v = mean + scale * normal(random);
      tensors[name] = std::move(values);
      shapes[name] = std::move(shape);
    };
    const auto matrix = [&](const std::string& path, int64_t out, int64_t in, bool bias) {
      add(path + ".weight", {static_cast<uint64_t>(out), static_cast<uint64_t>(in)},
          1.5f / std::sqrt(static_cast<float>(in)), 0);
      if (bias) add(path + ".bias", {static_cast<uint64_t>(out)}, 0.3f, 0);
    };
    matrix("model.embed_tokens", vocabulary, hidden, false);
    for (int64_t l = 0; l < layers; ++l) {
      const std::string p = "model.layers." + std::to_string(l) + ".";
      add(p + "input_layernorm.weight", {static_cast<uint64_t>(hidden)}, 0.2f, 1);
      add(p + "post_attention_layernorm.weight", {static_cast<uint64_t>(hidden)}, 0.2f, 1);
      matrix(p + "self_attn.q_proj", heads * dim, hidden, attention_bias);
      matrix(p + "self_attn.k_proj", kv_heads * dim, hidden, attention_bias);
      matrix(p + "self_attn.v_proj", kv_heads * dim, hidden, attention_bias);
      matrix(p + "self_attn.o_proj", hidden, heads * dim, attention_bias);
      if (experts > 0) matrix(p + "block_sparse_moe.gate", experts, hidden, false);
      for (int64_t e = 0; e < experts; ++e) {
        matrix(expert(l, e) + "w1", inner, hidden, false);
        matrix(expert(l, e) + "w3", inner, hidden, false);
        matrix(expert(l, e) + "w2", hidden, inner, false);
      }
      if (experts > 0) continue;
      matrix(p + "mlp.gate_proj", inner, hidden, false);
      matrix(p + "mlp.up_proj", inner, hidden, false);
      matrix(p + "mlp.down_proj", hidden, inner, false);
    }
    add("model.norm.weight", {static_cast<uint64_t>(hidden)}, 0.2f, 1);
    if (!tied) matrix("lm_head", vocabulary, hidden, false);
  }

  static std::string expert(int64_t layer, int64_t number) {
    return "model.layers." + std::to_string(layer) + ".block_sparse_moe.experts." +
           std::to_string(number) + ".";
  }

  std::string config() const {
    std::string text = "{\"model_type\": \"" + model_type + "\", \"hidden_act\": \"silu\"";
    const auto add = [&](const char* key, auto value) {
      text += std::string(", \"") + key + "\": " + std::to_string(value);
    };
    add("hidden_size", hidden);
    add("num_hidden_layers", layers);
    add("num_attention_heads", heads);
    add("num_key_value_heads", kv_heads);
    add("head_dim", dim);
    add("intermediate_size", inner);
    add("vocab_size", vocabulary);
    add("max_position_embeddings", 1024);
    add("rope_theta", theta);
    add("rms_norm_eps", eps);
    if (experts > 0) {
      add("num_local_experts", experts);
      add("num_experts_per_tok", top_k);
    }
    text += ", \"sliding_window\": " + (window > 0 ? std::to_string(window) : "null");
    text += std::string(", \"tie_word_embeddings\": ") + (tied ? "true" : "false");
    text += std::string(", \"attention_bias\": ") + (attention_bias ? "true" : "false");
    return text + ", \"torch_dtype\": \"float32\", \"eos_token_id\": [3, 5]}";
  }

  /// Writes config.json and model.safetensors (F32) into `directory`, which is made anew.
  void write(const std::filesystem::path& directory) const {
    std::filesystem::remove_all(directory);
    std::filesystem::create_directories(directory);
    write_file(directory / "config.json", config());
    std::vector<OutputTensor> outputs;
    for (const auto& [name, shape] : shapes) outputs.push_back({name, DType::kF32, shape});
    SafetensorsWriter writer(directory / "model.safetensors", layout_safetensors(outputs));
    for (std::size_t i = 0; i < writer.layout().tensors.size(); ++i) {
      writer.write(i, 0, std::as_bytes(std::span(tensors.at(writer.layout().tensors[i].name))));
    }
    writer.finish();
  }

  // --- the oracle
  // ---------------------------------------------------------------------------------------------
  using Rows = std::vector<std::vector<double>>;

  Rows linear(const std::string& path, const Rows& x) const {
    const auto& w = tensors.at(path + ".weight");
    const auto out = shapes.at(path + ".weight")[0], in = shapes.at(path + ".weight")[1];
    const auto bias = tensors.find(path + ".bias");
    Rows y(x.size(), std::vector<double>(out));
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (std::size_t r = 0; r < out; ++r) {
        double sum = bias == tensors.end() ? 0.0 : static_cast<double>(bias->second[r]);
        for (std::size_t c = 0; c < in; ++c) sum += static_cast<double>(w[r * in + c]) * x[t][c];
        y[t][r] = sum;
      }
    }
    return y;
  }

  Rows norm(const std::string& name, Rows x) const {
    const auto& w = tensors.at(name);
    for (auto& row : x) {
      double squares = 0;
      for (const double v : row) squares += v * v;
      const double scale = 1 / std::sqrt(squares / static_cast<double>(row.size()) + eps);
      for (std::size_t i = 0; i < row.size(); ++i) row[i] *= scale * static_cast<double>(w[i]);
    }
    return x;
  }

  void rotate(std::vector<double>& row, int64_t count, std::size_t position) const {
    for (int64_t h = 0; h < count; ++h) {
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double angle =
            static_cast<double>(position) *
            std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        double& a = row[static_cast<std::size_t>(h * dim + i)];
        double& b = row[static_cast<std::size_t>(h * dim + i + dim / 2)];
        const double na = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = na;
      }
    }
  }

  Rows forward(const std::vector<int32_t>& tokens) const {
    Rows h;
    for (const int32_t token : tokens) {
      const auto& e = tensors.at("model.embed_tokens.weight");
      h.emplace_back(e.begin() + token * hidden, e.begin() + (token + 1) * hidden);
    }
    for (int64_t l = 0; l < layers; ++l) {
      const std::string p = "model.layers." + std::to_string(l) + ".";
      const Rows x = norm(p + "input_layernorm.weight", h);
      Rows q = linear(p + "self_attn.q_proj", x), k = linear(p + "self_attn.k_proj", x);
      const Rows v = linear(p + "self_attn.v_proj", x);
      for (std::size_t t = 0; t < x.size(); ++t) {
        rotate(q[t], heads, t);
        rotate(k[t], kv_heads, t);
      }
      Rows mixed(x.size(), std::vector<double>(static_cast<std::size_t>(heads * dim)));
      for (std::size_t t = 0; t < x.size(); ++t) {
        for (int64_t head = 0; head < heads; ++head) {
          const int64_t kv = head / (heads / kv_heads);
          const std::size_t first = window > 0 && static_cast<int64_t>(t) >= window
                                        ? t + 1 - static_cast<std::size_t>(window)
                                        : 0;
          std::vector<double> score;
          double total = 0;
          for (std::size_t s = first; s <= t; ++s) {
            double dot = 0;
            for (int64_t d = 0; d < dim; ++d) {
              dot += q[t][static_cast<std::size_t>(head * dim + d)] *
                     k[s][static_cast<std::size_t>(kv * dim + d)];
            }
            score.push_back(std::exp(dot / std::sqrt(static_cast<double>(dim))));
            total += score.back();
          }
          for (std::size_t s = first; s <= t; ++s) {
            for (int64_t d = 0; d < dim; ++d) {
              mixed[t][static_cast<std::size_t>(head * dim + d)] +=
                  score[s - first] / total * v[s][static_cast<std::size_t>(kv * dim + d)];
            }
          }
        }
      }
      add(h, linear(p + "self_attn.o_proj", mixed));
      const Rows y = norm(p + "post_attention_layernorm.weight", h);
      if (experts > 0) {
        add(h, routed(l, y));
      } else {
        add(h, gated(p + "mlp.gate_proj", p + "mlp.up_proj", p + "mlp.down_proj", y));
      }
    }
    return linear(tied ? "model.embed_tokens" : "lm_head", norm("model.norm.weight", h));
  }

  Rows gated(const std::string& gate_path, const std::string& up_path, const std::string& down_path,
             const Rows& x) const {
    Rows gate = linear(gate_path, x);
    const Rows up = linear(up_path, x);
    for (std::size_t t = 0; t < gate.size(); ++t) {
      for (std::size_t i = 0; i < gate[t].size(); ++i) {
        gate[t][i] = gate[t][i] / (1 + std::exp(-gate[t][i])) * up[t][i];
      }
    }
    return linear(down_path, gate);
  }

  /// Token by token: the top_k largest of the softmax, divided by their sum.
  Rows routed(int64_t layer, const Rows& x) const {
    Rows out;
    const std::string router = "model.layers." + std::to_string(layer) + ".block_sparse_moe.gate";
    for (const auto& row : x) {
      const std::vector<double> logits = linear(router, {row})[0];
      std::vector<int64_t> order(static_cast<std::size_t>(experts));
      for (int64_t e = 0; e < experts; ++e) order[static_cast<std::size_t>(e)] = e;
      std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
      });
      order.resize(static_cast<std::size_t>(top_k));
      double total = 0;
      for (const int64_t e : order) total += std::exp(logits[static_cast<std::size_t>(e)]);
      out.emplace_back(row.size(), 0.0);
      for (const int64_t e : order) {
        const double weight = std::exp(logits[static_cast<std::size_t>(e)]) / total;
        const std::string path = expert(layer, e);
        const Rows y = gated(path + "w1", path + "w3", path + "w2", {row});
        for (std::size_t i = 0; i < row.size(); ++i) out.back()[i] += weight * y[0][i];
      }
    }
    return out;
  }

  static void add(Rows& a, const Rows& b) {
    for (std::size_t t = 0; t < a.size(); ++t) {
      for (std::size_t i = 0; i < a[t].size(); ++i) a[t][i] += b[t][i];
    }
  }
};

}  // namespace jang
