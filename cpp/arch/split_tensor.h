// One source tensor to one or several final ones: fused expert tensors and latent projections are
// split before widths are chosen, convolutions reshaped (format.md, section 9).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arch/config.h"
#include "arch/inventory.h"

namespace jang {

/// `name`: the final name of the whole source (final_names.h). Sets name, source, shape, dtype,
/// ranges and obstacle of each result. A fused tensor whose layout is not known for the model type
/// is Error{kTensorShape}.
std::vector<FinalTensor> split_tensor(const ModelConfig& config, const SourceTensor& source,
                                      uint32_t index, const std::string& name);

}  // namespace jang
