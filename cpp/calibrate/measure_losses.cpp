#include "calibrate/measure_losses.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "base/free_memory.h"
#include "calibrate/branch_pass.h"
#include "calibrate/divergence_probe.h"
#include "calibrate/hidden_states.h"
#include "calibrate/moments.h"
#include "calibrate/stored_matrix.h"
#include "model/embedding.h"
#include "plan/candidates.h"
#include "plan/width_rules.h"
#include "plan/widths.h"
#include "quant/active_kernels.h"
#include "quant/quantize.h"

namespace jang {
namespace {

constexpr int kProbeGroup = 64;

/// Gathers the moments of every distinct input of a branch in one pass.
struct BranchMoments : LinearObserver {
  struct Stage {
    std::vector<std::string> paths;
    std::unique_ptr<InputMoments> moments;
    bool heads = false;    // the diagonal alone, summed over the heads of a stack
    bool experts = false;  // the same of what the experts see
  };
  std::vector<Stage> stages;
  int64_t sequence = 0;
  std::size_t next = 0;  // of this sequence
  int64_t sequences;
  ThreadPool& pool;

  BranchMoments(int64_t count, ThreadPool& threads) : sequences(count), pool(threads) {}
  bool on_input(std::span<const LinearJob> jobs, const float* x, int64_t tokens) override {
    if (next == stages.size()) {
      Stage& stage = stages.emplace_back();
      stage.paths = module_paths(jobs);
      stage.moments = std::make_unique<InputMoments>(jobs.front().weight->columns,
                                                     HessianKind::kFull, false, sequences);
    }
    stages[next++].moments->add(sequence, x, nullptr, tokens, pool);
    return true;
  }
  bool on_head_input(const HeadInput& input) override {
    if (next == stages.size()) {
      stages.push_back(
          {{input.stack.path},
           std::make_unique<InputMoments>(input.stack.in, HessianKind::kDiagonal, false, sequences),
           true});
    }
    InputMoments& moments = *stages[next++].moments;
    for (int64_t h = 0; h < input.stack.count; ++h) {
      moments.add(sequence, input.x + h * input.tokens * input.stack.in, nullptr, input.tokens,
                  pool);
    }
    return true;
  }
  bool on_routed_input(const RoutedInput& input) override {
    if (input.down) return true;
    if (next == stages.size()) {
      stages.push_back({{input.spec.up.path},
                        std::make_unique<InputMoments>(input.spec.up.in, HessianKind::kDiagonal,
                                                       false, sequences),
                        false,
                        true});
    }
    stages[next++].moments->add(sequence, input.x, nullptr, input.tokens, pool);
    return true;
  }
};

// A probe walks through half of the model in the mean, once for every group of a layer.
int64_t default_probe_sequences(const ModelSpec& spec, int64_t sequences) {
  constexpr int64_t kGroups = 5, kFewest = 4, kMost = 16;
  const auto probes = kGroups * static_cast<int64_t>(spec.layers.size());
  return std::clamp(2 * sequences / std::max<int64_t>(probes, 1), kFewest, kMost);
}

/// Matrices that are probed together: those that do the same thing to the same input.
using ProbeGroup = std::pair<Role, Part>;

ProbeGroup probe_group(const RoleMatch& role) {
  switch (role.part) {
    case Part::kQ:
    case Part::kK:
      return {role.role, Part::kQ};
    case Part::kGate:
    case Part::kUp:
    case Part::kGateUp:
      return {role.role, Part::kGate};
    default:
      return {role.role, role.part};
  }
}

/// sum w_k (w_hat - w)^2 / sum w_k w^2 over a matrix; no weights: all 1.
double relative_error(const SourcePanel& values, const AffineFormat& format,
                      const AffinePanel& quantized, std::span<const float> weights,
                      ThreadPool& pool) {
  constexpr int64_t kRows = 64;  // of a panel: sums do not depend on the number of threads
  const uint64_t columns = values.columns;
  const uint64_t row_bytes = columns * static_cast<uint64_t>(dtype_size(values.dtype));
  const uint64_t group_bytes =
      format.row_groups(columns) * static_cast<uint64_t>(dtype_size(format.metadata));
  std::vector<PanelError> panels((values.rows + kRows - 1) / kRows);
  pool.share(static_cast<int64_t>(values.rows), kRows,
             [&](int64_t begin, int64_t end, int /*worker*/) {
               const auto row = static_cast<uint64_t>(begin);
               const SourcePanel source{values.data + row * row_bytes, values.dtype,
                                        static_cast<uint64_t>(end - begin), columns};
               const AffinePanel stored{quantized.codes + row * format.row_bytes(columns),
                                        quantized.scales + row * group_bytes,
                                        quantized.biases + row * group_bytes};
               panels[row / kRows] = panel_error(source, stored, format, weights);
             });
  PanelError total;
  for (const PanelError& panel : panels) total.merge(panel);
  return total.relative_square();
}

class LossMeter {
 public:
  LossMeter(const ModelDirectory& source, const Plan& plan, const CalibrationTokens& tokens,
            const MeasureOptions& options, const MeasureHooks& hooks, ThreadPool& pool);
  MeasuredLosses run();

 private:
  /// How a matrix is quantized, and by what its error is measured.
  struct Rule {
    const GptqSolver* solver = nullptr;  // null: the search of Method::kMse
    std::span<const float> weights;      // of its columns
  };
  /// A matrix as it is while it is probed.
  struct Probed {
    std::string path;
    StoredMatrix matrix;
    double error = 0;
  };

  int64_t probe_sequence(int64_t index) const {
    return index * tokens_.sequences() / probe_.sequences();
  }
  void embed();
  void measure_branch(const LayerSpec& layer, std::size_t branch, std::size_t place);
  void measure_ends();
  double quantize(const SourcePanel& values, const AffineFormat& format, const Rule& rule,
                  const AffinePanel& out);
  Probed measure(const std::string& path, const Rule& rule);
  AffineFormat probe_format(const std::string& path, uint64_t columns, DType metadata) const;
  void settle(std::span<const Probed> group, double divergence);
  bool planned(const std::string& path) const { return planned_.contains(path); }

  const Plan& plan_;
  const CalibrationTokens tokens_;
  const MeasureOptions& options_;
  const MeasureHooks& hooks_;
  ThreadPool& pool_;
  const ModelSpec spec_;
  const std::map<std::string, uint32_t> planned_;  // path -> tensor with a format
  WeightBinder binder_;
  BranchPass pass_;
  HiddenStates states_;
  DivergenceProbe probe_;
  AlignedBuffer<float> rows_;      // of one sequence
  AlignedBuffer<float> entering_;  // of the probes' sequences, before the branch at hand
  AlignedBuffer<std::byte> sample_;
  MeasuredLosses losses_;
};

LossMeter::LossMeter(const ModelDirectory& source, const Plan& plan,
                     const CalibrationTokens& tokens, const MeasureOptions& options,
                     const MeasureHooks& hooks, ThreadPool& pool)
    : plan_(plan),
      tokens_(tokens),
      options_(options),
      hooks_(hooks),
      pool_(pool),
      spec_(directory_spec(source)),
      planned_(quantized_tensors(plan)),
      binder_(source, pool),
      pass_(spec_, tokens.tokens, pool),
      states_(tokens.sequences(), tokens.tokens, spec_.hidden, options.memory_budget,
              options.scratch_directory / ".calibration-measured"),
      probe_(
          spec_,
          std::min(options.probe_sequences > 0 ? options.probe_sequences
                                               : default_probe_sequences(spec_, tokens.sequences()),
                   tokens.sequences()),
          tokens.tokens, binder_, pool, hooks.poll),
      rows_(static_cast<std::size_t>(tokens.tokens * spec_.hidden)),
      entering_(static_cast<std::size_t>(probe_.sequences()) * rows_.size()) {
  const auto keys = [&](const char* name) { return options.scratch_directory / name; };
  pass_.link({tokens.sequences(), [this](int64_t s) { return tokens_.sequence(s); },
              options.memory_budget, keys(".calibration-measured-keys")},
             binder_);
  probe_.link(
      {probe_.sequences(), [this](int64_t i) { return tokens_.sequence(probe_sequence(i)); },
       options.memory_budget, keys(".calibration-probed-keys")},
      binder_);
}

void LossMeter::embed() {
  const LinearWeight embedding =
      binder_.linear({spec_.embedding.path, spec_.vocabulary, spec_.hidden, false});
  for (int64_t s = 0; s < tokens_.sequences(); ++s) {
    hooks_.poll();
    embed_tokens(embedding, spec_.embedding.scale, tokens_.sequence(s), rows_.data());
    states_.save(s, rows_.data());
  }
  for (int64_t i = 0; i < probe_.sequences(); ++i) states_.load(probe_sequence(i), probe_.rows(i));
  probe_.set_reference();
}

double LossMeter::quantize(const SourcePanel& values, const AffineFormat& format, const Rule& rule,
                           const AffinePanel& out) {
  hooks_.poll();
  if (rule.solver != nullptr)
    return rule.solver->quantize(values, format, options_.solver, out, pool_).error;
  quantize_matrix(values, format, Method::kMse, out, pool_, rule.weights);
  return relative_error(values, format, out, rule.weights, pool_);
}

/// Errors of all candidates on a sample of the rows, and the whole matrix at the probe's width.
LossMeter::Probed LossMeter::measure(const std::string& path, const Rule& rule) {
  const uint32_t index = planned_.at(path);
  const FinalTensor& tensor = plan_.tensors[index].tensor;
  const DType metadata = plan_.tensors[index].format->metadata;
  const SourcePanel values = hooks_.read(index);
  const uint64_t row_bytes = values.columns * static_cast<uint64_t>(dtype_size(values.dtype));
  const uint64_t count = std::min(values.rows, options_.sample_rows);
  sample_.reserve_discarding(count * row_bytes);
  for (uint64_t i = 0; i < count; ++i) {
    std::copy_n(values.data + i * values.rows / count * row_bytes, row_bytes,
                sample_.data() + i * row_bytes);
  }
  const SourcePanel sample{sample_.data(), values.dtype, count, values.columns};
  ModuleLoss& loss = losses_[path];
  for (const auto& [bits, group] : candidate_formats(tensor.columns(), options_.group_size)) {
    StoredMatrix out({bits, group, metadata}, count, values.columns);
    loss.errors.push_back(
        {bits, group, quantize(sample, {bits, group, metadata}, rule, out.panel())});
  }
  const AffineFormat format = probe_format(path, values.columns, metadata);
  Probed probed{path, StoredMatrix(format, values.rows, values.columns), 0.0};
  probed.error = quantize(values, format, rule, probed.matrix.panel());
  hooks_.done(index);
  return probed;
}

AffineFormat LossMeter::probe_format(const std::string& path, uint64_t columns,
                                     DType metadata) const {
  AffineFormat format{options_.probe_bits, fitting_group_size(columns, kProbeGroup), metadata};
  const auto lattices = options_.lattices.find(path);
  if (lattices == options_.lattices.end()) return format;
  for (const Lattice& lattice : lattices->second)
    format.bits = std::min(format.bits, rung_below(lattice.bits));
  format.group_size = fitting_group_size(columns, kGroupSizes.back());
  return format;
}

/// Each matrix of a group is taken to cost the same for the same relative error.
void LossMeter::settle(std::span<const Probed> group, double divergence) {
  double errors = 0.0;
  for (const Probed& probed : group) errors += probed.error;
  for (const Probed& probed : group)
    losses_[probed.path].sensitivity = errors > 0.0 ? divergence / errors : 0.0;
}

void LossMeter::measure_branch(const LayerSpec& layer, std::size_t branch, std::size_t place) {
  const auto bind = [&] {
    std::vector<Branch> branches;
    append_branches(layer, 0, binder_, branches);
    return std::move(branches[branch]);
  };
  BranchMoments seen(tokens_.sequences(), pool_);
  {
    const Branch own = bind();
    for (int64_t i = 0; i < probe_.sequences(); ++i)
      states_.load(probe_sequence(i),
                   entering_.data() + static_cast<std::size_t>(i) * rows_.size());
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      hooks_.poll();
      states_.load(s, rows_.data());
      seen.sequence = s;
      seen.next = 0;
      pass_.run(own, rows_.data(), &seen, s);
      states_.save(s, rows_.data());
    }
  }
  std::map<ProbeGroup, std::vector<Probed>> groups;
  const auto add = [&](const std::string& path, const Rule& rule) {
    if (!planned(path)) return;
    const FinalTensor& tensor = plan_.tensors[planned_.at(path)].tensor;
    groups[probe_group(tensor.role)].push_back(measure(path, rule));
  };
  const MoeSpec* moe = routed_block(layer, branch);
  for (BranchMoments::Stage& stage : seen.stages) {
    if (stage.experts) {
      const std::vector<float> weights = column_weights(stage.moments->hessian());
      if (moe->gated()) add(moe->gate.path, {nullptr, weights});
      add(moe->up.path, {nullptr, weights});
      add(moe->down.path, {});
      continue;
    }
    if (stage.heads) {
      const std::vector<float> weights = column_weights(stage.moments->hessian());
      add(stage.paths.front(), {nullptr, weights});
      continue;
    }
    if (std::none_of(stage.paths.begin(), stage.paths.end(),
                     [&](const std::string& path) { return planned(path); }))
      continue;
    return_free_memory();
    const GptqSolver solver = stage.moments->solver(pool_);
    stage.moments.reset();
    for (const std::string& path : stage.paths) add(path, {&solver, {}});
  }
  for (auto& [name, group] : groups) {
    for (Probed& probed : group) binder_.replace(probed.path, probed.matrix.view);
    const Branch changed = bind();
    binder_.restore();
    std::copy_n(entering_.data(), entering_.size(), probe_.rows(0));
    settle(group, probe_.run(place, &changed));
  }
}

// The embedding and the head, once the states behind all layers are known. A tied head is both: its
// errors are those of the head with an identity added, and its probe changes both ends.
void LossMeter::measure_ends() {
  const std::string& embedding = spec_.embedding.path;
  const std::string& head = spec_.head.tied ? embedding : spec_.head.linear.path;
  const auto probe = [&](const Probed& probed, bool entry, bool exit) {
    binder_.replace(probed.path, probed.matrix.view);
    const LinearWeight changed = binder_.linear({embedding, spec_.vocabulary, spec_.hidden, false});
    for (int64_t i = 0; i < probe_.sequences(); ++i) {
      if (entry) {
        embed_tokens(changed, spec_.embedding.scale, tokens_.sequence(probe_sequence(i)),
                     probe_.rows(i));
      } else {
        states_.load(probe_sequence(i), probe_.rows(i));
      }
    }
    const OutputHead output(spec_, changed, binder_);
    if (entry) probe_.bind_inputs(binder_);
    binder_.restore();
    settle({&probed, 1},
           probe_.run(entry ? 0 : probe_.branches(), nullptr, exit ? &output : nullptr));
    if (entry) probe_.bind_inputs(binder_);
  };
  if (planned(head)) {
    InputMoments moments(spec_.hidden, HessianKind::kFull, false, tokens_.sequences());
    const NormLayer norm(spec_.final_norm, binder_);
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      hooks_.poll();
      states_.load(s, rows_.data());
      norm.forward(active_kernels(), pool_, rows_.data(), tokens_.tokens, rows_.data());
      moments.add(s, rows_.data(), nullptr, tokens_.tokens, pool_);
    }
    if (spec_.head.tied) moments.add_identity();
    const GptqSolver solver = moments.solver(pool_);
    probe(measure(head, {&solver, {}}), spec_.head.tied, true);
  }
  if (!spec_.head.tied && planned(embedding)) probe(measure(embedding, {}), true, false);
  if (!spec_.layer_inputs) return;
  const LayerInputsSpec& inputs = *spec_.layer_inputs;
  if (planned(inputs.projection.path)) {
    InputMoments moments(spec_.hidden, HessianKind::kFull, false, tokens_.sequences());
    for (int64_t s = 0; s < tokens_.sequences(); ++s) {
      hooks_.poll();
      moments.add(s, pass_.embedded(s), nullptr, tokens_.tokens, pool_);
    }
    const GptqSolver solver = moments.solver(pool_);
    probe(measure(inputs.projection.path, {&solver, {}}), true, false);
  }
  if (planned(inputs.table)) probe(measure(inputs.table, {}), true, false);
}

MeasuredLosses LossMeter::run() {
  embed();
  std::size_t place = 0;
  for (std::size_t l = 0; l < spec_.layers.size(); ++l) {
    const LayerSpec& layer = spec_.layers[l];
    pass_.set_layer(layer, static_cast<int64_t>(l));
    for (std::size_t branch = 0; branch < branch_count(layer); ++branch)
      measure_branch(layer, branch, place++);
  }
  measure_ends();
  return std::move(losses_);
}

}  // namespace

ByteCount probe_bytes(const ModelSpec& spec, int64_t sequences, int64_t tokens) {
  const int64_t probes = std::min(default_probe_sequences(spec, sequences), sequences);
  // Those that enter a branch are kept beside the probe's own.
  return ByteCount(probes) * tokens * spec.hidden * sizeof(float) +
         DivergenceProbe::bytes(spec, probes, tokens);
}

MeasuredLosses measure_losses(const ModelDirectory& source, const Plan& plan,
                              const CalibrationTokens& tokens, const MeasureOptions& options,
                              const MeasureHooks& hooks, ThreadPool& pool) {
  check_tokens(source, directory_spec(source), tokens);
  return LossMeter(source, plan, tokens, options, hooks, pool).run();
}

}  // namespace jang
