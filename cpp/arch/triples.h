// Quantized modules as they stand in the files: weight, scales and biases of each, held against the
// width that the map claims and the shape that the architecture knows.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "arch/directory.h"

namespace jang {

using ModuleShapes =
    std::map<std::string, std::vector<uint64_t>, std::less<>>;  // path -> [out, in]

/// Finds every triple of `directory.checkpoint` and fills `directory.modules`, by path. `manifest`:
/// widths for JANG modules without an entry in the map. `known`: shapes from the family; empty if
/// there is none. Faults are Error{kTripleShape | kMapEntry | kMissingTensor | kExtraTensor |
/// kTensorShape | kUnsupportedFormat}. With kMended what the map says wrongly goes into
/// `directory.repairs`, and only what the tensors leave open is an error.
void collect_modules(ModelDirectory& directory,
                     const std::map<std::string, WidthEntry, std::less<>>& manifest,
                     const ModuleShapes& known, MapReading map);

}  // namespace jang
