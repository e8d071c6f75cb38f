// A branch is solved in the order in which its inputs arise: those of q, k and v; with them
// quantized those of o; then gate and up, then down. Both streams stand before the branch until all
// of it is solved, and then walk through it. Matrices of heads are solved one by one. Experts
// follow their router, and what projects to and from a latent of theirs: gate, if there is one, and
// up, then down.
#include "calibrate/solve_model.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/free_memory.h"
#include "calibrate/branch_pass.h"
#include "calibrate/expert_solve.h"
#include "calibrate/head_moments.h"
#include "calibrate/hidden_states.h"
#include "calibrate/moments.h"
#include "calibrate/stored_matrix.h"
#include "model/embedding.h"
#include "quant/active_kernels.h"
#include "quant/quantize.h"

namespace jang {
namespace {

/// The linear layers that share an input, in the order of a pass, or the heads of one stack.
struct Stage {
  std::vector<std::string> paths;
  int64_t columns = 0;
  std::optional<StackSpec> heads = std::nullopt;
};

struct StageList : LinearObserver {
  std::vector<Stage> stages;
  bool on_input(std::span<const LinearJob> jobs, const float*, int64_t) override {
    stages.push_back({module_paths(jobs), jobs.front().weight->columns});
    return true;
  }
  bool on_head_input(const HeadInput& input) override {
    stages.push_back({{input.stack.path}, input.stack.in, input.stack});
    return true;
  }
};

/// Ends a pass at a stage and keeps where its input lies.
struct StageInput : LinearObserver {
  const std::string& path;
  const float* x = nullptr;
  explicit StageInput(const std::string& first_path) : path(first_path) {}
  bool on_input(std::span<const LinearJob> jobs, const float* input, int64_t) override {
    return take(jobs.front().weight->path, input);
  }
  bool on_head_input(const HeadInput& input) override { return take(input.stack.path, input.x); }

 private:
  bool take(const std::string& found, const float* input) {
    if (found != path) return true;
    x = input;
    return false;
  }
};

/// One of the two models: its weights, its hidden states, where it runs.
struct Stream {
  WeightBinder binder;
  BranchPass pass;
  HiddenStates states;
  AlignedBuffer<float> rows;  // of one sequence

  Stream(const ModelDirectory& source, const ModelSpec& spec, const CalibrationTokens& tokens,
         const SolveModelOptions& options, const char* scratch, ThreadPool& pool)
      : binder(source, pool),
        pass(spec, tokens.tokens, pool),
        states(tokens.sequences(), tokens.tokens, spec.hidden, options.memory_budget,
               options.scratch_directory / scratch),
        rows(static_cast<std::size_t>(tokens.tokens * spec.hidden)) {
    pass.link({tokens.sequences(), [tokens](int64_t s) { return tokens.sequence(s); },
               options.memory_budget, options.scratch_directory / (scratch + std::string("-keys"))},
              binder);
  }
  Branch bind(const LayerSpec& layer, std::size_t branch) {
    std::vector<Branch> branches;
    append_branches(layer, 0, binder, branches);
    return std::move(branches[branch]);
  }
};

class ModelSolve {
 public:
  ModelSolve(const ModelDirectory& source, const Plan& plan, const CalibrationTokens& tokens,
             const SolveModelOptions& options, const SolveModelHooks& hooks, ThreadPool& pool);
  SolveModelReport run();

 private:
  void embed();
  void solve_inputs();
  void load_start();
  void behind(uint64_t layers);
  void solve_branch(const LayerSpec& layer, std::size_t branch);
  void solve_head();
  template <typename Moments>
  void collect(const Branch& quantized, const Branch* full, const std::string& path,
               Moments& moments);
  void solve(const std::string& path, const GptqSolver& solver);
  void round(const std::string& path, bool keep = true);
  void solve_heads(const StackSpec& stack, HeadMoments& moments);
  void solve_experts(LayerSpec layer, std::size_t branch);
  void solve_stacks(std::span<const StackSpec* const> specs, const ExpertMoments& moments);
  void watch(const Branch& branch, LinearObserver& observer);
  void advance(Stream& stream, const Branch& branch);
  void drop_pages();
  bool planned(const std::string& path) const { return planned_.contains(path); }
  template <typename Quantize>
  void store(const std::string& path, bool keep, Quantize&& quantize);
  void run_with(const std::string& path, StoredMatrix matrix);
  std::vector<Stream*> streams() {
    return full_ ? std::vector<Stream*>{&quantized_, &*full_} : std::vector<Stream*>{&quantized_};
  }

  const ModelDirectory& source_;
  const Plan& plan_;
  const CalibrationTokens tokens_;
  const SolveModelOptions& options_;
  const SolveModelHooks& hooks_;
  ThreadPool& pool_;
  const ModelSpec spec_;
  const std::map<std::string, uint32_t> planned_;  // path -> tensor to solve
  Stream quantized_;
  std::optional<Stream> full_;
  std::vector<StoredMatrix> kept_;  // what the quantized stream's binder points to
  SolvePosition position_;
};

ModelSolve::ModelSolve(const ModelDirectory& source, const Plan& plan,
                       const CalibrationTokens& tokens, const SolveModelOptions& options,
                       const SolveModelHooks& hooks, ThreadPool& pool)
    : source_(source),
      plan_(plan),
      tokens_(tokens),
      options_(options),
      hooks_(hooks),
      pool_(pool),
      spec_(directory_spec(source)),
      planned_(tensors_to_solve(plan)),
      quantized_(source, spec_, tokens, options, ".calibration-quantized", pool) {
  if (options.two_streams) full_.emplace(source, spec_, tokens, options, ".calibration-full", pool);
}

/// The quantized stream runs with it from now on.
void ModelSolve::run_with(const std::string& path, StoredMatrix matrix) {
  quantized_.binder.replace(path, matrix.view);
  kept_.push_back(std::move(matrix));
}

/// Quantizes a planned tensor by quantize(values, format, out) -> SolverRecord and hands it on.
/// `keep`: the quantized stream runs with it from now on.
template <typename Quantize>
void ModelSolve::store(const std::string& path, bool keep, Quantize&& quantize) {
  const uint32_t index = planned_.at(path);
  const PlannedTensor& tensor = plan_.tensors[index];
  const SourcePanel values = hooks_.read(index);
  StoredMatrix matrix(*tensor.format, values.rows, values.columns);
  try {
    const SolverRecord record = quantize(values, *tensor.format, matrix.panel());
    hooks_.store(index, matrix.panel(), record);
  } catch (const Error& error) {
    if (!error.tensor().empty() || !error.file().empty()) throw;
    throw Error(error.code(), {}, tensor.tensor.source, error.message(), error.hint());
  }
  ++position_.stored;
  if (keep) run_with(path, std::move(matrix));
}

void ModelSolve::solve(const std::string& path, const GptqSolver& solver) {
  store(path, true,
        [&](const SourcePanel& values, const AffineFormat& format, const AffinePanel& out) {
          const SolveReport report = solver.quantize(values, format, options_.solver, out, pool_);
          return SolverRecord{"gptq", report.lambda, report.alpha, report.error};
        });
}

void ModelSolve::round(const std::string& path, bool keep) {
  store(path, keep,
        [&](const SourcePanel& values, const AffineFormat& format, const AffinePanel& out) {
          quantize_matrix(values, format, Method::kMse, out, pool_);
          return SolverRecord{"mse"};
        });
}

void ModelSolve::solve_heads(const StackSpec& stack, HeadMoments& moments) {
  const uint32_t index = planned_.at(stack.path);
  const PlannedTensor& tensor = plan_.tensors[index];
  const auto rows = static_cast<uint64_t>(stack.out);
  StoredMatrix matrix(*tensor.format, static_cast<uint64_t>(stack.count) * rows,
                      static_cast<uint64_t>(stack.in));
  const auto read = [&](int64_t head) {
    return hooks_.read_rows(index, static_cast<uint64_t>(head) * rows, rows);
  };
  try {
    const SolverRecord record =
        moments.solve(*tensor.format, options_.solver, read, matrix.panel(), hooks_.poll, pool_);
    hooks_.store(index, matrix.panel(), record);
  } catch (const Error& error) {
    if (!error.tensor().empty() || !error.file().empty()) throw;
    throw Error(error.code(), {}, tensor.tensor.source, error.message(), error.hint());
  }
  ++position_.stored;
  run_with(stack.path, std::move(matrix));
}

// Stacks that share an input, expert by expert.
void ModelSolve::solve_stacks(std::span<const StackSpec* const> specs,
                              const ExpertMoments& moments) {
  std::vector<StoredMatrix> matrices;
  std::vector<ExpertStack> stacks;
  for (const StackSpec* spec : specs) {
    if (!planned(spec->path)) continue;
    const uint32_t index = planned_.at(spec->path);
    const PlannedTensor& tensor = plan_.tensors[index];
    const auto rows = static_cast<uint64_t>(spec->out);
    matrices.emplace_back(*tensor.format, static_cast<uint64_t>(spec->count) * rows,
                          static_cast<uint64_t>(spec->in));
    stacks.push_back({tensor.tensor.source, *tensor.format,
                      [this, index, rows](int64_t expert) {
                        return hooks_.read_rows(index, static_cast<uint64_t>(expert) * rows, rows);
                      },
                      matrices.back().panel()});
  }
  const std::vector<SolverRecord> records =
      jang::solve_experts(moments, stacks, options_.solver, hooks_.poll, pool_);
  for (std::size_t i = 0, stack = 0; i < specs.size(); ++i) {
    if (!planned(specs[i]->path)) continue;
    hooks_.store(planned_.at(specs[i]->path), matrices[stack].panel(), records[stack]);
    position_.expert_ways.merge(*records[stack].experts);
    run_with(specs[i]->path, std::move(matrices[stack]));
    ++position_.stored;
    ++stack;
  }
}

void ModelSolve::solve_experts(LayerSpec layer, std::size_t branch) {
  auto& moe = std::get<MoeSpec>(*layer.feed_forward);
  if (!planned(moe.gate.path) && !planned(moe.up.path) && !planned(moe.down.path)) return;
  const ExpertScratch scratch{options_.memory_budget,
                              options_.scratch_directory / ".calibration-experts"};
  ExpertRoutes routes(moe);
  {
    ExpertMoments moments = ExpertMoments::of_gate_and_up(
        moe, routes, static_cast<int64_t>(tokens_.ids.size()), scratch, pool_);
    watch(quantized_.bind(layer, branch), moments);
    const std::array specs = {&std::as_const(moe.gate), &std::as_const(moe.up)};
    solve_stacks(specs, moments);
  }
  for (int64_t expert = 0; expert < moe.experts; ++expert)
    position_.expert_tokens.push_back(routes.chosen(expert));
  if (!planned(moe.down.path)) return;
  ExpertMoments moments = ExpertMoments::of_down(moe, routes, scratch, pool_);
  moe.top_k = ExpertRoutes::reach(moe);
  watch(quantized_.bind(layer, branch), moments);
  const std::array specs = {&std::as_const(moe.down)};
  solve_stacks(specs, moments);
}

// The first layer's inputs are rows of the quantized embedding; a tied one is stored only once the
// head's inputs are known.
void ModelSolve::embed() {
  const std::string& path = spec_.embedding.path;
  const LinearSpec linear{path, spec_.vocabulary, spec_.hidden, false};
  if (planned(path)) {
    if (spec_.head.tied) {
      const PlannedTensor& tensor = plan_.tensors[planned_.at(path)];
      const SourcePanel values = hooks_.read(planned_.at(path));
      StoredMatrix matrix(*tensor.format, values.rows, values.columns);
      quantize_matrix(values, *tensor.format, Method::kMse, matrix.panel(), pool_);
      run_with(path, std::move(matrix));
    } else {
      round(path);
    }
  }
  for (Stream* stream : streams()) {
    const LinearWeight embedding = stream->binder.linear(linear);
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      hooks_.poll();
      embed_tokens(embedding, spec_.embedding.scale, tokens_.sequence(s), stream->rows.data());
      stream->states.save(s, stream->rows.data());
    }
  }
  drop_pages();
}

// The table of the layers' own inputs is only looked up; their projection sees the embedding. Both
// streams take the inputs of the source, which no layer changes.
void ModelSolve::solve_inputs() {
  if (!spec_.layer_inputs) return;
  if (planned(spec_.layer_inputs->table)) round(spec_.layer_inputs->table, false);
  const std::string& path = spec_.layer_inputs->projection.path;
  if (!planned(path)) return;
  InputMoments moments(spec_.hidden, HessianKind::kFull, full_.has_value(), tokens_.sequences());
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    for (Stream* stream : streams()) stream->states.load(s, stream->rows.data());
    moments.add(s, quantized_.rows.data(), full_ ? full_->rows.data() : nullptr, tokens_.tokens,
                pool_);
  }
  solve(path, moments.solver(pool_));
  drop_pages();
}

/// Adds what both streams feed the layers at `path`, all sequences in order.
template <typename Moments>
void ModelSolve::collect(const Branch& quantized, const Branch* full, const std::string& path,
                         Moments& moments) {
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    StageInput seen(path), seen_full(path);
    quantized_.states.load(s, quantized_.rows.data());
    quantized_.pass.run(quantized, quantized_.rows.data(), &seen, s);
    if (full != nullptr) {
      full_->states.load(s, full_->rows.data());
      full_->pass.run(*full, full_->rows.data(), &seen_full, s);
    }
    moments.add(s, seen.x, seen_full.x, tokens_.tokens, pool_);
  }
}

// Shows the quantized stream's pass through a branch, all sequences in order.
void ModelSolve::watch(const Branch& branch, LinearObserver& observer) {
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    quantized_.states.load(s, quantized_.rows.data());
    quantized_.pass.run(branch, quantized_.rows.data(), &observer, s);
  }
}

void ModelSolve::advance(Stream& stream, const Branch& branch) {
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    stream.states.load(s, stream.rows.data());
    stream.pass.run(branch, stream.rows.data(), nullptr, s);
    stream.states.save(s, stream.rows.data());
  }
}

void ModelSolve::solve_branch(const LayerSpec& layer, std::size_t branch) {
  const std::optional<Branch> full =
      full_ ? std::optional(full_->bind(layer, branch)) : std::nullopt;
  StageList list;
  {
    const Branch source = quantized_.bind(layer, branch);
    quantized_.states.load(0, quantized_.rows.data());
    quantized_.pass.run(source, quantized_.rows.data(), &list);
  }
  for (const Stage& stage : list.stages) {
    const bool solved = std::any_of(stage.paths.begin(), stage.paths.end(),
                                    [&](const auto& path) { return planned(path); });
    if (!solved) continue;
    return_free_memory();
    const Branch before = quantized_.bind(layer, branch);
    const Branch* const beside = full ? &*full : nullptr;
    if (stage.heads) {
      HeadMoments moments(*stage.heads, HessianKind::kFull, full.has_value(), tokens_.sequences());
      collect(before, beside, stage.paths.front(), moments);
      solve_heads(*stage.heads, moments);
      continue;
    }
    std::optional<InputMoments> moments(std::in_place, stage.columns, HessianKind::kFull,
                                        full.has_value(), tokens_.sequences());
    collect(before, beside, stage.paths.front(), *moments);
    const GptqSolver solver = moments->solver(pool_);
    moments.reset();  // several times what the solver takes
    return_free_memory();
    for (const std::string& path : stage.paths) {
      if (planned(path)) solve(path, solver);
    }
  }
  if (routed_block(layer, branch) != nullptr) solve_experts(layer, branch);
  advance(quantized_, quantized_.bind(layer, branch));
  if (full) advance(*full_, *full);
}

// Its inputs are the normed final states. A tied head is the embedding, too, whose rows are read
// one by one: an identity of the same weight is added.
void ModelSolve::solve_head() {
  const std::string& path = spec_.head.tied ? spec_.embedding.path : spec_.head.linear.path;
  if (!planned(path)) return;
  return_free_memory();
  std::optional<InputMoments> moments(std::in_place, spec_.hidden, HessianKind::kFull,
                                      full_.has_value() && !spec_.head.tied, tokens_.sequences());
  const NormLayer norm(spec_.final_norm, quantized_.binder);
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    for (Stream* stream : streams()) {
      stream->states.load(s, stream->rows.data());
      norm.forward(active_kernels(), pool_, stream->rows.data(), tokens_.tokens,
                   stream->rows.data());
    }
    moments->add(s, quantized_.rows.data(), full_ ? full_->rows.data() : nullptr, tokens_.tokens,
                 pool_);
  }
  if (spec_.head.tied) moments->add_identity();
  const GptqSolver solver = moments->solver(pool_);
  moments.reset();
  return_free_memory();
  solve(path, solver);
}

void ModelSolve::drop_pages() {
  for (Stream* stream : streams()) {
    stream->binder.visit_bound([&](const CheckpointTensor& tensor) {
      source_.checkpoint.mapping(tensor).drop(tensor.begin, tensor.bytes());
    });
  }
}

void ModelSolve::load_start() {
  const std::vector<Stream*> all = streams();
  position_ = options_.start->position;
  if (position_.layers > spec_.layers.size()) return;
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      hooks_.poll();
      options_.start->load(i, s, all[i]->rows.data());
      all[i]->states.save(s, all[i]->rows.data());
    }
  }
}

void ModelSolve::behind(uint64_t layers) {
  position_.layers = layers;
  if (!hooks_.behind) return;
  std::vector<const HiddenStates*> states;
  if (layers <= spec_.layers.size())
    for (const Stream* stream : streams()) states.push_back(&stream->states);
  hooks_.behind(position_, states);
}

SolveModelReport ModelSolve::run() {
  if (options_.start) {
    load_start();
  } else {
    embed();
    solve_inputs();
  }
  const uint64_t end = options_.stop.value_or(spec_.layers.size() + 1);
  for (uint64_t done = position_.layers; done < std::min<uint64_t>(end, spec_.layers.size());
       ++done) {
    const LayerSpec& layer = spec_.layers[static_cast<std::size_t>(done)];
    for (Stream* stream : streams()) stream->pass.set_layer(layer, static_cast<int64_t>(done));
    for (std::size_t branch = 0; branch < branch_count(layer); ++branch)
      solve_branch(layer, branch);
    quantized_.binder.restore();
    kept_.clear();
    drop_pages();
    // Hidden states alone are no place to go on from where later layers read earlier keys.
    if (!reads_across(spec_, static_cast<std::size_t>(done + 1))) behind(done + 1);
  }
  if (end <= spec_.layers.size()) return {};
  const bool head = position_.layers <= spec_.layers.size();
  if (head) solve_head();
  if (position_.stored != planned_.size()) {
    throw Error(ErrorCode::kUnsupportedModel, source_.config.file(), {},
                "method gptq: expected to meet " + std::to_string(planned_.size()) +
                    " quantized tensors in the forward pass, found " +
                    std::to_string(position_.stored),
                "use --method mse");
  }
  if (head) behind(spec_.layers.size() + 1);
  SolveModelReport report;
  if (position_.expert_tokens.empty()) return report;
  report.experts = expert_coverage(std::move(position_.expert_tokens));
  std::string warning = coverage_warning(*report.experts, position_.expert_ways);
  if (!warning.empty()) report.warnings.push_back(std::move(warning));
  return report;
}

}  // namespace

SolveModelReport solve_model(const ModelDirectory& source, const Plan& plan,
                             const CalibrationTokens& tokens, const SolveModelOptions& options,
                             const SolveModelHooks& hooks, ThreadPool& pool) {
  check_tokens(source, directory_spec(source), tokens);
  return ModelSolve(source, plan, tokens, options, hooks, pool).run();
}

}  // namespace jang
