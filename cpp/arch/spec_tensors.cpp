// Walks a ModelSpec and lists its tensors; compares such a list with what was found.
#include "arch/spec_tensors.h"

#include <map>
#include <string_view>

#include "base/error.h"

namespace jang {
namespace {

uint64_t dim(int64_t value) { return static_cast<uint64_t>(value); }

class Collector {
 public:
  void linear(const LinearSpec& spec) {
    matrix(spec.path, spec.out, spec.in);
    bias(spec);
  }
  void bias(const LinearSpec& spec) {
    if (spec.bias) out_.push_back({spec.path + ".bias", {dim(spec.out)}, false});
  }
  void matrix(const std::string& path, int64_t rows, int64_t columns) {
    out_.push_back({path + ".weight", {dim(rows), dim(columns)}, true});
  }
  void stack(const StackSpec& spec, int64_t chosen) {
    out_.push_back(
        {spec.path + ".weight", {dim(spec.count), dim(spec.out), dim(spec.in)}, true, dim(chosen)});
    if (spec.bias) out_.push_back({spec.path + ".bias", {dim(spec.count), dim(spec.out)}, false});
  }
  void norm(const NormSpec& spec) {
    std::vector<uint64_t> shape = {dim(spec.size)};
    if (spec.heads > 0) shape.insert(shape.begin(), dim(spec.heads));
    out_.push_back({spec.path + ".weight", std::move(shape), false});
    if (spec.bias) out_.push_back({spec.path + ".bias", {dim(spec.size)}, false});
  }
  void norm(const std::optional<NormSpec>& spec) {
    if (spec && !spec->path.empty()) norm(*spec);
  }
  void convolution(const std::string& path, int64_t channels, int64_t taps, bool biased) {
    out_.push_back({path + ".weight", {dim(channels), dim(taps), 1}, false});
    if (biased) out_.push_back({path + ".bias", {dim(channels)}, false});
  }
  void vector(const std::string& name, int64_t size) { out_.push_back({name, {dim(size)}, false}); }
  void operator()(const LayerInputBranchSpec& spec) {
    linear(spec.gate);
    linear(spec.projection);
    norm(spec.norm);
  }
  void operator()(const LayerInputsSpec& spec) {
    matrix(spec.table, spec.rows, spec.projection.out);
    linear(spec.projection);
    norm(spec.norm);
  }
  void operator()(const AttentionSpec& spec) {
    if (spec.qkv) {
      linear(*spec.qkv);
    } else {
      for (const LinearSpec* part : {&spec.q, &spec.k, &spec.v})
        if (!part->path.empty()) linear(*part);
    }
    linear(spec.o);
    norm(spec.q_norm);
    norm(spec.k_norm);
    norm(spec.v_norm);
    if (!spec.sinks.empty()) vector(spec.sinks, spec.n_heads);
  }
  void operator()(const DeltaNetSpec& spec) {
    linear(spec.qkv);
    if (spec.z) linear(*spec.z);
    linear(spec.b);
    if (spec.a) linear(*spec.a);
    convolution(spec.convolution, spec.channels(), spec.taps, false);
    out_.push_back({spec.decay, {dim(spec.value_heads)}, false});
    out_.push_back({spec.step_bias, {dim(spec.value_heads)}, false});
    norm(spec.norm);
    linear(spec.out);
  }
  void operator()(const MambaSpec& spec) {
    linear(spec.in);
    convolution(spec.convolution, spec.inner, spec.taps, spec.convolution_bias);
    linear(spec.parameters);
    for (const auto* part : {&spec.step_norm, &spec.b_norm, &spec.c_norm}) norm(*part);
    linear(spec.step);
    out_.push_back({spec.decay, {dim(spec.inner), dim(spec.state)}, false});
    out_.push_back({spec.skip, {dim(spec.inner)}, false});
    linear(spec.out);
  }
  void operator()(const Mamba2Spec& spec) {
    linear(spec.in);
    convolution(spec.convolution, spec.channels(), spec.taps, spec.convolution_bias);
    for (const std::string* name : {&spec.decay, &spec.skip, &spec.step_bias})
      out_.push_back({*name, {dim(spec.heads)}, false});
    norm(spec.norm);
    linear(spec.out);
  }
  void operator()(const ParallelMixerSpec& spec) {
    (*this)(spec.attention);
    (*this)(spec.mamba);
  }
  void operator()(const NoMixerSpec& /*spec*/) {}
  void operator()(const LightningSpec& spec) {
    linear(spec.qkv);
    linear(spec.gate);
    norm(spec.norm);
    linear(spec.out);
  }
  void operator()(const ShortConvSpec& spec) {
    linear(spec.in);
    convolution(spec.convolution, spec.channels, spec.taps, spec.convolution_bias);
    linear(spec.out);
  }
  void operator()(const LatentAttentionSpec& spec) {
    if (spec.q_a) linear(*spec.q_a);
    norm(spec.q_norm);
    linear(spec.q);
    linear(spec.kv_a);
    norm(spec.kv_norm);
    if (spec.kv_b) {
      linear(*spec.kv_b);
    } else {
      stack(spec.embed_q, 0);
      stack(spec.unembed_out, 0);
    }
    linear(spec.o);
  }
  void operator()(const GatedMlpSpec& spec) {
    if (spec.gate_up) {
      linear(*spec.gate_up);
    } else {
      linear(spec.gate);
      linear(spec.up);
    }
    linear(spec.down);
  }
  void operator()(const PlainMlpSpec& spec) {
    linear(spec.up);
    linear(spec.down);
  }
  void operator()(const MoeSpec& spec) {
    linear(spec.router);
    if (!spec.correction.empty()) out_.push_back({spec.correction, {dim(spec.experts)}, false});
    if (spec.router_norm) vector(spec.router_norm->path, spec.router_norm->size);
    if (!spec.expert_scale.empty()) vector(spec.expert_scale, spec.experts);
    norm(spec.pre_norm);
    norm(spec.post_norm);
    if (spec.latent_in) linear(*spec.latent_in);
    if (spec.gated()) stack(spec.gate, spec.top_k);
    for (const StackSpec* part : {&spec.up, &spec.down}) stack(*part, spec.top_k);
    if (spec.latent_out) linear(*spec.latent_out);
    if (!spec.shared) return;
    if (spec.shared->plain) {
      (*this)(*spec.shared->plain);
    } else {
      (*this)(spec.shared->mlp);
    }
    norm(spec.shared->pre_norm);
    norm(spec.shared->post_norm);
    if (spec.shared->gate) linear(*spec.shared->gate);
  }
  std::vector<SpecTensor> take() { return std::move(out_); }

 private:
  std::vector<SpecTensor> out_;
};

}  // namespace

std::vector<SpecTensor> spec_tensors(const ModelSpec& spec) {
  Collector collect;
  collect.matrix(spec.embedding.path, spec.vocabulary, spec.hidden);
  if (spec.layer_inputs) collect(*spec.layer_inputs);
  for (const LayerSpec& layer : spec.layers) {
    collect.norm(layer.pre_norm);
    std::visit(collect, layer.mixer);
    collect.norm(layer.post_norm);
    collect.norm(layer.ff_pre_norm);
    if (layer.feed_forward) std::visit(collect, *layer.feed_forward);
    collect.norm(layer.ff_post_norm);
    if (layer.layer_input) collect(*layer.layer_input);
    if (!layer.out_scale.empty()) collect.vector(layer.out_scale, 1);
  }
  collect.norm(spec.final_norm);
  if (spec.head.tied) {
    collect.bias(spec.head.linear);  // the matrix is the embedding's
  } else {
    collect.linear(spec.head.linear);
  }
  return collect.take();
}

std::string shape_text(std::span<const uint64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

void check_tensors(const ModelSpec& spec, std::span<const FoundTensor> found,
                   const std::string& file) {
  std::map<std::string_view, const FoundTensor*> by_name;
  for (const FoundTensor& tensor : found) {
    if (!by_name.emplace(tensor.name, &tensor).second) {
      throw Error(ErrorCode::kExtraTensor, file, tensor.name, "appears twice after renaming");
    }
  }
  for (const SpecTensor& wanted : spec_tensors(spec)) {
    const auto it = by_name.find(wanted.name);
    if (it == by_name.end()) {
      throw Error(ErrorCode::kMissingTensor, file, wanted.name,
                  "missing; a " + spec.model_type + " model of this config has it, shape " +
                      shape_text(wanted.shape));
    }
    if (it->second->shape != wanted.shape) {
      throw Error(ErrorCode::kTensorShape, file, wanted.name,
                  "expected shape " + shape_text(wanted.shape) + " by config.json, found " +
                      shape_text(it->second->shape));
    }
    by_name.erase(it);
  }
  if (!by_name.empty()) {
    throw Error(ErrorCode::kExtraTensor, file, std::string(by_name.begin()->first),
                "no part of a " + spec.model_type + " model of this config; nothing would use it");
  }
}

}  // namespace jang
