// Looks through a source for tensors that already lie on lattices, before anything is planned for
// good: a few rows of every tensor, and all of those whose sample leaves it open. Relies on
// quant/lattice.h for single groups; leaves what to do about it to planning.
#pragma once

#include <optional>

#include "base/thread_pool.h"
#include "convert/panels.h"
#include "convert/source_feed.h"
#include "convert/source_reader.h"
#include "plan/lattices.h"
#include "plan/plan.h"

namespace jang {

/// A source whose files are brought as they are needed: samples first, then whole files of what
/// they leave open.
struct FedSource {
  const SourceFeed* feed = nullptr;  // null: everything is there
  Checkpoint* checkpoint = nullptr;  // the reader's
};

/// Lattices of the tensors that `plan` quantizes, whatever widths it gives them. A stack of experts
/// has one only where each of its experts has it. `group_size`: as PlanOptions, only this one. What
/// is read as a whole adds to `progress.total`. Same result whatever the number of threads. Throws
/// as SourceReader::read.
Lattices find_lattices(const Plan& plan, std::optional<int> group_size, const SourceReader& reader,
                       JobProgress& progress, ThreadPool& pool, const FedSource& fed = {});

}  // namespace jang
