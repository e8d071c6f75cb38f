#include "convert/source_feed.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "arch/block_scales.h"

namespace jang {
namespace {

SourceFeed::Files names_of(const Checkpoint& source, std::span<const uint32_t> files) {
  SourceFeed::Files names;
  for (const uint32_t file : files) names.push_back(source.files()[file]);
  return names;
}

}  // namespace

std::vector<uint32_t> files_of(const FinalTensor& tensor, const Checkpoint& source) {
  std::set<uint32_t> files;
  for (const RowRange& range : tensor.ranges) {
    const CheckpointTensor& stored = source.tensors()[range.tensor];
    files.insert(stored.file);
    if (tensor.blocks) files.insert(source.find(scales_name(stored.name))->file);
  }
  if (tensor.scales) files.insert(source.tensors()[*tensor.scales].file);
  return {files.begin(), files.end()};
}

std::vector<FeedStep> feed_steps(const Plan& plan, const Checkpoint& source,
                                 const TensorSums& finished) {
  // A tensor is made when the last of its files has come; one without any is made with the first.
  std::map<uint32_t, FeedStep> steps;
  std::map<uint32_t, uint32_t> last_use;  // file -> step
  for (uint32_t index = 0; index < plan.tensors.size(); ++index) {
    if (finished.contains(index)) continue;
    const std::vector<uint32_t> files = files_of(plan.tensors[index].tensor, source);
    const uint32_t step = files.empty() ? 0 : files.back();
    steps[step].tensors.push_back(index);
    for (const uint32_t file : files) {
      const auto [known, added] = last_use.try_emplace(file, step);
      if (!added) known->second = std::max(known->second, step);
    }
  }
  std::map<uint32_t, uint32_t> first_use;
  for (const auto& [number, step] : steps) {
    for (const uint32_t index : step.tensors) {
      for (const uint32_t file : files_of(plan.tensors[index].tensor, source))
        first_use.try_emplace(file, number);
    }
  }
  for (const auto& [file, step] : first_use) steps[step].need.push_back(file);
  for (const auto& [file, step] : last_use) steps[step].done.push_back(file);
  std::vector<FeedStep> in_order;
  for (auto& [number, step] : steps) in_order.push_back(std::move(step));
  return in_order;
}

std::vector<std::pair<SourceFeed::Files, SourceFeed::Files>> feed_schedule(
    std::span<const FeedStep> steps, const Checkpoint& source) {
  std::vector<std::pair<SourceFeed::Files, SourceFeed::Files>> schedule;
  for (const FeedStep& step : steps)
    schedule.emplace_back(names_of(source, step.need), names_of(source, step.done));
  return schedule;
}

void bring(const SourceFeed& feed, Checkpoint& source, std::span<const uint32_t> files) {
  if (files.empty()) return;
  feed.need(names_of(source, files));
  for (const uint32_t file : files) source.reopen(file);
}

TensorSums stream_fed_panels(std::span<const Panel> panels, const Plan& plan, Checkpoint& source,
                             const PanelWriter& writer, ShardOutput& output, JobProgress& progress,
                             ThreadPool& pool, StreamOptions options, const SourceFeed& feed) {
  const std::vector<FeedStep> steps = feed_steps(plan, source, options.done);
  feed.schedule(feed_schedule(steps, source));

  std::map<uint32_t, std::vector<Panel>> by_tensor;
  std::vector<Panel> finished;
  for (const Panel& panel : panels) {
    (options.done.contains(panel.tensor) ? finished : by_tensor[panel.tensor]).push_back(panel);
  }
  options.done = stream_panels(finished, plan, source, writer, output, progress, pool, options);
  for (const FeedStep& step : steps) {
    bring(feed, source, step.need);
    std::vector<Panel> together;
    for (const uint32_t tensor : step.tensors) {
      const auto found = by_tensor.find(tensor);
      if (found != by_tensor.end())
        together.insert(together.end(), found->second.begin(), found->second.end());
    }
    options.done = stream_panels(together, plan, source, writer, output, progress, pool, options);
    if (options.save) options.save(options.done);
    for (const uint32_t file : step.done) source.close(file);
    feed.done(names_of(source, step.done));
  }
  return std::move(options.done);
}

}  // namespace jang
