// The identities of a triple, with `in` columns:  32 * weight columns = bits * in,
// scales columns * group = in. Shapes alone fix only bits * group; `in` from the architecture makes
// the pair unique. Nothing is guessed: a wrong claim is an error that names the right pair.
#include "arch/triples.h"

#include <algorithm>

#include "arch/final_names.h"
#include "arch/spec_tensors.h"
#include "base/error.h"
#include "quant/affine_format.h"

namespace jang {
namespace {

constexpr std::string_view kScales = ".scales";
constexpr std::string_view kBiases = ".biases";
constexpr std::string_view kWeight = ".weight";
constexpr const char* kMending =
    "`jang upgrade` writes the directory with the widths that the tensors have";
constexpr uint64_t kMaxColumns = uint64_t{1} << 40;  // keeps the identities below 2^64

std::string pair_text(int bits, int group) {
  return std::to_string(bits) + " bits with group size " + std::to_string(group);
}

class TripleCheck {
 public:
  TripleCheck(const ModelDirectory& directory, const CheckpointTensor& scales)
      : directory_(directory), scales_(scales) {
    const std::string base = scales.name.substr(0, scales.name.size() - kScales.size());
    weight_ = find(base, kWeight);
    if (scales.dtype == DType::kU8) {
      throw Error(ErrorCode::kUnsupportedFormat, file(scales), scales.name,
                  "U8 scales belong to mxfp4, mxfp8 or nvfp4 weights, not to affine JANG");
    }
    if (weight_ == nullptr) missing(base, kWeight);
    biases_ = find(base, kBiases);
    if (biases_ == nullptr) missing(base, kBiases);
    path_ = final_module_path(directory.config, base);
  }

  const std::string& path() const { return path_; }

  void dtypes() const {
    if (weight_->dtype != DType::kU32) {
      fail(
          ErrorCode::kTripleShape, *weight_,
          "expected U32 codes beside its scales, found " + std::string(dtype_name(weight_->dtype)));
    }
    if (!is_float_weight(scales_.dtype)) {
      fail(ErrorCode::kTripleShape, scales_,
           "expected F32, F16 or BF16, found " + std::string(dtype_name(scales_.dtype)));
    }
    if (biases_->dtype != scales_.dtype) {
      fail(ErrorCode::kTripleShape, *biases_,
           "expected " + std::string(dtype_name(scales_.dtype)) + " like its scales, found " +
               std::string(dtype_name(biases_->dtype)));
    }
  }

  void shapes() const {
    const auto& w = weight_->shape;
    const auto& s = scales_.shape;
    if (w.size() != 2 && w.size() != 3) {
      fail(ErrorCode::kTripleShape, *weight_, "expected 2 or 3 axes, found shape " + shape_text(w));
    }
    if (s.size() != w.size() || !std::equal(w.begin(), w.end() - 1, s.begin())) {
      fail(ErrorCode::kTripleShape, scales_,
           "shape " + shape_text(s) + " does not go with weight " + shape_text(w) +
               ": all axes but the last must agree");
    }
    if (biases_->shape != s) {
      fail(ErrorCode::kTripleShape, *biases_,
           "expected shape " + shape_text(s) + " like its scales, found " +
               shape_text(biases_->shape));
    }
    if (std::find(w.begin(), w.end(), 0u) != w.end() || s.back() == 0) {
      fail(ErrorCode::kTripleShape, *weight_, "a quantized module must not be empty");
    }
    if (w.back() > kMaxColumns || s.back() > kMaxColumns) {
      fail(ErrorCode::kTripleShape, *weight_, "more than 2^40 columns");
    }
  }

  QuantizedModule module(const WidthEntry& claim, const std::vector<uint64_t>* known) const {
    const uint64_t words = weight_->shape.back();
    const uint64_t groups = scales_.shape.back();
    const uint64_t in = groups * static_cast<uint64_t>(claim.group_size);
    const bool fits = words * 32 == in * static_cast<uint64_t>(claim.bits);
    if (!fits || (known != nullptr && known->back() != in)) {
      wrong_pair(claim, known == nullptr ? 0 : known->back());
    }
    QuantizedModule module;
    module.path = path_;
    module.width = claim;
    module.shape = weight_->shape;
    module.shape.back() = in;
    module.weight = weight_;
    module.scales = &scales_;
    module.biases = biases_;
    if (known != nullptr && module.shape != *known) {
      fail(ErrorCode::kTensorShape, *weight_,
           "expected a matrix " + shape_text(*known) + " by config.json, found " +
               shape_text(module.shape) + " at " + pair_text(claim.bits, claim.group_size));
    }
    return module;
  }

  /// The pair that shapes and architecture leave, if it is one.
  std::optional<WidthEntry> only_pair(uint64_t in) const {
    const auto pairs = allowed_pairs(in);
    if (pairs.size() != 1) return std::nullopt;
    return pairs.front();
  }
  bool allows(const WidthEntry& claim, uint64_t in) const {
    const auto pairs = allowed_pairs(in);
    return std::find(pairs.begin(), pairs.end(), claim) != pairs.end();
  }
  [[noreturn]] void undecided(const std::string& stated, uint64_t in) const {
    const std::string allowed = allowed_text(in);
    fail(ErrorCode::kMapEntry, *weight_,
         "the map has " + stated + ", and weight " + shape_text(weight_->shape) + " and scales " +
             shape_text(scales_.shape) + " allow " +
             (allowed.empty() ? std::string("no pair at all") : allowed));
  }

  [[noreturn]] void unclaimed(const std::string& message) const {
    throw Error(ErrorCode::kMapEntry, directory_.config.file(), path_, message, kMending);
  }

 private:
  const CheckpointTensor* find(const std::string& base, std::string_view suffix) const {
    return directory_.checkpoint.find(base + std::string(suffix));
  }
  const std::string& file(const CheckpointTensor& tensor) const {
    return directory_.checkpoint.files()[tensor.file];
  }
  [[noreturn]] void missing(const std::string& base, std::string_view suffix) const {
    throw Error(ErrorCode::kMissingTensor, file(scales_), base + std::string(suffix),
                "missing beside " + scales_.name);
  }
  [[noreturn]] void fail(ErrorCode code, const CheckpointTensor& tensor, const std::string& message,
                         const char* hint = "") const {
    throw Error(code, file(tensor), tensor.name, message, hint);
  }

  /// Pairs that the shapes allow; `in`: of the module, or 0 if nobody knows it.
  std::vector<WidthEntry> allowed_pairs(uint64_t in) const {
    const uint64_t words = weight_->shape.back();
    const uint64_t groups = scales_.shape.back();
    std::vector<WidthEntry> pairs;
    for (const int bits : kBitWidths) {
      for (const int group : kGroupSizes) {
        const uint64_t columns = groups * static_cast<uint64_t>(group);
        if (words * 32 != columns * static_cast<uint64_t>(bits)) continue;
        if (in == 0 || columns == in) pairs.push_back({bits, group});
      }
    }
    return pairs;
  }
  std::string allowed_text(uint64_t in) const {
    std::string text;
    for (const WidthEntry& pair : allowed_pairs(in)) {
      if (!text.empty()) text += " or ";
      text += pair_text(pair.bits, pair.group_size);
    }
    return text;
  }

  [[noreturn]] void wrong_pair(const WidthEntry& claim, uint64_t in) const {
    const std::string allowed = allowed_text(in);
    fail(ErrorCode::kTripleShape, *weight_,
         "config.json claims " + pair_text(claim.bits, claim.group_size) + ", but weight " +
             shape_text(weight_->shape) + " and scales " + shape_text(scales_.shape) +
             (in != 0 ? " of a module with " + std::to_string(in) + " inputs" : std::string()) +
             " allow " + (allowed.empty() ? std::string("no pair at all") : allowed),
         allowed.empty() ? "" : kMending);
  }

  const ModelDirectory& directory_;
  const CheckpointTensor& scales_;
  const CheckpointTensor* weight_ = nullptr;
  const CheckpointTensor* biases_ = nullptr;
  std::string path_;
};

/// What the map says of a module: a pair, or why there is none.
struct Claim {
  std::optional<WidthEntry> width;
  std::string fault;
  std::string stated;  // the same in few words
};

Claim claimed_width(const ModelDirectory& directory, const std::string& path,
                    const std::map<std::string, WidthEntry, std::less<>>& manifest) {
  const auto entry = directory.widths.entries.find(path);
  if (entry != directory.widths.entries.end()) {
    if (!entry->second) return {{}, "false in the map, but the module has scales", "false"};
    return {entry->second, {}, pair_text(entry->second->bits, entry->second->group_size)};
  }
  if (directory.format == DirectoryFormat::kMlx) {
    const auto& global = directory.widths.global;
    if (global) return {global, {}, pair_text(global->bits, global->group_size)};
    return {{}, "no entry in quantization, and no global bits and group_size", "no entry"};
  }
  const auto listed = manifest.find(path);
  if (listed == manifest.end()) {
    return {{},
            "the module has scales, but neither an entry in quantization nor in the manifest",
            "no entry"};
  }
  return {listed->second, {}, pair_text(listed->second.bits, listed->second.group_size)};
}

/// The claim where it is true, else what the tensors say, noted as a repair.
WidthEntry mended_width(ModelDirectory& directory, const TripleCheck& triple, const Claim& claim,
                        uint64_t in) {
  if (claim.width && triple.allows(*claim.width, in)) return *claim.width;
  const auto width = triple.only_pair(in);
  if (!width) triple.undecided(claim.stated, in);
  directory.repairs.push_back({triple.path(), claim.stated, width});
  return *width;
}

void check_orphans(const ModelDirectory& directory) {
  for (const CheckpointTensor& tensor : directory.checkpoint.tensors()) {
    const std::string& file = directory.checkpoint.files()[tensor.file];
    const std::string& name = tensor.name;
    if (name.ends_with(kBiases)) {
      const std::string base = name.substr(0, name.size() - kBiases.size());
      if (directory.checkpoint.find(base + std::string(kScales)) == nullptr) {
        throw Error(ErrorCode::kMissingTensor, file, base + std::string(kScales),
                    "missing beside " + name);
      }
    } else if (name.ends_with(kWeight) && tensor.dtype == DType::kU32) {
      const std::string base = name.substr(0, name.size() - kWeight.size());
      if (directory.checkpoint.find(base + std::string(kScales)) == nullptr) {
        throw Error(ErrorCode::kMissingTensor, file, base + std::string(kScales),
                    "missing: the weight holds U32 codes");
      }
    }
  }
}

}  // namespace

void collect_modules(ModelDirectory& directory,
                     const std::map<std::string, WidthEntry, std::less<>>& manifest,
                     const ModuleShapes& known, MapReading map) {
  for (const CheckpointTensor& tensor : directory.checkpoint.tensors()) {
    if (!tensor.name.ends_with(kScales)) continue;
    // Towers and the like: who mends a map writes the directory again, without them.
    if (map == MapReading::kMended && is_dropped(directory.config, tensor.name)) continue;
    const TripleCheck triple(directory, tensor);
    triple.dtypes();
    triple.shapes();
    const auto shape = known.find(triple.path());
    const std::vector<uint64_t>* expected = shape == known.end() ? nullptr : &shape->second;
    const Claim claim = claimed_width(directory, triple.path(), manifest);
    WidthEntry width;
    if (map == MapReading::kMended) {
      width = mended_width(directory, triple, claim, expected == nullptr ? 0 : expected->back());
    } else {
      if (!claim.width) triple.unclaimed(claim.fault);
      width = *claim.width;
    }
    directory.modules.push_back(triple.module(width, expected));
  }
  std::sort(directory.modules.begin(), directory.modules.end(),
            [](const QuantizedModule& a, const QuantizedModule& b) { return a.path < b.path; });
  for (std::size_t i = 1; i < directory.modules.size(); ++i) {
    if (directory.modules[i].path == directory.modules[i - 1].path) {
      throw Error(ErrorCode::kExtraTensor, {}, directory.modules[i].weight->name,
                  "a second module named " + directory.modules[i].path + " after renaming");
    }
  }
  check_orphans(directory);
  for (const auto& [path, entry] : directory.widths.entries) {
    if (entry && directory.find_module(path) == nullptr) {
      if (map == MapReading::kMended) {
        directory.repairs.push_back({path, pair_text(entry->bits, entry->group_size), {}});
        continue;
      }
      throw Error(ErrorCode::kMapEntry, directory.config.file(), path,
                  "an entry in quantization, but the module has no scales");
    }
  }
}

}  // namespace jang
