// The largest moment of a layer: everything that stays through it, and the step of one tensor.
#include "calibrate/calibration_needs.h"

#include <algorithm>
#include <map>
#include <utility>
#include <variant>

#include "calibrate/expert_moments.h"
#include "calibrate/hidden_states.h"
#include "calibrate/measure_losses.h"
#include "calibrate/moments.h"
#include "calibrate/shared_keys.h"
#include "calibrate/stored_matrix.h"
#include "quant/gptq.h"

namespace jang {
namespace {

constexpr int kMostBits = 8;  // of a width that measured losses will choose

/// A tensor to quantize as matrices of its own: `count` of [rows][columns].
struct Matrices {
  int64_t count = 1, rows = 0, columns = 0;
};

Matrices matrices_of(const FinalTensor& tensor) {
  const auto columns = static_cast<int64_t>(tensor.columns());
  if (tensor.shape.size() == 3) {
    return {static_cast<int64_t>(tensor.shape[0]), static_cast<int64_t>(tensor.shape[1]), columns};
  }
  const auto elements = static_cast<int64_t>(tensor.elements());
  return {1, columns == 0 ? 0 : elements / columns, columns};
}

/// What reading a whole tensor, or one of a stack, copies together or casts.
ByteCount read_bytes(const FinalTensor& tensor, bool casts) {
  const Matrices matrices = matrices_of(tensor);
  const ByteCount elements = ByteCount(matrices.rows) * matrices.columns *
                             (tensor.role.role == Role::kExpert ? int64_t{1} : matrices.count);
  ByteCount bytes;
  const bool gathered = tensor.ranges.size() != 1 || tensor.transposed || tensor.shift != 0.0f;
  if (gathered) bytes += elements * dtype_size(tensor.dtype);
  if (casts) bytes += elements * sizeof(float);
  return bytes;
}

/// A moment: named shares that are there together.
struct Moment {
  std::vector<MemoryShare> shares;

  ByteCount total() const {
    ByteCount sum;
    for (const MemoryShare& share : shares) sum += share.bytes;
    return sum;
  }
};

void keep_larger(Moment& most, Moment other) {
  if (other.total() > most.total()) most = std::move(other);
}

std::string inputs_text(int64_t columns) { return std::to_string(columns) + " inputs"; }

class Estimate {
 public:
  Estimate(const ModelSpec& spec, const Plan& plan, const CalibrationShape& shape, bool casts,
           int threads)
      : spec_(spec), plan_(plan), shape_(shape), casts_(casts), threads_(threads) {
    for (const PlannedTensor& planned : plan.tensors) {
      const int64_t layer = layer_of(planned.tensor);
      count_outputs(planned.tensor, layer);
      if (!planned.format) continue;
      kept_[layer] += stored_bytes(planned);
      quantized_[layer].push_back(&planned);
    }
  }

  CalibrationNeeds solving() const {
    Moment most;
    for (const PlannedTensor& planned : plan_.tensors) {
      if (!planned.format || planned.lattice) continue;
      Moment step = step_of(planned);
      step.shares.push_back({"quantized weights of a layer", kept_beside(planned.tensor)});
      keep_larger(most, std::move(step));
    }
    const int streams = shape_.two_streams ? 2 : 1;
    const auto states = states_of_all();
    const auto keys =
        SharedKeys::needs(spec_, shape_.sequences, shape_.tokens, shape_.memory_budget);
    CalibrationNeeds needs{std::move(most.shares), {}};
    needs.memory.push_back({"hidden states", (states.memory + keys.memory) * streams});
    needs.memory.push_back({"a layer's activations", pass_bytes() * streams});
    needs.scratch = (states.disk + keys.disk) * streams + expert_scratch();
    return needs;
  }

  CalibrationNeeds measuring() const {
    Moment most;
    for (const PlannedTensor& planned : plan_.tensors) {
      if (!planned.format) continue;
      keep_larger(most, probe_of(planned));
    }
    const auto states = states_of_all();
    const auto keys =
        SharedKeys::needs(spec_, shape_.sequences, shape_.tokens, shape_.memory_budget);
    CalibrationNeeds needs{std::move(most.shares), {}};
    needs.memory.push_back({"hidden states", states.memory + keys.memory * 3});
    needs.memory.push_back({"probes", probe_bytes(spec_, shape_.sequences, shape_.tokens)});
    needs.memory.push_back({"a layer's activations", pass_bytes() * 2});
    needs.scratch = states.disk + keys.disk * 3;  // of probes two kinds
    return needs;
  }

 private:
  static int64_t layer_of(const FinalTensor& tensor) { return tensor.role.layer; }

  ByteCount stored_bytes(const PlannedTensor& planned) const {
    AffineFormat format = *planned.format;
    if (plan_.allocation) format.bits = kMostBits;
    const Matrices all = matrices_of(planned.tensor);
    return StoredMatrix::bytes(format, static_cast<uint64_t>(all.count * all.rows),
                               static_cast<uint64_t>(all.columns));
  }

  /// Of its layer; the embedding stays through the first one.
  ByteCount kept_beside(const FinalTensor& tensor) const {
    const int64_t layer = layer_of(tensor);
    const auto of = [&](int64_t wanted) {
      const auto found = kept_.find(wanted);
      return found == kept_.end() ? ByteCount{} : found->second;
    };
    return layer <= 0 ? of(layer) + of(layer < 0 ? 0 : -1) : of(layer);
  }

  const MoeSpec* experts_of(int64_t layer) const {
    if (layer < 0 || layer >= static_cast<int64_t>(spec_.layers.size())) return nullptr;
    const auto& feed_forward = spec_.layers[static_cast<std::size_t>(layer)].feed_forward;
    return feed_forward ? std::get_if<MoeSpec>(&*feed_forward) : nullptr;
  }

  void count_outputs(const FinalTensor& tensor, int64_t layer) {
    if (layer < 0 || tensor.shape.size() < 2) return;
    const Matrices matrices = matrices_of(tensor);
    const MoeSpec* const experts = experts_of(layer);
    int64_t times = matrices.count;
    if (tensor.role.role == Role::kExpert && experts != nullptr)
      times = ExpertRoutes::reach(*experts);
    // Inputs are copied where tokens are grouped by expert.
    const int64_t width = matrices.count == 1 ? matrices.rows : matrices.rows + matrices.columns;
    outputs_[layer] += ByteCount(times) * width;
  }

  HiddenStates::Needs states_of_all() const {
    return HiddenStates::needs(shape_.sequences, shape_.tokens, spec_.hidden, shape_.memory_budget);
  }

  /// Buffers of a pass grow to the widest layer and stay: what its matrices put out, the rows that
  /// enter and leave it, attention's partial results.
  ByteCount pass_bytes() const {
    ByteCount widest;
    for (const auto& [layer, outputs] : outputs_) widest = std::max(widest, outputs);
    return (widest * 2 + ByteCount(spec_.hidden) * 4) * shape_.tokens * sizeof(float);
  }

  ByteCount expert_scratch() const {
    ByteCount most;
    for (std::size_t layer = 0; layer < spec_.layers.size(); ++layer) {
      const MoeSpec* const experts = experts_of(static_cast<int64_t>(layer));
      if (experts == nullptr) continue;
      most = std::max(most, ExpertMoments::needs(*experts, shape_.sequences * shape_.tokens,
                                                 shape_.memory_budget)
                                .disk);
    }
    return most;
  }

  /// From gathered moments through factoring to the last row of `rows`.
  Moment solve_step(int64_t columns, int64_t rows, bool two_streams, const AffineFormat& format,
                    ByteCount moments) const {
    const auto inputs = InputMoments::solver_inputs(columns, two_streams, shape_.sequences);
    Moment making{{{"second moments of " + inputs_text(columns), moments},
                   {"their factor", GptqSolver::making_bytes(inputs, threads_)}}};
    Moment solving{{{"a factor of " + inputs_text(columns), GptqSolver::bytes(inputs)},
                    {"work space of " + std::to_string(threads_) + " threads",
                     GptqSolver::quantize_bytes(inputs, format, rows, threads_)}}};
    keep_larger(making, std::move(solving));
    return making;
  }

  Moment step_of(const PlannedTensor& planned) const {
    const Matrices matrices = matrices_of(planned.tensor);
    const bool tied = spec_.head.tied && planned.tensor.path == spec_.embedding.path;
    const bool two = shape_.two_streams && !tied;
    Moment step;
    const MoeSpec* const experts = experts_of(layer_of(planned.tensor));
    if (planned.tensor.role.role == Role::kExpert && experts != nullptr) {
      const int64_t tokens = shape_.sequences * shape_.tokens;
      const auto rows = ExpertMoments::needs(*experts, tokens, shape_.memory_budget);
      step = solve_step(matrices.columns, matrices.rows, false, *planned.format,
                        ExpertMoments::shrunk_bytes(matrices.columns, tokens));
      step.shares.push_back({"inputs of experts", rows.memory});
    } else if (tied || planned.tensor.path != spec_.embedding.path) {  // an embedding is rounded
      const ByteCount one =
          InputMoments::bytes(matrices.columns, HessianKind::kFull, two, shape_.sequences);
      step = solve_step(matrices.columns, matrices.rows, two, *planned.format, one);
      if (matrices.count > 1) {
        step.shares.push_back({"second moments of " + std::to_string(matrices.count) + " heads",
                               one * (matrices.count - 1)});
      }
    }
    step.shares.push_back({"a tensor as it is read", read_bytes(planned.tensor, casts_)});
    return step;
  }

  /// Every input of the branch has moments of one stream until its turn comes.
  Moment probe_of(const PlannedTensor& planned) const {
    const Matrices matrices = matrices_of(planned.tensor);
    const int64_t layer = layer_of(planned.tensor);
    ByteCount inputs, stored;
    for (const PlannedTensor* other : quantized_.at(layer)) {
      if (layer < 0 && other != &planned) continue;
      if (is_feed_forward(other->tensor) != is_feed_forward(planned.tensor)) continue;
      stored += stored_bytes(*other);
      const Part part = other->tensor.role.part;
      const bool shares = part == Part::kK || part == Part::kV || part == Part::kUp;
      if (!shares && other->tensor.shape.size() < 3) {
        inputs += Hessian::bytes(static_cast<int64_t>(other->tensor.columns()), HessianKind::kFull);
      }
    }
    Moment step;
    if (matrices.count == 1) {
      step = solve_step(matrices.columns, matrices.rows, false, *planned.format, 0);
    }
    step.shares.push_back({"second moments of a layer's inputs", inputs});
    step.shares.push_back({"quantized weights of a layer", stored});
    step.shares.push_back({"a tensor as it is read", read_bytes(planned.tensor, casts_)});
    return step;
  }

  static bool is_feed_forward(const FinalTensor& tensor) {
    return tensor.role.role == Role::kMlp || tensor.role.role == Role::kExpert ||
           tensor.role.role == Role::kSharedExpert || tensor.role.role == Role::kRouter;
  }

  const ModelSpec& spec_;
  const Plan& plan_;
  const CalibrationShape& shape_;
  const bool casts_;
  const int threads_;
  std::map<int64_t, std::vector<const PlannedTensor*>> quantized_;  // by layer
  std::map<int64_t, ByteCount> kept_;                               // what they become
  std::map<int64_t, ByteCount> outputs_;  // of all matrices of a layer for a token, floats
};

}  // namespace

CalibrationNeeds solve_needs(const ModelSpec& spec, const Plan& plan, const CalibrationShape& shape,
                             bool casts, int threads) {
  return Estimate(spec, plan, shape, casts, threads).solving();
}

CalibrationNeeds measure_needs(const ModelSpec& spec, const Plan& plan,
                               const CalibrationShape& shape, bool casts, int threads) {
  return Estimate(spec, plan, shape, casts, threads).measuring();
}

}  // namespace jang
