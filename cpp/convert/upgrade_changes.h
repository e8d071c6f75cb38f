// What an upgrade changes, in words: one line a change, each with its reason.
#pragma once

#include <vector>

#include "arch/stored_model.h"
#include "convert/upgrade.h"

namespace jang {

/// Of tensors and of the map of widths, in the order of the plan. Empty for what `jang convert`
/// would have written just so.
std::vector<UpgradeChange> tensor_changes(const ModelDirectory& directory, const StoredModel& model,
                                          const Plan& plan);

/// Of the documents of a directory that is written again.
void add_document_changes(const ModelDirectory& directory, std::vector<UpgradeChange>& changes);

}  // namespace jang
