// A branch is solved in the order in which its inputs arise: those of q, k and v; with them
// quantized those of o; then gate and up, then down. Both streams stand before the branch until all
// of it is solved, and then walk through it.
#include "calibrate/solve_model.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "calibrate/branch_pass.h"
#include "calibrate/hidden_states.h"
#include "calibrate/moments.h"
#include "model/embedding.h"
#include "quant/active_kernels.h"
#include "quant/quantize.h"

namespace jang {
namespace {

kernels::FloatType float_type(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return kernels::FloatType::kF16;
    case DType::kBF16:
      return kernels::FloatType::kBF16;
    default:
      return kernels::FloatType::kF32;
  }
}

/// A matrix as it will be stored.
struct StoredMatrix {
  AlignedBuffer<std::byte> codes, scales, biases;
  kernels::AffineMatrix view{};

  StoredMatrix(const AffineFormat& format, uint64_t rows, uint64_t columns)
      : codes(rows * format.row_bytes(columns)),
        scales(rows * format.row_groups(columns) *
               static_cast<uint64_t>(dtype_size(format.metadata))),
        biases(scales.size()),
        view{reinterpret_cast<const uint8_t*>(codes.data()),
             reinterpret_cast<const uint8_t*>(scales.data()),
             reinterpret_cast<const uint8_t*>(biases.data()),
             static_cast<int64_t>(rows),
             static_cast<int64_t>(columns),
             format.bits,
             format.group_size,
             float_type(format.metadata)} {}
  AffinePanel panel() { return {codes.data(), scales.data(), biases.data()}; }
};

/// The linear layers that share an input, in the order of a pass.
using Stage = std::vector<std::string>;

struct StageList : LinearObserver {
  std::vector<Stage> stages;
  std::vector<int64_t> columns;
  bool on_input(std::span<const LinearJob> jobs, const float*, int64_t) override {
    Stage stage;
    for (const LinearJob& job : jobs) stage.push_back(job.weight->path);
    stages.push_back(std::move(stage));
    columns.push_back(jobs.front().weight->columns);
    return true;
  }
};

/// Ends a pass at a stage and keeps where its input lies.
struct StageInput : LinearObserver {
  const std::string& path;
  const float* x = nullptr;
  explicit StageInput(const std::string& first_path) : path(first_path) {}
  bool on_input(std::span<const LinearJob> jobs, const float* input, int64_t) override {
    if (jobs.front().weight->path != path) return true;
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
      : binder(source),
        pass(spec, tokens.tokens, pool),
        states(tokens.sequences(), tokens.tokens, spec.hidden, options.memory_budget,
               options.scratch_directory / scratch),
        rows(static_cast<std::size_t>(tokens.tokens * spec.hidden)) {}
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
  std::vector<std::string> run();

 private:
  void embed();
  void solve_branch(const LayerSpec& layer, std::size_t branch);
  void solve_head();
  InputMoments collect(const Branch& quantized, const Branch* full, const std::string& path,
                       int64_t columns, HessianKind kind);
  void solve(const std::string& path, const GptqSolver& solver);
  void round(const std::string& path, std::span<const float> weights);
  void round_experts(const MoeSpec& moe, const InputMoments& moments);
  void advance(Stream& stream, const Branch& branch);
  void drop_pages();
  bool planned(const std::string& path) const { return planned_.contains(path); }
  template <typename Quantize>
  void store(const std::string& path, bool keep, Quantize&& quantize);
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
  std::map<std::string, uint32_t> planned_;  // path -> tensor with a format
  Stream quantized_;
  std::optional<Stream> full_;
  std::vector<StoredMatrix> kept_;  // what the quantized stream's binder points to
  std::size_t stored_ = 0;
  bool experts_rounded_ = false;
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
      quantized_(source, spec_, tokens, options, ".calibration-quantized", pool) {
  if (options.two_streams) full_.emplace(source, spec_, tokens, options, ".calibration-full", pool);
  for (uint32_t i = 0; i < plan.tensors.size(); ++i) {
    if (plan.tensors[i].format) planned_.emplace(plan.tensors[i].tensor.path, i);
  }
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
  ++stored_;
  if (!keep) return;
  quantized_.binder.replace(path, matrix.view);
  kept_.push_back(std::move(matrix));
}

void ModelSolve::solve(const std::string& path, const GptqSolver& solver) {
  store(path, true,
        [&](const SourcePanel& values, const AffineFormat& format, const AffinePanel& out) {
          const SolveReport report = solver.quantize(values, format, options_.solver, out, pool_);
          return SolverRecord{"gptq", report.lambda, report.alpha, report.error};
        });
}

void ModelSolve::round(const std::string& path, std::span<const float> weights) {
  store(path, true,
        [&](const SourcePanel& values, const AffineFormat& format, const AffinePanel& out) {
          quantize_matrix(values, format, Method::kMse, out, pool_, weights);
          return SolverRecord{"mse"};
        });
}

void ModelSolve::round_experts(const MoeSpec& moe, const InputMoments& moments) {
  const std::vector<float> weights = moments.column_weights();
  if (planned(moe.gate.path)) round(moe.gate.path, weights);
  if (planned(moe.up.path)) round(moe.up.path, weights);
  if (planned(moe.down.path)) round(moe.down.path, {});
  experts_rounded_ = true;
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
      quantized_.binder.replace(path, matrix.view);
      kept_.push_back(std::move(matrix));
    } else {
      round(path, {});
    }
  }
  for (Stream* stream : streams()) {
    const LinearWeight embedding = stream->binder.linear(linear);
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      hooks_.poll();
      embed_tokens(embedding, spec_.embedding.scale,
                   tokens_.ids.subspan(static_cast<std::size_t>(s * tokens_.tokens),
                                       static_cast<std::size_t>(tokens_.tokens)),
                   stream->rows.data());
      stream->states.save(s, stream->rows.data());
    }
  }
  drop_pages();
}

InputMoments ModelSolve::collect(const Branch& quantized, const Branch* full,
                                 const std::string& path, int64_t columns, HessianKind kind) {
  InputMoments moments(columns, kind, full != nullptr, tokens_.sequences());
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    StageInput seen(path), seen_full(path);
    quantized_.states.load(s, quantized_.rows.data());
    quantized_.pass.run(quantized, quantized_.rows.data(), &seen);
    if (full != nullptr) {
      full_->states.load(s, full_->rows.data());
      full_->pass.run(*full, full_->rows.data(), &seen_full);
    }
    moments.add(s, seen.x, seen_full.x, tokens_.tokens, pool_);
  }
  return moments;
}

void ModelSolve::advance(Stream& stream, const Branch& branch) {
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    stream.states.load(s, stream.rows.data());
    stream.pass.run(branch, stream.rows.data());
    stream.states.save(s, stream.rows.data());
  }
}

void ModelSolve::solve_branch(const LayerSpec& layer, std::size_t branch) {
  const MoeSpec* moe = branch == 1 ? std::get_if<MoeSpec>(&*layer.feed_forward) : nullptr;
  const std::optional<Branch> full =
      full_ ? std::optional(full_->bind(layer, branch)) : std::nullopt;
  StageList list;
  {
    const Branch source = quantized_.bind(layer, branch);
    quantized_.states.load(0, quantized_.rows.data());
    quantized_.pass.run(source, quantized_.rows.data(), &list);
  }
  for (std::size_t i = 0; i < list.stages.size(); ++i) {
    const Stage& stage = list.stages[i];
    const bool solved =
        std::any_of(stage.begin(), stage.end(), [&](const auto& path) { return planned(path); });
    const bool routes = moe != nullptr && stage.front() == moe->router.path;
    if (!solved && !routes) continue;
    const Branch before = quantized_.bind(layer, branch);
    InputMoments moments =
        collect(before, full && solved ? &*full : nullptr, stage.front(), list.columns[i],
                solved ? HessianKind::kFull : HessianKind::kDiagonal);
    if (routes) round_experts(*moe, moments);
    if (!solved) continue;
    const GptqSolver solver = moments.solver(pool_);
    for (const std::string& path : stage) {
      if (planned(path)) solve(path, solver);
    }
  }
  advance(quantized_, quantized_.bind(layer, branch));
  if (full) advance(*full_, *full);
}

// Its inputs are the normed final states. A tied head is the embedding, too, whose rows are read
// one by one: an identity of the same weight is added.
void ModelSolve::solve_head() {
  const std::string& path = spec_.head.tied ? spec_.embedding.path : spec_.head.linear.path;
  if (!planned(path)) return;
  InputMoments moments(spec_.hidden, HessianKind::kFull, full_.has_value() && !spec_.head.tied,
                       tokens_.sequences());
  const NormLayer norm{spec_.final_norm, quantized_.binder.norm(spec_.final_norm)};
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    for (Stream* stream : streams()) {
      stream->states.load(s, stream->rows.data());
      norm.forward(active_kernels(), pool_, stream->rows.data(), tokens_.tokens,
                   stream->rows.data());
    }
    moments.add(s, quantized_.rows.data(), full_ ? full_->rows.data() : nullptr, tokens_.tokens,
                pool_);
  }
  if (spec_.head.tied) moments.add_identity();
  solve(path, moments.solver(pool_));
}

void ModelSolve::drop_pages() {
  for (Stream* stream : streams()) {
    stream->binder.visit_bound([&](const CheckpointTensor& tensor) {
      source_.checkpoint.mapping(tensor).drop(tensor.begin, tensor.bytes());
    });
  }
}

std::vector<std::string> ModelSolve::run() {
  embed();
  for (const LayerSpec& layer : spec_.layers) {
    for (Stream* stream : streams()) stream->pass.set_layer(layer);
    const std::size_t branches = layer.feed_forward ? 2 : 1;
    for (std::size_t branch = 0; branch < branches; ++branch) solve_branch(layer, branch);
    quantized_.binder.restore();
    kept_.clear();
    drop_pages();
  }
  solve_head();
  if (stored_ != planned_.size()) {
    throw Error(ErrorCode::kUnsupportedModel, source_.config.file(), {},
                "method gptq: expected to meet " + std::to_string(planned_.size()) +
                    " quantized tensors in the forward pass, found " + std::to_string(stored_),
                "use --method mse");
  }
  std::vector<std::string> warnings;
  if (experts_rounded_) {
    warnings.emplace_back(
        "routed experts were quantized by mse, weighted by their layer's inputs: error feedback"
        " for experts is not available yet");
  }
  return warnings;
}

}  // namespace

std::vector<std::string> solve_model(const ModelDirectory& source, const Plan& plan,
                                     const CalibrationTokens& tokens,
                                     const SolveModelOptions& options, const SolveModelHooks& hooks,
                                     ThreadPool& pool) {
  check_tokens(source, directory_spec(source), tokens);
  return ModelSolve(source, plan, tokens, options, hooks, pool).run();
}

}  // namespace jang
