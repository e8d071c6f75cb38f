// The plan of a conversion: for every final tensor its width, group and bytes. Data only; profiles,
// recipes and the K algorithm fill it in.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arch/config.h"
#include "arch/inventory.h"
#include "plan/lattices.h"
#include "plan/losses.h"
#include "quant/affine_format.h"

namespace jang {

struct WidthRule {  // --set GLOB=BITS[:GROUP] | GLOB=none
  std::string pattern;
  std::optional<int> bits;  // nullopt: none, leave unquantized
  std::optional<int> group_size;
};
/// Parses "GLOB=4", "GLOB=4:128", "GLOB=none"; kArgument otherwise.
WidthRule parse_width_rule(std::string_view text);

/// A size in place of a profile: widths are then chosen by loss per byte. Exactly one is given.
struct SizeTarget {
  std::optional<double> bits;     // 8 * bytes of the weight files / parameters of the source
  std::optional<uint64_t> bytes;  // of the weight files
};

inline constexpr uint64_t kShardBytes = uint64_t{5} << 30;

struct PlanOptions {
  std::string profile =
      "JANG_4K";  // any spelling: "4l", "jang_4L", "uniform-4", "mixed_2_6", "tiered-4L"
  std::optional<SizeTarget> target;    // if given, `profile` does not count
  MeasuredLosses losses;               // for `target`; modules that are missing take the prior
  std::optional<DType> dtype;          // cast activations (and all weights) to this
  std::optional<int> group_size;       // default 64; with `target` any
  std::optional<int> router_bits;      // 8: quantize routers at 8 bits, g 64
  std::optional<int> expert_floor;     // at least this many bits for routed experts
  std::vector<WidthRule> rules;        // last match wins; one that matches nothing is an error
  Lattices lattices;                   // of the source; a width that is chosen prefers them
  uint64_t shard_bytes = kShardBytes;  // payload of a shard; one module may be larger
};

struct PlannedTensor {
  FinalTensor tensor;
  std::optional<AffineFormat> format;  // nullopt: stored as it is, in `dtype`
  bool lattice = false;                // its format holds the lattice that its values lie on
  DType dtype = DType::kBF16;          // of an unquantized tensor as written
  uint64_t bytes() const noexcept;     // payload: codes, scales and biases together
};

struct RoleRow {
  std::string role;
  uint64_t tensors = 0;
  uint64_t weights = 0;
  double bits = 0;  // mean code bits, weighted; 16 or 32 for unquantized roles
  uint64_t bytes = 0;
};

/// The lowest width that allocation gives to a kind of matrix.
struct FloorRow {
  std::string
      name;        // "head", "embedding", "recurrent output", "decay", "attention", "mlp", "expert"
  int wanted = 0;  // of the table
  int bits = 0;    // what holds: less where the table's would take too much of the target
  uint64_t modules = 0;  // of this kind
  uint64_t binding = 0;  // those that would have got less
};

/// What was asked of an allocation and what could be had.
struct Allocation {
  std::optional<double> requested_bits;
  uint64_t requested_bytes = 0;                  // never exceeded
  uint64_t lowest_bytes = 0, highest_bytes = 0;  // of the weight files: the reachable interval
  bool measured = false;                         // losses were given; false: all from the prior
  std::vector<FloorRow> floors;                  // kinds that occur
};

struct Plan {
  std::string profile;  // canonical: "JANG_4L", "uniform-4", "mixed_2_6", "tiered-4L", "bits-3.5",
                        // "size-5000000000"
  std::optional<double> target_bits;  // K profiles: 4; literal profiles: the MLP column; of a size
                                      // the bits per weight that it allows
  std::optional<Allocation> allocation;       // of plans with a SizeTarget
  std::vector<PlannedTensor> tensors;         // inventory order
  std::vector<std::vector<uint32_t>> shards;  // indices into tensors; format.md 4.2
  uint64_t parameters = 0;
  uint64_t payload_bytes = 0;
  uint64_t file_bytes = 0;         // exact size of all model-*.safetensors
  double average_bits = 0;         // codes of quantized weights
  double average_bits_stored = 0;  // with scales and biases, quantized weights only
  double bits_per_weight = 0;      // 8 * file_bytes / parameters
  double prior_loss = 0;           // by the prior (prior.h); to compare plans of one model
  DType activation_dtype = DType::kBF16;
  int attention_bits = 0, mlp_bits = 0;  // most common width of each, for the report; 0 if none
  AffineFormat global;         // the most common (bits, group): the global pair of config.json
  bool tied_head = false;      // the embedding is the head too, and no lm_head is written
  std::vector<RoleRow> roles;  // in the order of the enum; only roles that occur
  std::vector<std::string> warnings;
};

/// Chooses widths and lays out shards. Throws Error{kArgument} for an unknown profile or a rule
/// that matches nothing, kUnsupportedFormat for a source that cannot be planned.
Plan make_plan(const ModelConfig& config, const Inventory& inventory, const PlanOptions& options);

/// The tensors that have a format: path -> index into Plan::tensors.
std::map<std::string, uint32_t> quantized_tensors(const Plan& plan);

/// These without the ones on lattices, which stay as they are.
std::map<std::string, uint32_t> tensors_to_solve(const Plan& plan);

/// Output tensors of shard `shard` (weight, scales, biases of quantized modules), for
/// layout_safetensors.
struct ShardTensor {
  std::string name;
  DType dtype = DType::kU32;
  std::vector<uint64_t> shape;
  uint32_t planned = 0;  // index into Plan::tensors
  enum class Piece { kPlain, kCodes, kScales, kBiases } piece = Piece::kPlain;
};
std::vector<ShardTensor> shard_tensors(const Plan& plan, uint32_t shard);
/// "model-00001-of-00003.safetensors"
std::string shard_file_name(uint32_t shard, uint32_t count);

}  // namespace jang
