// config.json and the index of a written directory. Same plan, same bytes.
#include "plan/plan_document.h"

#include <array>

#include "arch/family.h"

namespace jang {
namespace {

// Of the source's own storage, or of towers that are not written.
constexpr std::array<std::string_view, 11> kLeftOut = {
    "jang",           "_name_or_path",       "auto_map",
    "quantization",   "quantization_config", "compression_config",
    "vision_config",  "audio_config",        "speech_config",
    "image_token_id", "video_token_id"};

Json width_json(int bits, int group_size) {
  Json entry;
  entry["group_size"] = group_size;
  entry["bits"] = bits;
  entry["mode"] = "affine";
  return entry;
}

}  // namespace

std::string output_config_json(const Plan& plan, const ModelConfig& source) {
  Json config = source.root();
  if (const Family* family = find_family(source.model_type())) {
    family->complete_config(config, source);
  }
  auto& members = config.as_object();
  for (const std::string_view key : kLeftOut) {
    const auto it = members.find(key);
    if (it != members.end()) members.erase(it);
  }
  // What is written decides, not what the source said: stored heads may differ from a tying flag,
  // and --dtype casts. Of an unknown architecture only its own code knows what it ties.
  if (!is_unknown_model_type(source.model_type())) config["tie_word_embeddings"] = plan.tied_head;
  for (const std::string_view key : {"torch_dtype", "dtype"}) {
    config[key] = config_dtype_word(plan.activation_dtype);
  }
  // Stock mlx-lm reads the tying flag of a wrapped text model where its other settings are.
  if (config.find("text_config") != nullptr) {
    config["text_config"]["tie_word_embeddings"] = plan.tied_head;
    config["text_config"]["dtype"] = config_dtype_word(plan.activation_dtype);
  }
  Json widths;
  bool any = false;
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.format) continue;
    any = true;
    widths[planned.tensor.path] = width_json(planned.format->bits, planned.format->group_size);
  }
  if (any) {
    widths["bits"] = plan.global.bits;
    widths["group_size"] = plan.global.group_size;
    widths["mode"] = "affine";
    config["quantization"] = widths;
    config["quantization_config"] = widths;
  }
  return dump_json(config);
}

std::string output_index_json(const Plan& plan) {
  Json index;
  Json& metadata = index["metadata"];
  metadata["format"] = "jang";
  metadata["format_version"] = "2.0";
  metadata["total_size"] = plan.payload_bytes;
  metadata["total_parameters"] = plan.parameters;
  Json& map = index["weight_map"];
  map = Json::Object{};
  const auto count = static_cast<uint32_t>(plan.shards.size());
  for (uint32_t shard = 0; shard < count; ++shard) {
    const std::string file = shard_file_name(shard, count);
    for (const ShardTensor& tensor : shard_tensors(plan, shard)) map[tensor.name] = file;
  }
  return dump_json(index);
}

}  // namespace jang
