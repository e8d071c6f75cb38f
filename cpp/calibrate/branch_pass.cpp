#include "calibrate/branch_pass.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "model/embedding.h"
#include "quant/active_kernels.h"

namespace jang {

std::vector<std::string> module_paths(std::span<const LinearJob> jobs) {
  std::vector<std::string> paths;
  for (const LinearJob& job : jobs) {
    const std::string& path = job.weight->path;
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
  }
  return paths;
}

namespace {

bool reads_keys(const ModelSpec& spec) {
  for (std::size_t l = 1; l < spec.layers.size(); ++l)
    if (reads_across(spec, l)) return true;
  return false;
}

}  // namespace

BranchPass::BranchPass(const ModelSpec& spec, int64_t tokens, ThreadPool& pool)
    : spec_(spec),
      model_(spec),
      tokens_(tokens),
      pool_(pool),
      linear_(pool, Precision::kExact),
      work_(pool, Precision::kExact),
      normed_(static_cast<std::size_t>(tokens * spec.hidden)),
      out_(normed_.size()) {
  ropes_.reserve(spec.ropes.size());
  for (const RopeSpec& rope : spec.ropes) ropes_.emplace_back(rope, 0, tokens);
}

void BranchPass::link(PassSequences sequences, WeightBinder& binder) {
  sequences_ = std::move(sequences);
  if (reads_keys(model_)) {
    keys_.emplace(model_, sequences_.count, tokens_, sequences_.memory_budget, sequences_.scratch);
  }
  bind_inputs(binder);
}

void BranchPass::bind_inputs(WeightBinder& binder) {
  if (!model_.layer_inputs) return;
  embedding_ = binder.linear({model_.embedding.path, model_.vocabulary, model_.hidden, false});
  inputs_.emplace(*model_.layer_inputs, binder);
}

void BranchPass::branch_off() {
  if (keys_) keys_->branch_off();
}

void BranchPass::set_layer(const LayerSpec& layer, int64_t index) {
  spec_.layers = {layer};
  index_ = index;
  cache_.emplace(spec_, KvType::kF32);
  cache_->reserve(tokens_);
}

const float* BranchPass::embedded(int64_t sequence) {
  embedded_.reserve_discarding(static_cast<std::size_t>(tokens_ * model_.hidden));
  embed_tokens(embedding_, model_.embedding.scale, sequences_.tokens(sequence), embedded_.data());
  return embedded_.data();
}

/// input_ = what the layer sees of the sequence's tokens.
void BranchPass::find_inputs(int64_t sequence) {
  JANG_ASSERT(inputs_.has_value());
  input_.reserve_discarding(static_cast<std::size_t>(tokens_ * inputs_->size()));
  linear_.observe(nullptr);
  [[maybe_unused]] const bool whole = inputs_->run(pool_, linear_, sequences_.tokens(sequence),
                                                   embedded(sequence), index_, 1, input_.data());
  JANG_ASSERT(whole);
}

bool BranchPass::run(const Branch& branch, float* h, LinearObserver* observer, int64_t sequence) {
  JANG_ASSERT(cache_.has_value() && branch.layer == 0);
  SequenceSlice slice{&*cache_, 0, tokens_, 0, ropes_, 0};
  const bool mixes = std::holds_alternative<AttentionLayer>(branch.body);
  if (const auto* spec = std::get_if<AttentionSpec>(&spec_.layers.front().mixer);
      mixes && spec != nullptr && spec->shared_layer >= 0) {
    JANG_ASSERT(keys_.has_value());
    slice.shared_keys = &keys_->load(spec->shared_layer, sequence);
  }
  LayerContext context{pool_,       linear_, active_kernels(), work_,
                       {&slice, 1}, 0,       tokens_,          spec_.hidden};
  if (std::holds_alternative<LayerInputLayer>(branch.body)) {
    find_inputs(sequence);
    context.layer_inputs = input_.data();
    context.layer_input_stride = inputs_->size();
  }
  linear_.observe(observer);
  const float* input = branch.enter(context, h, normed_.data());
  const bool whole = branch.run(context, input, out_.data());
  if (whole) branch.leave(context, nullptr, out_.data(), h, normed_.data());
  if (whole && mixes && keys_ && keys_->owns(index_)) keys_->save(index_, sequence, *cache_);
  return whole;
}

}  // namespace jang
