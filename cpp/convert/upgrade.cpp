// From stored tensors to a plan, from the plan to shards; a panel is some whole rows.
#include "convert/upgrade.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "arch/stored_model.h"
#include "base/error.h"
#include "convert/documents.h"
#include "convert/panel_writer.h"
#include "convert/panels.h"
#include "convert/shard_output.h"
#include "convert/upgrade_changes.h"
#include "convert/values.h"
#include "io/checksum.h"
#include "plan/plan_document.h"
#include "plan/plan_layout.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

const Json* quantization_of(const ModelDirectory& directory) {
  return directory.jang_config ? directory.jang_config->find("quantization") : nullptr;
}

std::string text_of(const Json* object, std::string_view key) {
  const Json* found = object != nullptr ? object->find(key) : nullptr;
  return found != nullptr && found->is_string() ? found->as_string() : std::string();
}

/// A directory to upgrade, and what it becomes.
struct Upgrade {
  ModelDirectory directory;
  StoredModel model;
  UpgradePlan result;
};

/// Whether every value plus `shift` is one of the tensor's own dtype.
bool holds_shifted(const SourcePanel& values, float shift) {
  const uint64_t count = values.rows * values.columns;
  std::vector<float> exact(count), rounded(count);
  std::vector<std::byte> shifted(count * static_cast<uint64_t>(dtype_size(values.dtype)));
  load_floats(values, exact.data());
  shift_panel(values, shift, shifted.data());
  load_floats({shifted.data(), values.dtype, values.rows, values.columns}, rounded.data());
  for (uint64_t i = 0; i < count; ++i) {
    if (exact[i] + shift != rounded[i]) return false;
  }
  return true;
}

FinalTensor without_shift(const FinalTensor& tensor) {
  FinalTensor plain = tensor;
  plain.shift = 0.0f;
  return plain;
}

DType stored_dtype(const ModelDirectory& directory, const FinalTensor& tensor) {
  if (tensor.shift == 0.0f || tensor.dtype == DType::kF32) return tensor.dtype;
  AlignedBuffer<std::byte> scratch;
  const FinalTensor plain = without_shift(tensor);
  const SourcePanel values =
      read_panel(directory.checkpoint, plain, whole_panel(0, plain), scratch);
  return holds_shifted(values, tensor.shift) ? tensor.dtype : DType::kF32;
}

/// The type that activations have: what the config says, which some families round factors to.
DType activation_dtype(const ModelDirectory& directory, const Plan& plan) {
  if (const auto stated = directory.config.dtype()) return *stated;
  std::map<DType, uint64_t> weights;
  for (const PlannedTensor& planned : plan.tensors) {
    weights[planned.format ? planned.format->metadata : planned.dtype] += planned.tensor.elements();
  }
  const auto most =
      std::max_element(weights.begin(), weights.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == weights.end() ? DType::kBF16 : most->first;
}

Plan plan_of(const ModelDirectory& directory, const StoredModel& model) {
  Plan plan;
  const Json* quantization = quantization_of(directory);
  plan.profile = text_of(quantization, "profile");
  if (const Json* target = quantization != nullptr ? quantization->find("target_bits") : nullptr;
      target != nullptr && target->is_number()) {
    plan.target_bits = target->as_double();
  }
  plan.parameters = model.inventory.parameters;
  plan.tied_head = model.inventory.tied_head;
  plan.warnings = model.inventory.warnings;
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    PlannedTensor planned;
    planned.tensor = model.inventory.tensors[i];
    planned.format = model.tensors[i].format;
    planned.dtype = stored_dtype(directory, planned.tensor);
    plan.tensors.push_back(std::move(planned));
  }
  plan.activation_dtype = activation_dtype(directory, plan);
  lay_out(plan);
  return plan;
}

Upgrade open_upgrade(const fs::path& path) {
  Upgrade upgrade;
  upgrade.directory = open_model_directory(path, Checkpoint::Access::kMapped, MapReading::kMended);
  const ModelDirectory& directory = upgrade.directory;
  if (directory.format == DirectoryFormat::kHf) {
    throw Error(ErrorCode::kUnsupportedFormat, path.filename().string(), {},
                "the directory is not quantized, so there is nothing to upgrade",
                "`jang convert` quantizes it");
  }
  if (!directory_factors(directory).empty()) {
    throw Error(ErrorCode::kUnsupportedFormat, path.filename().string(), {},
                "its weights lack the factors that its config.json has, and codes cannot take them",
                "convert the original checkpoint");
  }
  upgrade.model = stored_model(directory);
  // The weights have them.
  for (FinalTensor& tensor : upgrade.model.inventory.tensors) tensor.factors.clear();
  UpgradePlan& result = upgrade.result;
  result.format = format_name(directory.format);
  result.plan = plan_of(directory, upgrade.model);
  result.changes = tensor_changes(directory, upgrade.model, result.plan);
  result.current = result.changes.empty() && directory.format == DirectoryFormat::kJang &&
                   text_of(directory.jang_config->find("generator"), "name") == kGeneratorName;
  if (!result.current) add_document_changes(directory, result.changes);
  return upgrade;
}

/// Rows of a tensor at a time: about a panel's bytes of what is stored.
void cut_rows(uint32_t index, const PlannedTensor& planned, std::vector<Panel>& out) {
  const uint64_t columns = planned.tensor.columns();
  if (columns == 0 || planned.tensor.elements() == 0) return;
  const uint64_t rows = planned.tensor.elements() / columns;
  const uint64_t row_bytes = std::max<uint64_t>(1, planned.bytes() / rows);
  const uint64_t step = std::max<uint64_t>(1, kPanelBytes / row_bytes);
  for (uint64_t row = 0; row < rows; row += step) {
    const uint64_t count = std::min(step, rows - row);
    out.push_back({index, row, count, 0, columns, count * row_bytes});
  }
}

/// A worker's own memory.
struct Scratch {
  RowsScratch rows;
  AlignedBuffer<std::byte> gathered, cast;
  AlignedBuffer<float> floats;
};

class RowWriter {
 public:
  RowWriter(const Upgrade& upgrade, ShardOutput& output) : upgrade_(upgrade), output_(output) {}

  PanelSums write(const Panel& panel, Scratch& scratch) const {
    return upgrade_.model.tensors[panel.tensor].format ? write_quantized(panel, scratch)
                                                       : write_plain(panel, scratch);
  }

 private:
  PanelSums write_quantized(const Panel& panel, Scratch& scratch) const {
    const StoredTensor& stored = upgrade_.model.tensors[panel.tensor];
    const AffineFormat& format = *stored.format;
    const AffinePanel rows =
        read_rows(upgrade_.directory, upgrade_.model, stored, panel.row, panel.rows, scratch.rows);
    const uint64_t groups = format.row_groups(panel.columns);
    require_finite(panel, {rows.scales, format.metadata, panel.rows, groups}, "scale");
    require_finite(panel, {rows.biases, format.metadata, panel.rows, groups}, "bias");
    const uint64_t code_bytes = format.row_bytes(panel.columns);
    const uint64_t group_bytes = groups * static_cast<uint64_t>(dtype_size(format.metadata));
    PanelSums sums;
    put(panel, 0, code_bytes, rows.codes, sums);
    put(panel, 1, group_bytes, rows.scales, sums);
    put(panel, 2, group_bytes, rows.biases, sums);
    drop_rows(upgrade_.directory, upgrade_.model, stored, panel.row, panel.rows);
    return sums;
  }

  PanelSums write_plain(const Panel& panel, Scratch& scratch) const {
    const PlannedTensor& planned = upgrade_.result.plan.tensors[panel.tensor];
    const Checkpoint& checkpoint = upgrade_.directory.checkpoint;
    const FinalTensor plain = without_shift(planned.tensor);
    // Its size is that of the source, which may be narrower than what is written.
    Panel source = panel;
    source.bytes = panel.rows * panel.columns * static_cast<uint64_t>(dtype_size(plain.dtype));
    const SourcePanel values = read_panel(checkpoint, plain, source, scratch.gathered);
    require_finite(panel, values, "value");
    const auto size = static_cast<uint64_t>(dtype_size(planned.dtype));
    const std::byte* out = values.data;
    if (planned.dtype != plain.dtype) {
      const uint64_t count = panel.rows * panel.columns;
      scratch.floats.reserve_discarding(count);
      load_floats(values, scratch.floats.data());
      for (uint64_t i = 0; i < count; ++i) scratch.floats[i] += planned.tensor.shift;
      out = reinterpret_cast<const std::byte*>(scratch.floats.data());
    } else if (planned.tensor.shift != 0.0f) {
      scratch.cast.reserve_discarding(source.bytes);
      shift_panel(values, planned.tensor.shift, scratch.cast.data());
      out = scratch.cast.data();
    }
    PanelSums sums;
    put(panel, 0, panel.columns * size, out, sums);
    drop_panel(checkpoint, plain, source);
    return sums;
  }

  void put(const Panel& panel, std::size_t piece, uint64_t row_bytes, const std::byte* data,
           PanelSums& sums) const {
    const std::span<const std::byte> bytes{data, panel.rows * row_bytes};
    output_.write(panel.tensor, piece, panel.row * row_bytes, bytes);
    sums.crc[piece] = crc32_of(bytes);
    sums.bytes[piece] = bytes.size();
  }

  void require_finite(const Panel& panel, const SourcePanel& values, const char* what) const {
    const auto bad = find_non_finite(values);
    if (!bad) return;
    const CheckpointTensor& source = source_of(panel.tensor, panel.row + bad->row);
    throw Error(ErrorCode::kNonFinite, upgrade_.directory.checkpoint.files()[source.file],
                source.name,
                "row " + std::to_string(panel.row + bad->row) + " of " +
                    upgrade_.model.inventory.tensors[panel.tensor].name + ": expected a finite " +
                    what + ", found NaN or infinity at column " + std::to_string(bad->column));
  }

  /// Where a row comes from: the codes of a module.
  const CheckpointTensor& source_of(uint32_t index, uint64_t row) const {
    uint64_t begin = 0;
    for (const StoredRows& part : upgrade_.model.tensors[index].rows) {
      begin += part.rows;
      if (row < begin) return *upgrade_.model.matrices[part.matrix].codes;
    }
    const FinalTensor& tensor = upgrade_.model.inventory.tensors[index];
    return upgrade_.directory.checkpoint.tensors()[locate_value(tensor, row, 0).tensor];
  }

  const Upgrade& upgrade_;
  ShardOutput& output_;
};

ConversionRecord record_of(const Upgrade& upgrade, const UpgradeOptions& options) {
  const ModelDirectory& directory = upgrade.directory;
  const Json* model = directory.jang_config ? directory.jang_config->find("source_model") : nullptr;
  ConversionRecord record;
  record.method = text_of(quantization_of(directory), "quantization_method");
  if (record.method.empty()) record.method = "unknown";
  record.source_name = text_of(model, "name");
  record.source_revision = text_of(model, "revision");
  if (record.source_name.empty()) record.source_name = options.source_name;
  record.think_in_template = options.think_in_template;
  record.generator_version = options.generator_version;
  UpgradeRecord& from = record.upgrade.emplace();
  from.format = upgrade.result.format;
  if (!directory.jang_config) return record;
  from.format_version = text_of(&*directory.jang_config, "format_version");
  from.generator = text_of(directory.jang_config->find("generator"), "name");
  return record;
}

}  // namespace

UpgradePlan plan_upgrade(const fs::path& source) { return open_upgrade(source).result; }

ConvertReport upgrade_directory(const fs::path& source, const fs::path& partial,
                                const UpgradeOptions& options, const JobCallbacks& callbacks) {
  const auto start = std::chrono::steady_clock::now();
  const Upgrade upgrade = open_upgrade(source);
  const Plan& plan = upgrade.result.plan;
  std::vector<Panel> panels;
  std::vector<uint64_t> counts(plan.tensors.size());
  JobProgress progress{callbacks};
  for (const auto& shard : plan.shards) {
    for (const uint32_t index : shard) {
      const std::size_t before = panels.size();
      cut_rows(index, plan.tensors[index], panels);
      counts[index] = panels.size() - before;
    }
  }
  for (const Panel& panel : panels) progress.total += panel.bytes;
  ThreadPool pool(options.threads != 0 ? options.threads : default_thread_count().threads);
  ShardOutput output(partial, plan, ShardRange::all(plan), counts);
  const RowWriter writer(upgrade, output);
  std::vector<Scratch> scratch(static_cast<std::size_t>(pool.size()));
  std::vector<PanelSums> sums(panels.size());
  const auto name = [&](uint32_t tensor) -> std::string_view {
    return plan.tensors[tensor].tensor.name;
  };
  for_each_panel(pool, panels, progress, name, [&](std::size_t i, int worker) {
    sums[i] = writer.write(panels[i], scratch[static_cast<std::size_t>(worker)]);
    output.panel_done(panels[i].tensor);
  });
  output.finish();
  progress.report({});
  TensorSums whole;
  for (std::size_t i = 0; i < panels.size(); ++i) whole[panels[i].tensor].append(sums[i]);

  ConvertReport report;
  report.plan = plan;
  report.warnings = plan.warnings;
  report.files = output.files();
  write_documents(partial, plan, upgrade.directory.config, whole, record_of(upgrade, options),
                  report);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace jang
