// Layouts of fused tensors. E experts, I their width, D hidden.
//
//   rows     [E, 2I, D]   gate rows first: most families, granitemoe under other names
//   columns  [E, D, 2I]   halves on the last axis, stored transposed: llama4, qwen3_vl_moe
//   gpt_oss  [E, D, 2I]   even columns gate, odd columns up, stored transposed; biases [E, 2I]
//   alike
//
// A split along rows is a list of row ranges, and so is one of which every range is transposed.
// What no layer here computes yet is planned and carries an obstacle.
#include "arch/split_tensor.h"

#include <algorithm>

#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr std::string_view kTransposed = "its rows are columns of the source";

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

uint64_t flat_rows(const std::vector<uint64_t>& shape) {
  uint64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

class Splitter {
 public:
  Splitter(const ModelConfig& config, const SourceTensor& source, uint32_t index)
      : config_(config), source_(source), index_(index) {}

  FinalTensor whole(const std::string& name) const {
    FinalTensor tensor = part(name, source_.shape);
    tensor.ranges.push_back({index_, 0, flat_rows(source_.shape)});
    return tensor;
  }

  /// The same bytes under another shape.
  FinalTensor reshaped(const std::string& name, std::vector<uint64_t> shape) const {
    FinalTensor tensor = part(name, std::move(shape));
    tensor.ranges.push_back({index_, 0, flat_rows(tensor.shape)});
    return tensor;
  }

  FinalTensor blocked(const std::string& name, std::vector<uint64_t> shape,
                      std::string_view obstacle) const {
    FinalTensor tensor = part(name, std::move(shape));
    tensor.obstacle = obstacle;
    return tensor;
  }

  /// Rows [begin, begin + count) of each of `stacks` equal blocks.
  FinalTensor rows(const std::string& name, uint64_t stacks, uint64_t block, uint64_t begin,
                   uint64_t count, std::vector<uint64_t> shape) const {
    FinalTensor tensor = part(name, std::move(shape));
    for (uint64_t e = 0; e < stacks; ++e) {
      tensor.ranges.push_back({index_, e * block + begin, count});
    }
    return tensor;
  }

  /// The same, each block's rows being columns of the result.
  FinalTensor transposed_rows(const std::string& name, uint64_t stacks, uint64_t block,
                              uint64_t begin, uint64_t count, std::vector<uint64_t> shape) const {
    FinalTensor tensor = rows(name, stacks, block, begin, count, std::move(shape));
    tensor.transposed.emplace();
    return tensor;
  }

  /// A stack of matrices whose rows are these columns of the source's [stacks, columns, ...].
  FinalTensor turned_columns(const std::string& name, SourceColumns columns,
                             uint64_t matrix_rows) const {
    const auto& s = source_.shape;
    FinalTensor tensor = rows(name, s[0], s[1], 0, s[1], {s[0], matrix_rows, s[1]});
    tensor.transposed = columns;
    return tensor;
  }

  /// Every other column.
  FinalTensor alternate_columns(const std::string& name, uint64_t first) const {
    FinalTensor tensor = part(name, {source_.shape[0], source_.shape[1] / 2});
    tensor.ranges.push_back({index_, 0, source_.shape[0]});
    tensor.picked = SourceColumns{first, 2};
    return tensor;
  }

  /// [E, 2I, D] or [2I, D]: first half of the rows, second half.
  std::vector<FinalTensor> row_halves(const std::string& base) const {
    const auto& shape = source_.shape;
    const std::size_t axis = shape.size() - 2;
    const uint64_t stacks = shape.size() == 3 ? shape[0] : 1;
    const uint64_t block = shape[axis];
    if (block % 2 != 0) fail("an odd number of rows cannot hold gate and up");
    std::vector<uint64_t> half = shape;
    half[axis] /= 2;
    return {rows(base + "gate_proj.weight", stacks, block, 0, block / 2, half),
            rows(base + "up_proj.weight", stacks, block, block / 2, block / 2, half)};
  }

  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorCode::kTensorShape, {}, source_.name,
                message + " (shape " + shape_text(source_.shape) + ", model type " +
                    config_.model_type() + ")");
  }
  void require_rank(std::size_t rank) const {
    if (source_.shape.size() != rank) fail("expected " + std::to_string(rank) + " axes");
  }
  void require_hidden(std::size_t axis) const {
    const auto hidden = config_.integer("hidden_size", 1, ModelConfig::kMaxDim);
    if (hidden && source_.shape[axis] != static_cast<uint64_t>(*hidden)) {
      fail("expected hidden_size " + std::to_string(*hidden) + " on axis " + std::to_string(axis));
    }
  }

 private:
  FinalTensor part(const std::string& name, std::vector<uint64_t> shape) const {
    FinalTensor tensor;
    tensor.name = name;
    tensor.source = source_.name;
    tensor.shape = std::move(shape);
    tensor.dtype = source_.dtype;
    return tensor;
  }

  const ModelConfig& config_;
  const SourceTensor& source_;
  uint32_t index_;
};

// "P.experts.gate_up_proj" and "P.experts.down_proj", without ".weight".
std::vector<FinalTensor> split_fused_experts(const ModelConfig& config, const Splitter& splitter,
                                             const SourceTensor& source, const std::string& parent,
                                             std::string_view what) {
  const std::string& type = config.model_type();
  const bool gpt_oss = type == "gpt_oss";
  const bool transposed =
      gpt_oss || one_of(type, {"llama4", "llama4_text", "qwen3_vl_moe", "qwen3_vl_moe_text"});
  const std::string stack =
      parent + (transposed && type != "qwen3_vl_moe" && type != "qwen3_vl_moe_text" ? ".experts."
                : type.starts_with("gemma4") ? ".experts.switch_glu."
                                             : ".switch_mlp.");
  const auto& s = source.shape;
  if (type == "nemotron_h") {  // without a gate
    splitter.require_rank(3);
    const char* name = what == "up_proj" ? ".switch_mlp.fc1.weight" : ".switch_mlp.fc2.weight";
    return {splitter.whole(parent + name)};
  }
  if (what == "gate_up_proj_bias" || what == "down_proj_bias") {
    splitter.require_rank(2);
    if (what == "down_proj_bias") return {splitter.whole(stack + "down_proj.bias")};
    if (s[1] % 2 != 0) splitter.fail("an odd last axis cannot hold gate and up");
    return {splitter.alternate_columns(stack + "gate_proj.bias", 0),
            splitter.alternate_columns(stack + "up_proj.bias", 1)};
  }
  splitter.require_rank(3);
  if (!transposed) {
    // Which axis is fused cannot be seen from a shape alone, hidden_size decides.
    splitter.require_hidden(what == "down_proj" ? 1 : 2);
    if (what == "down_proj") return {splitter.whole(stack + "down_proj.weight")};
    return splitter.row_halves(stack);
  }
  if (what == "down_proj") {
    splitter.require_hidden(2);
    if (gpt_oss) return {splitter.turned_columns(stack + "down_proj.weight", {}, s[2])};
    return {splitter.blocked(stack + "down_proj.weight", {s[0], s[2], s[1]}, kTransposed)};
  }
  splitter.require_hidden(1);
  if (s[2] % 2 != 0) splitter.fail("an odd last axis cannot hold gate and up");
  if (gpt_oss) {
    return {splitter.turned_columns(stack + "gate_proj.weight", {0, 2}, s[2] / 2),
            splitter.turned_columns(stack + "up_proj.weight", {1, 2}, s[2] / 2)};
  }
  const std::vector<uint64_t> half = {s[0], s[2] / 2, s[1]};
  return {splitter.blocked(stack + "gate_proj.weight", half, kTransposed),
          splitter.blocked(stack + "up_proj.weight", half, kTransposed)};
}

// kv_b_proj [heads * (nope + v), rank] of the third deepseek generation.
std::vector<FinalTensor> split_latent(const ModelConfig& config, const Splitter& splitter,
                                      const SourceTensor& source, const std::string& parent) {
  splitter.require_rank(2);
  const auto read = [&](std::string_view key, int64_t high) {
    return static_cast<uint64_t>(config.required_integer(key, 1, high));
  };
  const uint64_t heads = read("num_attention_heads", ModelConfig::kMaxHeads);
  const uint64_t nope = read("qk_nope_head_dim", ModelConfig::kMaxDim);
  const uint64_t value = read("v_head_dim", ModelConfig::kMaxDim);
  const uint64_t rank = source.shape[1];
  if (source.shape[0] != heads * (nope + value)) {
    splitter.fail("expected heads * (qk_nope_head_dim + v_head_dim) = " +
                  std::to_string(heads * (nope + value)) + " rows");
  }
  return {splitter.transposed_rows(parent + ".embed_q.weight", heads, nope + value, 0, nope,
                                   {heads, rank, nope}),
          splitter.rows(parent + ".unembed_out.weight", heads, nope + value, nope, value,
                        {heads, value, rank})};
}

}  // namespace

std::vector<FinalTensor> split_tensor(const ModelConfig& config, const SourceTensor& source,
                                      uint32_t index, const std::string& name) {
  const Splitter splitter(config, source, index);
  const std::string& type = config.model_type();
  const bool weight = name.ends_with(".weight");
  const std::string path = weight ? name.substr(0, name.size() - 7) : name;
  const std::size_t dot = path.rfind('.');
  const std::string_view last =
      std::string_view(path).substr(dot == std::string::npos ? 0 : dot + 1);
  const std::string parent = dot == std::string::npos ? std::string() : path.substr(0, dot);

  if (parent.ends_with(".experts") && !weight &&
      (one_of(last, {"gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias"}) ||
       (type == "nemotron_h" && last == "up_proj"))) {
    return split_fused_experts(config, splitter, source, parent.substr(0, parent.size() - 8), last);
  }
  if (type.starts_with("granitemoe") && parent.ends_with(".block_sparse_moe")) {
    if (last == "input_linear") {
      splitter.require_rank(3);
      return splitter.row_halves(parent + ".switch_mlp.");
    }
    if (last == "output_linear") return {splitter.whole(parent + ".switch_mlp.down_proj.weight")};
  }
  if (type == "granitemoehybrid" && config.experts() == 0 && parent.ends_with(".shared_mlp")) {
    const std::string mlp = parent.substr(0, parent.size() - 11) + ".mlp.";
    if (last == "input_linear") {
      splitter.require_rank(2);
      return splitter.row_halves(mlp);
    }
    if (last == "output_linear") return {splitter.whole(mlp + "down_proj.weight")};
  }
  if (one_of(type, {"deepseek_v3", "deepseek_v32", "kimi_k2"}) && weight && last == "kv_b_proj") {
    return split_latent(config, splitter, source, parent);
  }
  const auto& s = source.shape;
  const bool convolution = last == "conv1d" || path.ends_with("conv.conv");
  if (weight && convolution && s.size() == 3 && s[1] == 1 && s[2] > 1) {
    return {splitter.reshaped(name, {s[0], s[2], 1})};
  }
  return {splitter.whole(name)};
}

}  // namespace jang
