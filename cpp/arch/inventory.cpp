// Gathers the final tensors of a model from its sources: drops, renames, stacks experts, splits
// fused tensors, decides about the head, puts everything in layer order.
#include "arch/inventory.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "arch/block_scales.h"
#include "arch/family.h"
#include "arch/final_names.h"
#include "arch/general_roles.h"
#include "arch/mxfp4.h"
#include "arch/spec_tensors.h"
#include "arch/split_tensor.h"
#include "arch/zero_centred_norms.h"
#include "base/checked_math.h"
#include "base/error.h"

namespace jang {
namespace {

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Sums of bits * weights stay exact in 64 bits below this.
constexpr uint64_t kMaxParameters = uint64_t{1} << 56;

struct Stack {
  std::string source;
  std::map<int64_t, uint32_t> members;  // expert -> source
};

FinalTensor join_stack(const ModelConfig& config, std::span<const SourceTensor> sources,
                       const std::string& name, const Stack& stack) {
  const int64_t promised = config.experts();
  const SourceTensor& first = sources[stack.members.begin()->second];
  const int64_t count = promised > 0 ? promised : stack.members.rbegin()->first + 1;
  FinalTensor tensor;
  tensor.name = name;
  tensor.source = stack.source;
  tensor.dtype = first.dtype;
  tensor.shape = first.shape;
  tensor.shape.insert(tensor.shape.begin(), static_cast<uint64_t>(count));
  uint64_t rows = 1;
  for (std::size_t i = 0; i + 1 < first.shape.size(); ++i) rows *= first.shape[i];
  for (int64_t expert = 0; expert < count; ++expert) {
    const auto it = stack.members.find(expert);
    if (it == stack.members.end()) {
      std::string missing = stack.source;
      missing.replace(missing.find('*'), 1, std::to_string(expert));
      throw Error(ErrorCode::kMissingTensor, {}, missing,
                  "missing; the other experts of this layer have it");
    }
    const SourceTensor& source = sources[it->second];
    if (source.shape != first.shape || source.dtype != first.dtype) {
      throw Error(ErrorCode::kTensorShape, {}, source.name,
                  "expected " + std::string(dtype_name(first.dtype)) + " " +
                      shape_text(first.shape) + " like the layer's first expert, found " +
                      std::string(dtype_name(source.dtype)) + " " + shape_text(source.shape));
    }
    tensor.ranges.push_back({it->second, 0, rows});
  }
  if (const auto& last = *stack.members.rbegin(); last.first >= count) {
    throw Error(ErrorCode::kExtraTensor, {}, sources[last.second].name,
                "config.json promises " + std::to_string(count) + " experts");
  }
  return tensor;
}

// Arrays in stock mlx-lm, not layers: it cannot hold them quantized.
bool bare_router(const ModelConfig& config) {
  const std::string& type = config.model_type();
  return type.starts_with("deepseek") || one_of(type, {"glm4_moe", "nemotron_h", "kimi_k2"});
}

void describe(const ModelConfig& config, FinalTensor& tensor) {
  const bool weight = tensor.name.ends_with(".weight");
  tensor.path = weight ? tensor.name.substr(0, tensor.name.size() - 7) : tensor.name;
  tensor.role = role_in_model(tensor.path, tensor.shape, config.model_type());
  const std::size_t rank = tensor.shape.size();
  tensor.packable = weight && (rank == 2 || rank == 3) && tensor.role.role != Role::kOther &&
                    !(tensor.role.role == Role::kRouter && bare_router(config));
}

bool is_main_embedding(const FinalTensor& tensor) {
  return tensor.role.role == Role::kEmbedding && !tensor.path.ends_with("embed_tokens_per_layer");
}

std::string embedding_name(std::string_view head_name, const ModelConfig& config) {
  if (one_of(config.model_type(), {"mamba", "mamba2", "falcon_mamba"})) {
    return "backbone.embeddings.weight";
  }
  const std::size_t at = head_name.rfind("lm_head");
  return std::string(head_name.substr(0, at)) + "model.embed_tokens.weight";
}

class Builder {
 public:
  Builder(const ModelConfig& config, std::span<const SourceTensor> sources)
      : config_(config), sources_(sources), blocks_(stated_blocks(config)) {
    check_block_scales(config, sources, blocks_);
    if (is_mxfp4(config)) packed_.emplace(config, sources);
  }

  void place_all() {
    constexpr std::string_view kWeight = ".weight";
    const bool raw_norms =
        has_zero_centred_norms(config_.model_type()) && holds_raw_convolutions(sources_);
    std::map<std::string, Stack> stacks;
    for (uint32_t i = 0; i < sources_.size(); ++i) {
      const SourceTensor& source = sources_[i];
      if (is_dropped(config_, source.name)) {
        result_.dropped.push_back(source.name);
        if (const auto tower = tower_of(source.name); !tower.empty()) ++towers_[std::string(tower)];
        if (source.name.starts_with("mtp.") || source.name.find(".mtp.") != std::string::npos)
          ++towers_["mtp"];
        continue;
      }
      if (blocks_ && !scaled_name(source.name).empty())
        continue;  // part of the tensor it belongs to
      if (packed_) {
        auto parts = packed_->split(i);
        if (parts) {
          for (FinalTensor& tensor : *parts) result_.tensors.push_back(std::move(tensor));
          continue;
        }
      }
      require_plain(source);
      FinalName name = final_name(config_, source.name);
      if (name.expert >= 0) {
        Stack& stack = stacks[name.name];
        stack.source = name.template_name;
        if (!stack.members.emplace(name.expert, i).second) {
          throw Error(ErrorCode::kExtraTensor, {}, source.name,
                      "a second tensor for this expert of " + name.name);
        }
        continue;
      }
      for (FinalTensor& tensor : split_tensor(config_, source, i, name.name)) {
        if (raw_norms && tensor.shape.size() == 1 && tensor.name.ends_with(kWeight) &&
            is_zero_centred(
                config_.model_type(),
                std::string_view(tensor.name).substr(0, tensor.name.size() - kWeight.size()))) {
          tensor.shift = 1.0f;
        }
        take_blocks(source, tensor);
        result_.tensors.push_back(std::move(tensor));
      }
    }
    for (const auto& [tower, count] : towers_) {
      result_.warnings.push_back(tower + ": " + std::to_string(count) +
                                 " tensors left out; only the language model is written");
    }
    for (const auto& [name, stack] : stacks) {
      result_.tensors.push_back(join_stack(config_, sources_, name, stack));
      take_blocks(sources_[stack.members.begin()->second], result_.tensors.back());
    }
    for (FinalTensor& tensor : result_.tensors) describe(config_, tensor);
  }

  /// Under their last names, so that a tensor has the factors of what it serves as.
  void take_factors() {
    if (!holds_raw_convolutions(sources_)) return;
    const TensorFactors factors = factors_of(config_);
    if (factors.empty()) return;
    for (FinalTensor& tensor : result_.tensors) {
      const auto it = factors.find(tensor.name);
      if (it != factors.end()) tensor.factors = it->second;
    }
  }

  void decide_head(std::optional<bool> heads_equal) {
    const bool unknown = is_unknown_model_type(config_.model_type());
    auto& tensors = result_.tensors;
    const auto embedding = std::find_if(tensors.begin(), tensors.end(), is_main_embedding);
    const auto head = std::find_if(tensors.begin(), tensors.end(), [](const FinalTensor& tensor) {
      return tensor.role.role == Role::kHead && tensor.name.ends_with(".weight");
    });
    const bool has_embedding = embedding != tensors.end();
    const bool has_head = head != tensors.end();
    if (unknown && !(has_embedding && has_head)) {
      result_.tied_head = has_embedding;  // the head has no weights of its own, or another name
      return;
    }
    if (!has_embedding && !has_head) {
      throw Error(ErrorCode::kMissingTensor, {}, "model.embed_tokens.weight",
                  "missing, and no lm_head.weight that could serve");
    }
    if (!config_.tied_embeddings()) {
      if (!has_head) {
        throw Error(ErrorCode::kMissingTensor, {}, "lm_head.weight",
                    "missing, and config.json does not tie it to the embedding");
      }
      if (!has_embedding) {
        throw Error(ErrorCode::kMissingTensor, {}, embedding_name(head->name, config_),
                    "missing, and config.json does not tie it to the head");
      }
      return;
    }
    if (has_embedding && has_head) {
      const bool differs = embedding->shape != head->shape ||
                           embedding->stored_dtype() != head->stored_dtype() ||
                           heads_equal == std::optional<bool>(false);
      if (differs) {
        result_.warnings.push_back(head->source +
                                   ": differs from the embedding that config.json ties it to; "
                                   "kept as a head of its own");
        return;
      }
      if (!heads_equal) {
        result_.warnings.push_back(head->source +
                                   ": stored although config.json ties it to the embedding; taken "
                                   "for a copy, values not compared");
      }
      result_.dropped.push_back(head->source);
      if (head->blocks) result_.dropped.push_back(scales_name(head->source));
      tensors.erase(head);
    } else if (has_head) {  // the only copy is stored under the head's name
      head->name = embedding_name(head->name, config_);
      describe(config_, *head);
    }
    result_.tied_head = true;
  }

  void order() {
    const auto section = [](const FinalTensor& tensor) {
      if (is_main_embedding(tensor)) return 0;
      if (tensor.role.layer >= 0) return 1;
      return tensor.path.find("lm_head") == std::string::npos ? 2 : 3;
    };
    std::sort(result_.tensors.begin(), result_.tensors.end(),
              [&](const FinalTensor& a, const FinalTensor& b) {
                return std::tuple(section(a), a.role.layer, std::string_view(a.name)) <
                       std::tuple(section(b), b.role.layer, std::string_view(b.name));
              });
    for (std::size_t i = 1; i < result_.tensors.size(); ++i) {
      if (result_.tensors[i].name == result_.tensors[i - 1].name) {
        throw Error(ErrorCode::kExtraTensor, {}, result_.tensors[i].source,
                    "becomes " + result_.tensors[i].name + ", as " + result_.tensors[i - 1].source +
                        " does");
      }
    }
    std::sort(result_.dropped.begin(), result_.dropped.end());
  }

  void check() {
    if (const Family* family = find_family(config_.model_type())) {
      ModelSpec spec = family->spec(config_);
      spec.head.tied = result_.tied_head;
      std::vector<FoundTensor> found;
      found.reserve(result_.tensors.size());
      for (const FinalTensor& tensor : result_.tensors)
        found.push_back({tensor.name, tensor.shape});
      check_tensors(spec, found, {});
      if (!family->without_stock.empty()) {
        result_.warnings.push_back("model type \"" + config_.model_type() +
                                   "\": stock mlx-lm has no loader for it (" +
                                   std::string(family->without_stock) + "); `jang run` runs it");
      }
    } else {
      const std::string type = "model type \"" + config_.model_type().substr(0, 60) + "\"";
      result_.warnings.push_back(
          is_unknown_model_type(config_.model_type())
              ? type +
                    " is unknown: roles are read from names by general rules, and names stay. "
                    "`jang run` cannot run it; others can if they know it by these names"
              : type + " is planned by general name rules");
    }
    for (const FinalTensor& tensor : result_.tensors) {
      if (!tensor.role.matched) {
        result_.warnings.push_back(tensor.name + ": unknown name, takes the attention column");
      }
      uint64_t elements = 1;
      for (const uint64_t d : tensor.shape) {
        const auto product = checked_mul(elements, d);
        if (!product) {
          throw Error(ErrorCode::kShapeOverflow, {}, tensor.name, "too many elements");
        }
        elements = *product;
      }
      const auto sum = checked_add(result_.parameters, elements);
      if (!sum || *sum >= kMaxParameters)
        throw Error(ErrorCode::kShapeOverflow, {}, tensor.name, "too many elements");
      result_.parameters = *sum;
    }
  }

  /// Biases that readers of the written model expect and the source lacks.
  void add_zeros() {
    const Family* family = find_family(config_.model_type());
    if (family == nullptr || family->add_stock_biases == nullptr) return;
    ModelSpec spec = family->spec(config_);
    spec.head.tied = result_.tied_head;
    family->add_stock_biases(spec);
    std::map<std::string, DType, std::less<>> stored;
    for (const FinalTensor& tensor : result_.tensors) stored.emplace(tensor.name, tensor.dtype);
    for (const SpecTensor& wanted : spec_tensors(spec)) {
      if (stored.contains(wanted.name)) continue;
      JANG_ASSERT(wanted.name.ends_with(".bias"));
      // Its matrix's dtype; a tied head's is the embedding, which comes first.
      const std::string path = wanted.name.substr(0, wanted.name.size() - 5);
      const auto matrix = stored.find(path + ".weight");
      FinalTensor tensor;
      tensor.name = tensor.source = wanted.name;
      tensor.shape = wanted.shape;
      tensor.dtype = matrix == stored.end() ? result_.tensors.front().dtype : matrix->second;
      tensor.zeros = true;
      describe(config_, tensor);
      result_.parameters += tensor.elements();
      result_.tensors.push_back(std::move(tensor));
    }
    order();
  }

  Inventory take() { return std::move(result_); }

 private:
  /// Values of F8_E4M3 sources are products in F32.
  void take_blocks(const SourceTensor& source, FinalTensor& tensor) const {
    if (source.dtype != DType::kF8E4M3) return;
    if (!tensor.transposed && tensor.columns() != source.shape.back()) {
      throw Error(ErrorCode::kUnsupportedFormat, {}, source.name,
                  "F8_E4M3 in a tensor that takes another shape, " + shape_text(tensor.shape) +
                      " instead of " + shape_text(source.shape));
    }
    tensor.dtype = DType::kF32;
    tensor.blocks = blocks_;
  }

  void require_plain(const SourceTensor& source) const {
    if (blocks_ && source.dtype == DType::kF8E4M3) return;  // checked with its scales
    if (!is_float_weight(source.dtype)) {
      throw Error(ErrorCode::kUnsupportedFormat, {}, source.name,
                  "expected F32, F16 or BF16, found " + std::string(dtype_name(source.dtype)));
    }
    if (source.name.ends_with(".scales")) {
      throw Error(ErrorCode::kUnsupportedFormat, {}, source.name,
                  "belongs to a quantized checkpoint; the source must be plain");
    }
  }

  const ModelConfig& config_;
  std::span<const SourceTensor> sources_;
  const std::optional<ScaleBlocks> blocks_;  // of F8_E4M3 sources
  std::map<std::string, uint64_t> towers_;   // tensors of other modalities, by component
  std::optional<Mxfp4Splitter> packed_;      // where the config says that experts are packed
  Inventory result_;
};

}  // namespace

uint64_t FinalTensor::elements() const noexcept {
  uint64_t n = 1;
  for (const uint64_t d : shape) n *= d;
  return n;
}

uint64_t FinalTensor::bytes() const noexcept {
  return elements() * static_cast<uint64_t>(dtype_size(stored_dtype()));
}

SourceRow locate_row(const FinalTensor& tensor, uint64_t row) {
  uint64_t first = 0;
  for (const RowRange& range : tensor.ranges) {
    if (row - first < range.rows) {
      const uint64_t at = row - first;
      return {range.tensor, range.row_begin + at * range.step, range.rows - at, range.step};
    }
    first += range.rows;
  }
  throw Error(ErrorCode::kTensorShape, {}, tensor.name,
              "expected a source for row " + std::to_string(row) + ", found rows up to " +
                  std::to_string(first));
}

SourceValue locate_value(const FinalTensor& tensor, uint64_t row, uint64_t column) {
  if (!tensor.transposed) {
    const SourceRow at = locate_row(tensor, row);
    if (!tensor.picked) return {at.tensor, at.row, column};
    return {at.tensor, at.row, tensor.picked->first + column * tensor.picked->step};
  }
  const uint64_t rows = tensor.shape[tensor.shape.size() - 2];  // of a matrix
  if (row / rows >= tensor.ranges.size()) {
    throw Error(ErrorCode::kTensorShape, {}, tensor.name,
                "expected a source for row " + std::to_string(row) + ", found rows up to " +
                    std::to_string(tensor.ranges.size() * rows));
  }
  const RowRange& range = tensor.ranges[row / rows];
  return {range.tensor, range.row_begin + column,
          tensor.transposed->first + row % rows * tensor.transposed->step};
}

Inventory build_inventory(const ModelConfig& config, std::span<const SourceTensor> sources,
                          std::optional<bool> heads_equal) {
  Builder builder(config, sources);
  builder.place_all();
  builder.decide_head(heads_equal);
  builder.take_factors();
  builder.order();
  builder.check();
  builder.add_zeros();
  return builder.take();
}

}  // namespace jang
