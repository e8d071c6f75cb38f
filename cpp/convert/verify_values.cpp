// Values against the source: pairs up what both have, compares panel by panel over all threads, and
// judges each tensor by the merged findings.
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "arch/spec_tensors.h"
#include "convert/value_check.h"
#include "convert/verify_parts.h"
#include "quant/gptq.h"

namespace jang {
namespace {

constexpr double kFactor = 1.5;
constexpr double kFactorGptq = 2.0;
// Two columns that outweigh the rest of their group by 10^6 reach 2.9.
constexpr double kFactorWeighted = 3.0;

std::string method_of(const Examined& examined) {
  const Json* quantization =
      examined.jang_config ? examined.jang_config->find("quantization") : nullptr;
  const Json* method =
      quantization != nullptr ? quantization->find("quantization_method") : nullptr;
  return method != nullptr && method->is_string() ? method->as_string() : std::string();
}

/// Whether columns were weighted: their errors then differ on purpose.
bool has_statistics(const Examined& examined) {
  const Json* quantization =
      examined.jang_config ? examined.jang_config->find("quantization") : nullptr;
  return quantization != nullptr && quantization->find("statistics") != nullptr;
}

/// What the manifest says of tensors on lattices: how many of their groups lose nothing, by path.
std::map<std::string, int64_t, std::less<>> stated_lossless(const Examined& examined) {
  std::map<std::string, int64_t, std::less<>> stated;
  const Json* quantization =
      examined.jang_config ? examined.jang_config->find("quantization") : nullptr;
  const Json* manifest =
      quantization != nullptr ? quantization->find("tensor_quantization_manifest") : nullptr;
  if (!examined.ours || manifest == nullptr || !manifest->is_object()) return stated;
  for (const auto& [path, entry] : manifest->as_object()) {
    if (!entry.is_object()) continue;
    const Json* solver = entry.find("solver");
    if (solver == nullptr || !solver->is_string() || solver->as_string() != "lattice") continue;
    const Json* groups = entry.find("lossless_groups");
    int64_t count = 0;
    if (groups != nullptr) groups->get_integer(0, INT64_MAX, count);
    stated.emplace(path, count);
  }
  return stated;
}

/// Pairs the source's final tensors with the directory's; what has no partner is a fault.
std::vector<ValuePair> pair_up(Examined& examined, const ConversionSource& source) {
  const ModelDirectory& directory = *examined.directory;
  const Checkpoint& checkpoint = directory.checkpoint;
  std::vector<ValuePair> pairs;
  std::set<std::string_view> known;
  for (const FinalTensor& tensor : source.inventory.tensors) {
    ValuePair pair{&tensor, directory.find_module(tensor.path), nullptr};
    std::vector<uint64_t> shape;
    std::string file;
    if (pair.module != nullptr) {
      for (const auto* part : {pair.module->weight, pair.module->scales, pair.module->biases}) {
        known.insert(part->name);
      }
      shape = pair.module->shape;
      file = checkpoint.files()[pair.module->weight->file];
    } else if (pair.plain = directory.find_tensor(tensor.name); pair.plain != nullptr) {
      known.insert(pair.plain->name);
      shape = pair.plain->shape;
      file = checkpoint.files()[pair.plain->file];
    } else {
      examined.fault(ErrorCode::kMissingTensor, {}, tensor.name, "in the source, but not here");
      continue;
    }
    if (shape != tensor.shape) {
      examined.fault(ErrorCode::kTensorShape, file, tensor.name,
                     "expected shape " + shape_text(tensor.shape) + " of the source, found " +
                         shape_text(shape));
      continue;
    }
    const bool comparable = pair.module != nullptr || pair.plain->dtype == tensor.dtype ||
                            (is_float_weight(pair.plain->dtype) && is_float_weight(tensor.dtype));
    if (!comparable || (pair.module != nullptr && !is_float_weight(tensor.dtype))) {
      examined.fault(
          ErrorCode::kQuality, file, tensor.name,
          "its dtype cannot come from the source's " + std::string(dtype_name(tensor.dtype)));
      continue;
    }
    pairs.push_back(pair);
  }
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (known.contains(tensor.name)) continue;
    examined.fault(ErrorCode::kExtraTensor, checkpoint.files()[tensor.file], tensor.name,
                   "not made from any tensor of the source");
  }
  return pairs;
}

std::string percent_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g %%", value * 100);
  return text;
}

std::string place_text(const ValueFinding& finding) {
  return "row " + std::to_string(finding.row) + ", column " + std::to_string(finding.column);
}

/// `stated`: of a module on a lattice, how many of its groups lose nothing.
void judge(Examined& examined, const ValueCheck& check, const ValuePair& pair,
           const ValueFinding& found, std::optional<int64_t> stated) {
  const CheckpointTensor& tensor = pair.module != nullptr ? *pair.module->weight : *pair.plain;
  const std::string& file = examined.directory->checkpoint.files()[tensor.file];
  if (pair.module == nullptr) {
    if (!found.differs) return;
    examined.fault(ErrorCode::kQuality, file, tensor.name,
                   place_text(found) + ": differs from the source, which is stored as it is");
    return;
  }
  const double stored = found.stored.relative_rms();
  const double rounded = found.rounded.relative_rms();
  examined.result.tensors.push_back(
      {pair.module->path, stored, found.stored.max_abs, check.limit(rounded)});
  if (!check.within(found.stored, found.rounded)) {
    examined.fault(ErrorCode::kQuality, file, pair.module->path,
                   "relative error " + percent_text(stored) + ", expected at most " +
                       percent_text(check.limit(rounded)) +
                       " (plain rounding at the same format: " + percent_text(rounded) + ")");
  } else if (found.differs) {
    examined.fault(ErrorCode::kQuality, file, pair.module->path,
                   place_text(found) + ": the group there is not the plain rounding of the source");
  } else if (stated && found.lossless < static_cast<uint64_t>(*stated)) {
    examined.fault(ErrorCode::kQuality, file, pair.module->path,
                   "stored on a lattice: expected " + std::to_string(*stated) +
                       " groups equal to the source, found " + std::to_string(found.lossless));
  } else if (found.worst_group > 0) {
    examined.fault(
        ErrorCode::kQuality, file, pair.module->path,
        place_text(found) + ": the error of the group there is far above that of plain rounding");
  }
}

}  // namespace

void verify_values(Examined& examined, const ConversionSource& source, ThreadPool& pool,
                   JobProgress& progress) {
  const std::string method = method_of(examined);
  ValueBounds bounds;
  const bool weighted = method == "mse" && has_statistics(examined);
  bounds.factor = method == "gptq" ? kFactorGptq : weighted ? kFactorWeighted : kFactor;
  if (method == "gptq") bounds.shift = SolveOptions{}.target_limit;
  // What an upgrade took over was rounded by another program, whose rules nobody here knows.
  const bool by_us = examined.ours && examined.jang_config->find("upgraded_from") == nullptr;
  bounds.exact = by_us && method == "rtn";
  bounds.every_group = by_us && (method == "rtn" || (method == "mse" && !weighted));
  const ValueCheck check(*examined.directory, source, bounds);
  std::vector<ValuePair> pairs = pair_up(examined, source);
  const auto lossless = stated_lossless(examined);
  for (ValuePair& pair : pairs)
    pair.lattice = pair.module != nullptr && lossless.contains(pair.module->path);
  std::vector<Panel> panels;
  for (uint32_t i = 0; i < pairs.size(); ++i) {
    const FinalTensor& tensor = *pairs[i].source;
    const uint64_t columns = tensor.columns();
    cut_panels(i, tensor, columns == 0 ? 0 : tensor.elements() / columns, panels);
  }
  std::vector<ValueFinding> findings(panels.size());
  std::vector<ValueScratch> scratch(static_cast<std::size_t>(pool.size()));
  const auto name = [&](uint32_t i) -> std::string_view { return pairs[i].source->name; };
  for_each_panel(pool, panels, progress, name, [&](std::size_t i, int worker) {
    findings[i] = check.compare(pairs[panels[i].tensor], panels[i],
                                scratch[static_cast<std::size_t>(worker)]);
  });
  std::vector<ValueFinding> totals(pairs.size());
  for (std::size_t i = 0; i < panels.size(); ++i) totals[panels[i].tensor].merge(findings[i]);
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    std::optional<int64_t> stated;
    if (pairs[i].lattice) stated = lossless.find(pairs[i].module->path)->second;
    judge(examined, check, pairs[i], totals[i], stated);
  }
}

}  // namespace jang
