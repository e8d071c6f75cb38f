// The shards that a part of a gptq conversion writes into. One may hold tensors of several parts:
// it is taken up with what the parts before left in it, and has its name once all are there.
//
// Relies on records (shard_record.h) for what lies in a file, and on the caller for which tensors
// are the part's and which of the solved ones count; a part is made by planned_layers.h.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "convert/panel_writer.h"
#include "convert/plan_file.h"
#include "convert/resume_record.h"
#include "convert/shard_output.h"
#include "convert/source_reader.h"
#include "convert/work_list.h"

namespace jang {

class PartShards {
 public:
  /// `plan`: of `file`, with places. `mine`: by planned tensor, whether the part makes it. The
  /// references outlive this object.
  PartShards(const std::filesystem::path& directory, const PlanFile& file, const Plan& plan,
             const std::vector<bool>& mine, const SourceReader& reader, ThreadPool& pool,
             const JobCallbacks& callbacks);
  ~PartShards();
  PartShards(const PartShards&) = delete;
  PartShards& operator=(const PartShards&) = delete;

  /// Looks at what lies there; of the part's solved tensors those of `point` count. Writes nothing.
  void examine(const ResumePoint* point);
  /// Whether a tensor is of a shard that the part writes into.
  bool writes_beside(uint32_t tensor) const { return find(tensor) != nullptr; }
  /// Whether a tensor lies in its shard as its record says.
  bool has(uint32_t tensor) const;
  /// Why tensors of a shard that were recorded are not there, or empty.
  const std::string& fault(uint32_t tensor) const;

  /// Opens all shards for writing, those that hold nothing afresh, with a notice where there was
  /// something. Once, behind examine().
  void open();
  /// Makes the part's tensors that are not solved and not there.
  void stream(const Checkpoint& source, JobProgress& progress, uint64_t stretch);
  /// Writes a tensor of the part that was solved; `panel`: all of it.
  PanelSums store(const Panel& panel, const AffinePanel& solved);
  /// Makes everything durable and writes it down; what is whole gets its name.
  void save();

 private:
  struct Shard;
  Shard& shard_of(uint32_t tensor);
  const Shard* find(uint32_t tensor) const;
  TensorSums recorded(const Shard& shard, std::string& fault) const;
  void check(Shard& shard, const TensorSums& recorded);

  const std::filesystem::path& directory_;
  const PlanFile& file_;
  const Plan& plan_;
  const std::vector<bool>& mine_;
  const SourceReader& reader_;
  ThreadPool& pool_;
  const JobCallbacks& callbacks_;
  const std::map<std::string, uint32_t> solved_;  // all tensors to solve, by path
  std::vector<uint32_t> places_;                  // shard of each planned tensor
  std::deque<Shard> shards_;
};

}  // namespace jang
