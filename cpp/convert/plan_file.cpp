#include "convert/plan_file.h"

#include <charconv>
#include <set>
#include <span>
#include <utility>

#include "base/error.h"
#include "io/checksum.h"
#include "io/json.h"
#include "io/json_fields.h"
#include "plan/plan_record.h"

namespace jang {
namespace {

constexpr std::string_view kSchema = "jang.plan-file/1";
constexpr std::size_t kMaxBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxName = 255;

uint32_t checksum_of(const Json& document) {
  const std::string text = dump_json(document);
  return crc32_of(std::as_bytes(std::span(text)));
}

// --- options -------------------------------------------------------------------------------------

std::string rule_text(const WidthRule& rule) {
  if (!rule.bits) return rule.pattern + "=none";
  std::string text = rule.pattern + "=" + std::to_string(*rule.bits);
  if (rule.group_size) text += ":" + std::to_string(*rule.group_size);
  return text;
}

Json lattices_json(const Lattices& lattices) {
  Json out = Json::Object{};
  for (const auto& [path, found] : lattices) {
    Json::Array formats;
    for (const Lattice& lattice : found) {
      formats.emplace_back(Json::Object{
          {"bits", lattice.bits}, {"group_size", lattice.group_size}, {"share", lattice.share}});
    }
    out[path] = Json::Object{{"formats", std::move(formats)}};
  }
  return out;
}

Json losses_json(const MeasuredLosses& losses) {
  Json out = Json::Object{};
  for (const auto& [path, loss] : losses) {
    Json::Array errors;
    for (const CandidateLoss& candidate : loss.errors) {
      errors.emplace_back(Json::Object{{"bits", candidate.bits},
                                       {"group_size", candidate.group_size},
                                       {"error", candidate.error}});
    }
    Json module = Json::Object{{"errors", std::move(errors)}};
    if (loss.sensitivity) module["sensitivity"] = *loss.sensitivity;
    out[path] = std::move(module);
  }
  return out;
}

Json options_json(const PlanFile& file) {
  const PlanOptions& options = file.options;
  Json out =
      Json::Object{{"method", method_name(file.method)}, {"shard_bytes", options.shard_bytes}};
  if (!options.target) {
    out["profile"] = options.profile;
  } else if (options.target->bits) {
    out["bits"] = *options.target->bits;
  } else {
    out["size"] = *options.target->bytes;
  }
  if (options.dtype) out["dtype"] = dtype_name(*options.dtype);
  if (options.group_size) out["group_size"] = *options.group_size;
  if (options.router_bits) out["router_bits"] = *options.router_bits;
  if (options.expert_floor) out["expert_floor"] = *options.expert_floor;
  Json::Array rules;
  for (const WidthRule& rule : options.rules) rules.emplace_back(rule_text(rule));
  out["rules"] = std::move(rules);
  out["losses"] = losses_json(options.losses);
  out["lattices"] = lattices_json(options.lattices);
  return out;
}

int format_count(const JsonFields& fields, std::string_view key, int64_t most) {
  return static_cast<int>(fields.count(key, most));
}

double share_of(const JsonFields& fields, std::string_view key) {
  const double value = fields.number(key);
  if (!(value >= 0 && value < 1e300)) fields.fail("a number >= 0 as " + std::string(key));
  return value;
}

PlanOptions parse_options(const JsonFields& fields) {
  PlanOptions options;
  const int wishes = fields.has("profile") + fields.has("bits") + fields.has("size");
  if (wishes != 1) fields.fail("one of profile, bits and size");
  if (fields.has("profile")) options.profile = fields.text("profile");
  if (fields.has("bits")) options.target = SizeTarget{fields.number("bits"), {}};
  if (fields.has("size")) options.target = SizeTarget{{}, fields.count("size")};
  if (fields.has("dtype")) {
    options.dtype = parse_dtype(fields.text("dtype"));
    if (!options.dtype || !is_float_weight(*options.dtype))
      fields.fail("F32, F16 or BF16 as dtype");
  }
  if (fields.has("group_size")) options.group_size = format_count(fields, "group_size", 128);
  if (fields.has("router_bits")) options.router_bits = format_count(fields, "router_bits", 8);
  if (fields.has("expert_floor")) options.expert_floor = format_count(fields, "expert_floor", 8);
  options.shard_bytes = fields.count("shard_bytes");
  for (const std::string& rule : fields.texts("rules"))
    options.rules.push_back(parse_width_rule(rule));
  fields.each_member("losses", [&](const std::string& path, const JsonFields& module) {
    ModuleLoss& loss = options.losses[path];
    module.each("errors", [&](const JsonFields& row) {
      loss.errors.push_back({format_count(row, "bits", 8), format_count(row, "group_size", 128),
                             share_of(row, "error")});
    });
    if (module.has("sensitivity")) loss.sensitivity = share_of(module, "sensitivity");
  });
  fields.each_member("lattices", [&](const std::string& path, const JsonFields& module) {
    std::vector<Lattice>& lattices = options.lattices[path];
    module.each("formats", [&](const JsonFields& row) {
      lattices.push_back({format_count(row, "bits", 8), format_count(row, "group_size", 128),
                          share_of(row, "share")});
      if (!is_bit_width(lattices.back().bits) || !is_group_size(lattices.back().group_size))
        row.fail("bits and group_size of the format");
    });
  });
  return options;
}

// --- source --------------------------------------------------------------------------------------

Json source_json(const PlanFile& file) {
  Json::Array files;
  for (const SourceFile& source : file.files) {
    files.emplace_back(
        Json::Object{{"name", source.name}, {"bytes", source.bytes}, {"sha256", source.sha256}});
  }
  Json out = Json::Object{
      {"name", file.source_name}, {"revision", file.source_revision}, {"files", std::move(files)}};
  if (file.heads_equal) out["heads_equal"] = *file.heads_equal;
  return out;
}

bool is_sha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

/// Never a path: what is opened by these names stays in its directory.
bool is_bare_name(const std::string& name) {
  return !name.empty() && name.size() <= kMaxName && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos;
}

void parse_source(const JsonFields& fields, PlanFile& file) {
  file.source_name = fields.text("name");
  file.source_revision = fields.text("revision");
  if (fields.has("heads_equal")) file.heads_equal = fields.flag("heads_equal");
  std::set<std::string> names;
  fields.each("files", [&](const JsonFields& row) {
    SourceFile source{row.text("name"), row.count("bytes"), row.text("sha256")};
    if (!is_bare_name(source.name)) row.fail("a bare file name");
    if (!is_sha256(source.sha256)) row.fail("64 hex digits as sha256");
    if (!names.insert(source.name).second) row.fail("a name that no other file has");
    file.files.push_back(std::move(source));
  });
  if (!names.contains("config.json")) fields.fail("config.json among its files");
}

StatisticsRecord parse_statistics(const JsonFields& fields) {
  StatisticsRecord record{fields.text("file"), fields.text("sha256"), fields.count("modules")};
  if (!is_bare_name(record.file)) fields.fail("a bare file name");
  if (!is_sha256(record.sha256)) fields.fail("64 hex digits as sha256");
  return record;
}

uint32_t parse_checksum(const JsonFields& fields) {
  const std::string& text = fields.text("checksum");
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc{} || crc32_text(value) != text) fields.fail("8 hex digits as checksum");
  return value;
}

Json document_of(const PlanFile& file) {
  Json out =
      Json::Object{{"schema", kSchema},
                   {"generator", Json::Object{{"name", "jang-tools"}, {"version", file.version}}},
                   {"source", source_json(file)},
                   {"options", options_json(file)},
                   {"plan", plan_json(file.plan, file.options.shard_bytes)}};
  if (file.statistics) {
    out["statistics"] = Json::Object{{"file", file.statistics->file},
                                     {"sha256", file.statistics->sha256},
                                     {"modules", file.statistics->modules}};
  }
  return out;
}

}  // namespace

std::string plan_file_text(const PlanFile& file) {
  Json document = document_of(file);
  document["checksum"] = crc32_text(checksum_of(document));
  return dump_json(document);
}

uint32_t plan_file_checksum(const PlanFile& file) { return checksum_of(document_of(file)); }

PlanFile parse_plan_file(std::string_view text, const std::string& name) {
  JsonLimits limits;
  limits.max_bytes = kMaxBytes;
  Json document = parse_json(text, name, ErrorCode::kConfigSyntax, limits);
  PlanFile file;
  {
    const JsonFields fields(document, name, "plan file");
    if (fields.text("schema") != kSchema) fields.fail("the schema " + std::string(kSchema));
    file.checksum = parse_checksum(fields);
  }
  document.as_object().erase("checksum");
  if (const uint32_t found = checksum_of(document); found != file.checksum) {
    throw Error(ErrorCode::kChecksum, name, {},
                "expected the checksum " + crc32_text(file.checksum) + " that it states, found " +
                    crc32_text(found) + ": the file was changed",
                "make it again with `jang plan -o`");
  }
  const JsonFields fields(document, name, "plan file");
  const auto generator = fields.object("generator");
  const auto source = fields.object("source");
  const auto options = fields.object("options");
  if (!generator || !source || !options) fields.fail("generator, source and options");
  file.version = generator->text("version");
  parse_source(*source, file);
  const auto method = parse_method(options->text("method"));
  if (!method) options->fail("rtn or mse as method");
  file.method = *method;
  try {
    file.options = parse_options(*options);
  } catch (const Error& error) {
    if (!error.file().empty()) throw;
    throw Error(ErrorCode::kConfigValue, name, {}, error.message());
  }
  if (const auto statistics = fields.object("statistics"))
    file.statistics = parse_statistics(*statistics);
  file.plan = parse_plan(fields.member("plan"), name, "plan");
  if (fields.object("plan")->count("shard_bytes") != file.options.shard_bytes)
    fields.fail("the same shard_bytes in plan and options");
  return file;
}

}  // namespace jang
