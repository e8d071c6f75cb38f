#include "convert/planned_layers.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "calibrate/solve_order.h"
#include "convert/calibrated_job.h"
#include "convert/layer_point.h"
#include "convert/part_shards.h"
#include "convert/source_reader.h"
#include "convert/work_list.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

void check_calibration(const PlanFile& plan, const std::string& plan_name,
                       const CalibrationInput& given) {
  const PlannedCalibration& expected = *plan.calibration;
  const PlannedCalibration found = planned_calibration(given);
  const auto differ = [&](const std::string& what, const std::string& a, const std::string& b,
                          const std::string& hint) {
    if (a != b)
      throw Error(ErrorCode::kArgument, plan_name, {},
                  "expected " + what + " " + a + ", found " + b, hint);
  };
  differ("the calibration text " + expected.text + " with the SHA-256", expected.sha256,
         found.sha256, "give --calibration, the text that the plan was made with");
  differ("as many sequences as", std::to_string(expected.sequences),
         std::to_string(found.sequences), {});
  differ("sequences of as many tokens as", std::to_string(expected.tokens),
         std::to_string(found.tokens), {});
  differ("calibration tokens with the SHA-256", expected.tokens_sha256, found.tokens_sha256,
         "another version of the tokenizers package may cut the text differently");
  differ("as many streams as", std::to_string(expected.streams), std::to_string(found.streams), {});
  differ("kernels of the level", expected.level, found.level,
         "another level gives other last digits; set JANG_ISA=" + expected.level +
             " where this machine has it, or plan anew here");
}

}  // namespace

PlannedLayers::PlannedLayers(PlanFile plan, std::string plan_name, const fs::path& source,
                             CalibrationInput calibration, int threads)
    : file_(std::move(plan)),
      path_(source),
      source_(open_known_source(source, file_.heads_equal)),
      calibration_(std::move(calibration)),
      pool_(threads != 0 ? threads : default_thread_count().threads) {
  JANG_ASSERT(file_.calibration.has_value());
  require_convertible(source_);
  plan_ = plan_again(file_, plan_name, source_);
  check_calibration(file_, plan_name, calibration_);
  const ModelSpec spec = directory_spec(open_model_directory(path_));
  positions_ = tensor_positions(spec, plan_);
  stops_ = solve_stops(spec);
  layers_ = spec.layers.size();
}

uint64_t PlannedLayers::source_bytes(const LayerRange& range) const {
  uint64_t bytes = 0;
  for (std::size_t i = 0; i < positions_.size(); ++i) {
    const bool first = range.begin == 0 && positions_[i] == 0;
    if (first || (positions_[i] > range.begin && positions_[i] <= range.end))
      bytes += plan_.tensors[i].tensor.bytes();
  }
  return bytes;
}

/// One part in its directory.
struct PlannedLayers::Job {
  PlannedLayers& all;
  const fs::path& directory;
  const LayerRange range;
  const std::string& needs;
  const JobCallbacks& callbacks;  // of the part
  JobProgress& progress;
  const SourceReader& reader;
  CalibratedJob& calibrated;
  const std::vector<bool> mine = tensors();
  const StatesShape shape = calibrated.states_shape();
  PartShards shards{directory, all.file_, all.plan_, mine, reader, all.pool_, callbacks};
  std::optional<RecordFile> states = {};  // of the point that solving starts from

  std::vector<bool> tensors() const {
    std::vector<bool> own;
    for (const uint64_t at : all.positions_)
      own.push_back((range.begin == 0 && at == 0) || (at > range.begin && at <= range.end));
    return own;
  }

  std::optional<LayerPoint> read(uint64_t position) const {
    auto found = read_layer_point(directory, all.file_, position, all.layers_, callbacks.cancel);
    if (found) {
      check_states(found->file, found->point, shape,
                   (directory / layer_point_name(position, all.layers_)).string());
    }
    return found;
  }

  [[noreturn]] void fail(const std::string& reason) const {
    throw Error(ErrorCode::kShardSet, directory.string(), {}, needs + ": " + reason);
  }

  /// Tensors of the parts before, in shards that this one writes into.
  void require_former() const {
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const auto index = static_cast<uint32_t>(i);
      const FinalTensor& tensor = all.plan_.tensors[i].tensor;
      if (all.positions_[i] > range.begin || mine[i] || tensor.elements() == 0) continue;
      if (!shards.writes_beside(index) || shards.has(index)) continue;
      fail(tensor.name + " is missing" +
           (shards.fault(index).empty() ? "" : ": " + shards.fault(index)));
    }
  }

  /// The first tensor that a point says is done and that is not there, or empty.
  std::string missing_in(const ResumePoint& point) const {
    for (const auto& [index, solved] : point.tensors) {
      if (mine[index] && !shards.has(index))
        return shards.fault(index).empty() ? all.plan_.tensors[index].tensor.name + " is missing"
                                           : shards.fault(index);
    }
    return {};
  }

  /// The last point of this part that can be gone on from; else that of the part before, if there
  /// is one. The shards are examined for it.
  std::optional<ResumePoint> take_up() {
    for (uint64_t at = range.end; at > range.begin; --at) {
      std::string reason;
      try {
        auto found = read(at);
        if (!found) continue;
        shards.examine(&found->point);
        reason = missing_in(found->point);
        if (reason.empty()) {
          states = std::move(found->file);
          return std::move(found->point);
        }
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::kCancelled || error.code() == ErrorCode::kOutputExists)
          throw;
        reason = error.what();
      }
      if (callbacks.notice) callbacks.notice("not going on behind " + place(at) + ": " + reason);
      remove_point(at);
    }
    if (range.begin == 0) {
      shards.examine(nullptr);
      return std::nullopt;
    }
    std::optional<LayerPoint> found;
    try {
      found = read(range.begin);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kCancelled || error.code() == ErrorCode::kOutputExists) throw;
      fail(error.what());
    }
    if (!found) fail(layer_point_name(range.begin, all.layers_) + " is missing");
    shards.examine(&found->point);
    states = std::move(found->file);
    return std::move(found->point);
  }

  std::string place(uint64_t position) const {
    return position > all.layers_
               ? "the last layer"
               : "layer " + std::to_string(position) + " of " + std::to_string(all.layers_);
  }

  void remove_point(uint64_t position) const {
    const fs::path path = directory / layer_point_name(position, all.layers_);
    std::error_code failure;
    if (!fs::remove(path, failure) && failure)
      throw Error(ErrorCode::kIo, path.string(), {}, "cannot remove: " + failure.message());
  }

  void save(const ResumePoint& point, std::span<const HiddenStates* const> streams) {
    shards.save();
    states.reset();
    const uint64_t position = point.position.layers;
    try {
      write_layer_point(directory, all.file_, all.layers_, point, streams, shape.sequences,
                        callbacks.cancel);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kNoSpace || position == range.end) throw;
      if (callbacks.notice)
        callbacks.notice(
            "no space to write down how far this is: an interruption costs the layers"
            " from here");
      return;
    }
    // The part's end, and the ends of others, are what parts start from; between them one is kept.
    for (uint64_t at = range.begin + 1; at < position; ++at) remove_point(at);
  }

  void solve(std::optional<ResumePoint> point) {
    const std::vector<Panel> whole = cut_shards(all.plan_, ShardRange::all(all.plan_), true).whole;
    CalibratedJob::SolveCallbacks solving;
    solving.store = [&](std::size_t i, const AffinePanel& solved) {
      const PlannedTensor& planned = all.plan_.tensors[whole[i].tensor];
      if (!mine[whole[i].tensor]) {
        throw Error(ErrorCode::kUnsupportedModel, {}, planned.tensor.source,
                    "met in another layer than its name says, so no parts can be made",
                    "use `jang convert --method gptq` without a plan");
      }
      return shards.store(whole[i], solved);
    };
    solving.save = [&](const ResumePoint& at, auto streams) { save(at, streams); };
    solving.load = [&](std::size_t stream, int64_t sequence, float* rows) {
      load_states(*states, shape, stream, sequence, rows);
    };
    std::vector<std::string> said;  // again at the end of the conversion
    calibrated.solve(all.plan_, whole, solving, std::move(point), said, range.end);
  }
};

bool PlannedLayers::make(const fs::path& directory, const LayerRange& range,
                         const std::string& needs, uint64_t stretch,
                         const JobCallbacks& callbacks) {
  JANG_ASSERT(range.begin < range.end &&
              std::find(stops_.begin(), stops_.end(), range.end) != stops_.end());
  // Solving counts what the point has, that of other parts, too.
  uint64_t before = 0;
  JobCallbacks own = callbacks;
  if (callbacks.progress) {
    own.progress = [&](uint64_t done, uint64_t total, std::string_view item) {
      callbacks.progress(done - std::min(done, before), total - before, item);
    };
  }
  JobProgress progress{own};
  const SourceReader reader(source_, file_.options.dtype);
  CalibratedJob calibrated(path_, directory, calibration_, reader, progress, pool_);
  calibrated.check();
  Job job{*this, directory, range, needs, own, progress, reader, calibrated};
  std::optional<ResumePoint> point = job.take_up();
  job.require_former();
  const uint64_t at = point ? point->position.layers : 0;
  bool missing = at < range.end;
  for (std::size_t i = 0; i < job.mine.size() && !missing; ++i) {
    missing = job.mine[i] && plan_.tensors[i].tensor.elements() > 0 &&
              !job.shards.has(static_cast<uint32_t>(i));
  }
  if (at > range.begin && missing && own.notice) own.notice("continuing behind " + job.place(at));
  job.shards.open();
  progress.total = source_bytes(range);
  if (missing) job.shards.stream(*source_.checkpoint, progress, stretch);
  if (at < range.end) {
    if (point) {
      for (const auto& [index, solved] : point->tensors)
        if (!job.mine[index]) before += plan_.tensors[index].tensor.bytes();
    }
    progress.total += before;
    job.solve(std::move(point));
  } else {
    progress.done = progress.total;
  }
  job.shards.save();
  progress.report({});
  return missing;
}

}  // namespace jang
