// Values against the source: quantized modules within a bound that plain rounding at the same
// format sets, everything else equal after the cast that its dtype declares.
//
// Plain rounding is computed beside, panel by panel. The bound of a tensor is 1.5 times its
// relative RMS (2 times for gptq, which trades weight error for output error). What this program
// writes with rtn or mse is held to the same factor in every single group: no group of either may
// be worse than plain rounding, so a row or a code that was exchanged shows even where the tensor
// as a whole still looks right.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <string>

#include "arch/spec_tensors.h"
#include "convert/panel_writer.h"
#include "convert/values.h"
#include "convert/verify_parts.h"
#include "quant/quantize.h"

namespace jang {
namespace {

constexpr double kFactor = 1.5;
constexpr double kFactorGptq = 2.0;
/// Squared errors this small beside the source's squares are rounding of the sums themselves.
constexpr double kSumNoise = 1e-13;

struct Compared {
  const FinalTensor* source = nullptr;
  const QuantizedModule* module = nullptr;  // or
  const CheckpointTensor* plain = nullptr;
};

struct Finding {
  PanelError stored, rounded;
  bool differs = false;    // of plain tensors
  bool bad_group = false;  // of modules
  PanelPlace place;        // where it differs, or where the worst group begins
  double worst = 0;        // that group's squared error over that of plain rounding
};

struct Scratch {
  AlignedBuffer<std::byte> gathered, cast, codes, scales, biases;
  AlignedBuffer<float> source, stored, rounded;
  ThreadPool inline_pool{1};  // a panel is one thread's work
};

PanelError error_of(const float* source, const float* found, uint64_t count) {
  PanelError error;
  for (uint64_t i = 0; i < count; ++i) {
    const double difference = static_cast<double>(found[i]) - static_cast<double>(source[i]);
    error.error_squares += difference * difference;
    error.source_squares += static_cast<double>(source[i]) * static_cast<double>(source[i]);
    error.max_abs = std::max(error.max_abs, std::abs(difference));
  }
  return error;
}

class ValueCheck {
 public:
  ValueCheck(const ModelDirectory& directory, const ConversionSource& source, double factor,
             bool every_group)
      : directory_(directory), source_(source), factor_(factor), every_group_(every_group) {}

  Finding compare(const Compared& pair, const Panel& panel, Scratch& scratch) const {
    const SourcePanel values =
        read_panel(*source_.checkpoint, *pair.source, panel, scratch.gathered);
    require_finite(values, *source_.checkpoint, *pair.source, panel);
    Finding finding = pair.module != nullptr ? compare_module(pair, values, panel, scratch)
                                             : compare_plain(pair, values, panel, scratch);
    drop_panel(*source_.checkpoint, *pair.source, panel);
    return finding;
  }

 private:
  Finding compare_module(const Compared& pair, const SourcePanel& values, const Panel& panel,
                         Scratch& scratch) const {
    const QuantizedModule& module = *pair.module;
    const AffineFormat format{module.width.bits, module.width.group_size, module.scales->dtype};
    const uint64_t columns = pair.source->columns();
    const auto size = static_cast<uint64_t>(dtype_size(format.metadata));
    const std::array<const CheckpointTensor*, 3> tensors = {module.weight, module.scales,
                                                            module.biases};
    const uint64_t group_begin =
        (panel.row * format.row_groups(columns) + format.row_groups(panel.column)) * size;
    const std::array<uint64_t, 3> begins = {
        panel.row * format.row_bytes(columns) + format.row_bytes(panel.column), group_begin,
        group_begin};
    const uint64_t group_bytes = panel.rows * format.row_groups(panel.columns) * size;
    const std::array<uint64_t, 3> bytes = {panel.rows * format.row_bytes(panel.columns),
                                           group_bytes, group_bytes};
    scratch.codes.reserve_discarding(bytes[0]);
    scratch.scales.reserve_discarding(bytes[1]);
    scratch.biases.reserve_discarding(bytes[2]);
    const AffinePanel rounded{scratch.codes.data(), scratch.scales.data(), scratch.biases.data()};
    quantize_panel(values, format, Method::kRtn, rounded);
    std::array<std::byte*, 3> stored{};
    for (std::size_t i = 0; i < 3; ++i) {
      // Only read through; the panel type serves writers too.
      stored[i] = const_cast<std::byte*>(
          directory_.checkpoint.data(*tensors[i]).subspan(begins[i], bytes[i]).data());
    }
    const uint64_t count = values.rows * values.columns;
    for (auto* floats : {&scratch.source, &scratch.stored, &scratch.rounded}) {
      floats->reserve_discarding(count);
    }
    load_floats(values, scratch.source.data());
    dequantize_matrix({stored[0], stored[1], stored[2]}, format, values.rows, values.columns,
                      scratch.stored.data(), scratch.inline_pool);
    dequantize_matrix(rounded, format, values.rows, values.columns, scratch.rounded.data(),
                      scratch.inline_pool);
    for (std::size_t i = 0; i < 3; ++i) {
      directory_.checkpoint.mapping(*tensors[i]).drop(tensors[i]->begin + begins[i], bytes[i]);
    }
    return sum_groups(scratch, values, static_cast<uint64_t>(format.group_size));
  }

  Finding sum_groups(const Scratch& scratch, const SourcePanel& values, uint64_t group) const {
    Finding finding;
    for (uint64_t first = 0; first < values.rows * values.columns; first += group) {
      const float* source = scratch.source.data() + first;
      const PanelError stored = error_of(source, scratch.stored.data() + first, group);
      const PanelError rounded = error_of(source, scratch.rounded.data() + first, group);
      finding.stored.merge(stored);
      finding.rounded.merge(rounded);
      if (!every_group_ || within(stored, rounded)) continue;
      const double ratio =
          rounded.error_squares > 0 ? stored.error_squares / rounded.error_squares : HUGE_VAL;
      if (ratio <= finding.worst) continue;
      finding.bad_group = true;
      finding.worst = ratio;
      finding.place = {first / values.columns, first % values.columns, 0};
    }
    return finding;
  }

  Finding compare_plain(const Compared& pair, const SourcePanel& values, const Panel& panel,
                        Scratch& scratch) const {
    const CheckpointTensor& tensor = *pair.plain;
    const auto size = static_cast<uint64_t>(dtype_size(tensor.dtype));
    const uint64_t count = panel.rows * panel.columns;
    const uint64_t begin = (panel.row * pair.source->columns() + panel.column) * size;
    const auto found = directory_.checkpoint.data(tensor).subspan(begin, count * size);
    const std::byte* expected = values.data;
    if (values.dtype != tensor.dtype) {
      scratch.cast.reserve_discarding(count * size);
      cast_panel(values, tensor.dtype, scratch.cast.data());
      expected = scratch.cast.data();
    }
    Finding finding;
    if (std::memcmp(expected, found.data(), found.size()) != 0) {
      const auto [at, other] = std::mismatch(found.begin(), found.end(), expected);
      const auto index = static_cast<uint64_t>(at - found.begin()) / size;
      finding.differs = true;
      finding.place = {panel.row + index / panel.columns, panel.column + index % panel.columns, 0};
    }
    directory_.checkpoint.mapping(tensor).drop(tensor.begin + begin, found.size());
    return finding;
  }

 public:
  bool within(const PanelError& stored, const PanelError& rounded) const {
    return stored.error_squares <=
           factor_ * factor_ * rounded.error_squares + kSumNoise * rounded.source_squares;
  }
  double factor() const noexcept { return factor_; }

 private:
  const ModelDirectory& directory_;
  const ConversionSource& source_;
  double factor_;
  bool every_group_;
};

std::string method_of(const Examined& examined) {
  const Json* quantization =
      examined.jang_config ? examined.jang_config->find("quantization") : nullptr;
  const Json* method =
      quantization != nullptr ? quantization->find("quantization_method") : nullptr;
  return method != nullptr && method->is_string() ? method->as_string() : std::string();
}

/// Pairs the source's final tensors with the directory's; what has no partner is a fault.
std::vector<Compared> pair_up(Examined& examined, const ConversionSource& source) {
  const ModelDirectory& directory = *examined.directory;
  const Checkpoint& checkpoint = directory.checkpoint;
  std::vector<Compared> pairs;
  std::set<std::string_view> known;
  for (const FinalTensor& tensor : source.inventory.tensors) {
    Compared pair{&tensor, directory.find_module(tensor.path), nullptr};
    std::vector<uint64_t> shape;
    std::string file;
    if (pair.module != nullptr) {
      for (const auto* part : {pair.module->weight, pair.module->scales, pair.module->biases}) {
        known.insert(part->name);
      }
      shape = pair.module->shape;
      file = checkpoint.files()[pair.module->weight->file];
    } else if (pair.plain = checkpoint.find(tensor.name); pair.plain != nullptr) {
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

}  // namespace

void verify_values(Examined& examined, const ConversionSource& source, ThreadPool& pool,
                   JobProgress& progress) {
  const std::string method = method_of(examined);
  const double factor = method == "gptq" ? kFactorGptq : kFactor;
  const bool every_group = examined.ours && (method == "rtn" || method == "mse");
  const ValueCheck check(*examined.directory, source, factor, every_group);
  const std::vector<Compared> pairs = pair_up(examined, source);
  std::vector<Panel> panels;
  for (uint32_t i = 0; i < pairs.size(); ++i) {
    const FinalTensor& tensor = *pairs[i].source;
    const uint64_t columns = tensor.columns();
    cut_panels(i, columns == 0 ? 0 : tensor.elements() / columns, columns,
               static_cast<uint64_t>(dtype_size(tensor.dtype)), panels);
  }
  std::vector<Finding> findings(panels.size());
  std::vector<Scratch> scratch(static_cast<std::size_t>(pool.size()));
  const auto name = [&](uint32_t i) -> std::string_view { return pairs[i].source->name; };
  for_each_panel(pool, panels, progress, name, [&](std::size_t i, int worker) {
    findings[i] = check.compare(pairs[panels[i].tensor], panels[i],
                                scratch[static_cast<std::size_t>(worker)]);
  });

  struct Total {
    PanelError stored, rounded;
    const Finding* worst = nullptr;  // of its groups
    uint64_t worst_row = 0;          // of that panel
    uint64_t worst_column = 0;
    const Finding* differs = nullptr;
  };
  std::vector<Total> totals(pairs.size());
  for (std::size_t i = 0; i < panels.size(); ++i) {
    Total& total = totals[panels[i].tensor];
    const Finding& finding = findings[i];
    total.stored.merge(finding.stored);
    total.rounded.merge(finding.rounded);
    if (finding.differs && total.differs == nullptr) total.differs = &finding;
    if (finding.bad_group && (total.worst == nullptr || finding.worst > total.worst->worst)) {
      total.worst = &finding;
      total.worst_row = panels[i].row + finding.place.row;
      total.worst_column = panels[i].column + finding.place.column;
    }
  }
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const Compared& pair = pairs[i];
    const Total& total = totals[i];
    const Checkpoint& checkpoint = examined.directory->checkpoint;
    const CheckpointTensor& tensor = pair.module != nullptr ? *pair.module->weight : *pair.plain;
    const std::string& file = checkpoint.files()[tensor.file];
    if (total.differs != nullptr) {
      examined.fault(ErrorCode::kQuality, file, tensor.name,
                     "row " + std::to_string(total.differs->place.row) + ", column " +
                         std::to_string(total.differs->place.column) +
                         ": differs from the source, which is stored as it is");
    }
    if (pair.module == nullptr) continue;
    const double rounded = total.rounded.relative_rms();
    examined.result.tensors.push_back({pair.module->path, total.stored.relative_rms(),
                                       total.stored.max_abs, check.factor() * rounded});
    if (!check.within(total.stored, total.rounded)) {
      examined.fault(ErrorCode::kQuality, file, pair.module->path,
                     "relative error " + percent_text(total.stored.relative_rms()) +
                         ", expected at most " + percent_text(check.factor() * rounded) +
                         " (plain rounding at the same format: " + percent_text(rounded) + ")");
    } else if (total.worst != nullptr) {
      examined.fault(ErrorCode::kQuality, file, pair.module->path,
                     "row " + std::to_string(total.worst_row) + ", group at column " +
                         std::to_string(total.worst_column) +
                         ": error far above that of plain rounding");
    }
  }
}

}  // namespace jang
