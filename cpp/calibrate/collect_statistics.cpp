// A branch is passed once by every sequence: all its inputs are seen on the way. Layers are bound
// one at a time, and their pages given back.
#include "calibrate/collect_statistics.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "arch/spec_tensors.h"
#include "base/error.h"
#include "calibrate/branch_pass.h"
#include "calibrate/expert_sums.h"
#include "calibrate/head_moments.h"
#include "calibrate/hidden_states.h"
#include "calibrate/moments.h"
#include "model/embedding.h"
#include "quant/active_kernels.h"

namespace jang {
namespace {

/// The matrices whose inputs are summed: those of the layers and the head's, by module path.
LinearShapes linear_shapes(const ModelSpec& spec, bool hessians) {
  constexpr std::string_view kWeight = ".weight";
  LinearShapes shapes;
  for (const SpecTensor& tensor : spec_tensors(spec)) {
    if (!tensor.matrix || !tensor.name.ends_with(kWeight)) continue;
    std::string path = tensor.name.substr(0, tensor.name.size() - kWeight.size());
    if (path == spec.embedding.path && !spec.head.tied) continue;
    if (spec.layer_inputs && path == spec.layer_inputs->table) continue;  // looked up
    const bool stack = tensor.shape.size() == 3;
    shapes[std::move(path)] = {stack ? tensor.shape[0] : 0, tensor.shape.back(),
                               hessians && !stack};
  }
  return shapes;
}

/// Sums up every input that a branch shows, one sequence after another.
class BranchObserver : public LinearObserver {
 public:
  BranchObserver(HessianKind kind, int64_t sequences, ThreadPool& pool)
      : kind_(kind), sequences_(sequences), pool_(pool) {}

  void begin(int64_t sequence) {
    sequence_ = sequence;
    next_ = next_stack_ = 0;
  }
  bool on_input(std::span<const LinearJob> jobs, const float* x, int64_t tokens) override {
    const int64_t columns = jobs.front().weight->columns;
    if (next_ == stages_.size()) {
      stages_.push_back({{}, InputMoments(columns, kind_, false, sequences_)});
      stages_.back().paths = module_paths(jobs);
    }
    Stage& stage = stages_[next_++];
    JANG_ASSERT(stage.paths.front() == jobs.front().weight->path);
    stage.moments.add(sequence_, x, nullptr, tokens, pool_);
    return true;
  }
  bool on_routed_input(const RoutedInput& input) override {
    if (input.down) return true;
    // The branch may overwrite it.
    experts_input_.assign(input.x, input.x + input.tokens * input.spec.up.in);
    return true;
  }
  bool on_head_input(const HeadInput& input) override {
    if (next_stack_ == stacks_.size()) {
      stacks_.push_back(
          {input.stack.path, HeadMoments(input.stack, HessianKind::kDiagonal, false, sequences_)});
    }
    HeadStage& stage = stacks_[next_stack_++];
    JANG_ASSERT(stage.path == input.stack.path);
    stage.moments.add(sequence_, input.x, nullptr, input.tokens, pool_);
    return true;
  }
  /// What the experts were fed; empty where there are none.
  const std::vector<float>& experts_input() const noexcept { return experts_input_; }

  struct Stage {
    std::vector<std::string> paths;
    InputMoments moments;
  };
  const std::vector<Stage>& stages() const noexcept { return stages_; }
  struct HeadStage {
    std::string path;
    HeadMoments moments;
  };
  const std::vector<HeadStage>& head_stages() const noexcept { return stacks_; }

 private:
  HessianKind kind_;
  int64_t sequences_;
  ThreadPool& pool_;
  int64_t sequence_ = 0;
  std::size_t next_ = 0, next_stack_ = 0;
  std::vector<Stage> stages_;
  std::vector<HeadStage> stacks_;
  std::vector<float> experts_input_;
};

class Collection {
 public:
  Collection(const ModelDirectory& source, const CalibrationTokens& tokens,
             const StatisticsOrigin& origin, const std::filesystem::path& output,
             const CollectOptions& options, ThreadPool& pool, const JobCallbacks& callbacks)
      : source_(source),
        tokens_(tokens),
        kind_(options.hessians ? HessianKind::kFull : HessianKind::kDiagonal),
        pool_(pool),
        callbacks_(callbacks),
        spec_(directory_spec(source)),
        writer_(output, origin, linear_shapes(spec_, options.hessians)),
        binder_(source, pool),
        pass_(spec_, tokens.tokens, pool),
        states_(tokens.sequences(), tokens.tokens, spec_.hidden, options.memory_budget,
                output.string() + ".states"),
        rows_(static_cast<std::size_t>(tokens.tokens * spec_.hidden)) {
    for (const LayerSpec& layer : spec_.layers) {
      total_ += branch_count(layer) * static_cast<uint64_t>(tokens.sequences());
    }
    total_ += static_cast<uint64_t>(tokens.sequences());  // the head
    pass_.link({tokens.sequences(), [this](int64_t s) { return tokens_.sequence(s); },
                options.memory_budget, output.string() + ".keys"},
               binder_);
  }

  void run() {
    embed();
    for (std::size_t l = 0; l < spec_.layers.size(); ++l) {
      const LayerSpec& layer = spec_.layers[l];
      item_ = "layer " + std::to_string(l + 1) + " of " + std::to_string(spec_.layers.size());
      pass_.set_layer(layer, static_cast<int64_t>(l));
      std::vector<Branch> branches;
      append_branches(layer, 0, binder_, branches);
      for (std::size_t b = 0; b < branches.size(); ++b) {
        collect(branches[b], routed_block(layer, b));
      }
      drop_pages();
    }
    item_ = "head";
    collect_head();
    writer_.finish();
  }

 private:
  void embed() {
    const LinearWeight embedding =
        binder_.linear({spec_.embedding.path, spec_.vocabulary, spec_.hidden, false});
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      if (callbacks_.cancel) callbacks_.cancel();
      embed_tokens(embedding, spec_.embedding.scale, tokens_.sequence(s), rows_.data());
      states_.save(s, rows_.data());
    }
    if (spec_.layer_inputs) collect_inputs();
    drop_pages();
  }

  // The projection of the layers' own inputs sees the embedding.
  void collect_inputs() {
    InputMoments moments(spec_.hidden, kind_, false, tokens_.sequences());
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      states_.load(s, rows_.data());
      moments.add(s, rows_.data(), nullptr, tokens_.tokens, pool_);
    }
    write(spec_.layer_inputs->projection.path, moments.hessian());
  }

  void collect(const Branch& branch, const MoeSpec* moe) {
    BranchObserver observer(kind_, tokens_.sequences(), pool_);
    std::optional<ExpertSums> experts;
    if (moe != nullptr) experts.emplace(*moe);
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      observer.begin(s);
      states_.load(s, rows_.data());
      pass_.run(branch, rows_.data(), &observer, s);
      if (experts) {
        experts->add(observer.experts_input().data(), pass_.workspace(), tokens_.tokens, pool_);
      }
      states_.save(s, rows_.data());
      advance();
    }
    for (const BranchObserver::Stage& stage : observer.stages()) {
      for (const std::string& path : stage.paths) write(path, stage.moments.hessian());
    }
    for (const BranchObserver::HeadStage& stage : observer.head_stages())
      writer_.write(stage.path, stage.moments.sums());
    if (!experts) return;
    if (moe->gated()) writer_.write(moe->gate.path, experts->input());
    writer_.write(moe->up.path, experts->input());
    writer_.write(moe->down.path, experts->inner());
  }

  void collect_head() {
    InputMoments moments(spec_.hidden, kind_, false, tokens_.sequences());
    const NormLayer norm(spec_.final_norm, binder_);
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      states_.load(s, rows_.data());
      norm.forward(active_kernels(), pool_, rows_.data(), tokens_.tokens, rows_.data());
      moments.add(s, rows_.data(), nullptr, tokens_.tokens, pool_);
      advance();
    }
    write(spec_.head.tied ? spec_.embedding.path : spec_.head.linear.path, moments.hessian());
  }

  void write(const std::string& path, const Hessian& sums) {
    const int64_t columns = sums.columns();
    LinearSums out;
    for (int64_t j = 0; j < columns; ++j) out.sum_x2.push_back(sums.diagonal(j));
    out.count = {static_cast<int64_t>(sums.tokens())};
    writer_.write(path, out);
    if (kind_ != HessianKind::kFull) return;
    std::vector<float> row;
    for (int64_t i = 0; i < columns; ++i) {  // the sums lie in the lower triangle
      row.clear();
      for (int64_t j = i; j < columns; ++j) {
        row.push_back(static_cast<float>(sums.values()[j * columns + i]));
      }
      writer_.write_hessian(path, static_cast<uint64_t>(i), static_cast<uint64_t>(i) + 1, row);
    }
  }

  void advance() {
    ++done_;
    if (callbacks_.cancel) callbacks_.cancel();
    if (callbacks_.progress) callbacks_.progress(done_, total_, item_);
  }

  void drop_pages() {
    binder_.visit_bound([&](const CheckpointTensor& tensor) {
      source_.checkpoint.mapping(tensor).drop(tensor.begin, tensor.bytes());
    });
  }

  const ModelDirectory& source_;
  const CalibrationTokens tokens_;
  const HessianKind kind_;
  ThreadPool& pool_;
  const JobCallbacks& callbacks_;
  const ModelSpec spec_;
  StatisticsWriter writer_;
  WeightBinder binder_;
  BranchPass pass_;
  HiddenStates states_;
  AlignedBuffer<float> rows_;  // of one sequence
  uint64_t done_ = 0, total_ = 0;
  std::string item_;
};

}  // namespace

void collect_statistics(const ModelDirectory& source, const CalibrationTokens& tokens,
                        StatisticsOrigin origin, const std::filesystem::path& output,
                        const CollectOptions& options, ThreadPool& pool,
                        const JobCallbacks& callbacks) {
  check_tokens(source, directory_spec(source), tokens);
  origin.sequences = static_cast<uint64_t>(tokens.sequences());
  origin.tokens = static_cast<uint64_t>(tokens.sequences() * tokens.tokens);
  Collection(source, tokens, origin, output, options, pool, callbacks).run();
}

}  // namespace jang
