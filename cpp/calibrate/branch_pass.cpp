#include "calibrate/branch_pass.h"

#include <algorithm>

#include "base/error.h"
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

BranchPass::BranchPass(const ModelSpec& spec, int64_t tokens, ThreadPool& pool)
    : spec_(spec),
      tokens_(tokens),
      pool_(pool),
      linear_(pool, Precision::kExact),
      work_(pool, Precision::kExact),
      normed_(static_cast<std::size_t>(tokens * spec.hidden)),
      out_(normed_.size()) {
  ropes_.reserve(spec.ropes.size());
  for (const RopeSpec& rope : spec.ropes) ropes_.emplace_back(rope, 0, tokens);
}

void BranchPass::set_layer(const LayerSpec& layer) {
  spec_.layers = {layer};
  cache_.emplace(spec_, KvType::kF32);
  cache_->reserve(tokens_);
}

bool BranchPass::run(const Branch& branch, float* h, LinearObserver* observer) {
  JANG_ASSERT(cache_.has_value() && branch.layer == 0);
  const SequenceSlice slice{&*cache_, 0, tokens_, 0, ropes_, 0};
  LayerContext context{pool_,       linear_, active_kernels(), work_,
                       {&slice, 1}, 0,       tokens_,          spec_.hidden};
  linear_.observe(observer);
  const float* input = branch.enter(context, h, normed_.data());
  const bool whole = branch.run(context, input, out_.data());
  if (whole) branch.leave(context, nullptr, out_.data(), h, normed_.data());
  return whole;
}

}  // namespace jang
