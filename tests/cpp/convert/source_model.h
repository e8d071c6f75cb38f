// A small llama checkpoint in any float dtype, in one file or several, written through the writer
// that conversions use; and a temporary directory that goes away.
#pragma once

#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/float16.h"
#include "io/safetensors_writer.h"

namespace jang {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("jang_convert_" + std::to_string(getpid()) + "_" + std::to_string(count++));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline std::vector<std::byte> encode(const std::vector<float>& values, DType dtype) {
  const auto size = static_cast<std::size_t>(dtype_size(dtype));
  std::vector<std::byte> bytes(values.size() * size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&bytes[i * size], &values[i], size);
    } else {
      const uint16_t word =
          dtype == DType::kF16 ? float_to_half(values[i]) : float_to_bf16(values[i]);
      std::memcpy(&bytes[i * size], &word, size);
    }
  }
  return bytes;
}

struct SourceModel {
  uint64_t hidden = 128, layers = 2, heads = 4, kv_heads = 2, dim = 32, inner = 192,
           vocabulary = 77;
  DType dtype = DType::kBF16;
  bool tied = false;
  uint64_t shards = 1;
  std::string extra_config;  // ", \"key\": value"
  std::map<std::string, std::vector<uint64_t>> shapes;
  std::map<std::string, std::vector<float>> values;

  SourceModel& fill(unsigned seed = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto add = [&](const std::string& name, std::vector<uint64_t> shape, float mean) {
      uint64_t count = 1;
      for (const uint64_t n : shape) count *= n;
      std::vector<float> data(count);
      for (float& value : data) value = mean + 0.1f * normal(random);
      shapes[name] = std::move(shape);
      values[name] = std::move(data);
    };
    add("model.embed_tokens.weight", {vocabulary, hidden}, 0);
    for (uint64_t i = 0; i < layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      add(layer + "input_layernorm.weight", {hidden}, 1);
      add(layer + "post_attention_layernorm.weight", {hidden}, 1);
      add(layer + "self_attn.q_proj.weight", {heads * dim, hidden}, 0);
      add(layer + "self_attn.k_proj.weight", {kv_heads * dim, hidden}, 0);
      add(layer + "self_attn.v_proj.weight", {kv_heads * dim, hidden}, 0);
      add(layer + "self_attn.o_proj.weight", {hidden, heads * dim}, 0);
      add(layer + "mlp.gate_proj.weight", {inner, hidden}, 0);
      add(layer + "mlp.up_proj.weight", {inner, hidden}, 0);
      add(layer + "mlp.down_proj.weight", {hidden, inner}, 0);
    }
    add("model.norm.weight", {hidden}, 1);
    if (!tied) add("lm_head.weight", {vocabulary, hidden}, 0);
    return *this;
  }

  std::string config() const {
    std::string text = "{\"model_type\": \"llama\", \"hidden_act\": \"silu\"";
    const std::pair<const char*, uint64_t> numbers[] = {{"hidden_size", hidden},
                                                        {"num_hidden_layers", layers},
                                                        {"num_attention_heads", heads},
                                                        {"num_key_value_heads", kv_heads},
                                                        {"head_dim", dim},
                                                        {"intermediate_size", inner},
                                                        {"vocab_size", vocabulary},
                                                        {"max_position_embeddings", 256}};
    for (const auto& [key, value] : numbers) {
      text += std::string(", \"") + key + "\": " + std::to_string(value);
    }
    text += ", \"rope_theta\": 10000.0, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": ";
    text += tied ? "true" : "false";
    return text + extra_config + "}";
  }

  std::filesystem::path write(const std::filesystem::path& directory) const {
    std::filesystem::create_directories(directory);
    write_file(directory / "config.json", config());
    std::vector<std::vector<OutputTensor>> outputs(shards);
    std::string map;
    uint64_t next = 0;
    const auto file = [&](uint64_t shard) {
      char name[64];
      std::snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors",
                    static_cast<int>(shard + 1), static_cast<int>(shards));
      return shards == 1 ? std::string("model.safetensors") : std::string(name);
    };
    for (const auto& [name, shape] : shapes) {
      const uint64_t shard = next++ % shards;
      outputs[shard].push_back({name, dtype, shape});
      map += std::string(map.empty() ? "" : ", ") + "\"" + name + "\": \"" + file(shard) + "\"";
    }
    for (uint64_t shard = 0; shard < shards; ++shard) {
      SafetensorsWriter writer(directory / file(shard), layout_safetensors(outputs[shard]));
      for (std::size_t i = 0; i < writer.layout().tensors.size(); ++i) {
        writer.write(i, 0, encode(values.at(writer.layout().tensors[i].name), dtype));
      }
      writer.finish();
    }
    if (shards > 1) {
      write_file(directory / "model.safetensors.index.json",
                 "{\"metadata\": {}, \"weight_map\": {" + map + "}}");
    }
    return directory;
  }
};

/// Contents of every file of a directory, by name.
inline std::map<std::string, std::string> contents(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    files[entry.path().filename().string()] = read_file(entry.path());
  }
  return files;
}

/// One layer, not filled yet, whose down_proj has rows of more than a panel (1 MiB).
inline SourceModel model_of_long_rows() {
  SourceModel model;
  model.dtype = DType::kF32;
  model.layers = 1;
  model.inner = (uint64_t{1} << 18) + 160;
  model.hidden = 32;
  model.heads = 1;
  model.kv_heads = 1;
  return model;
}

}  // namespace jang
