// The values of a panel apart from quantizing: casting to another dtype, and looking for numbers
// that are none. Faults carry the place inside the panel; the caller knows which tensor it is.
#pragma once

#include <cstdint>
#include <optional>

#include "base/dtype.h"
#include "quant/affine_format.h"

namespace jang {

struct PanelPlace {
  uint64_t row = 0, column = 0;  // inside the panel
  float value = 0;               // the value there, before any cast
};

/// The first NaN or infinity of a float panel; nothing for integer types.
std::optional<PanelPlace> find_non_finite(const SourcePanel& panel);

/// Rounds every value to nearest even in `to` (rows * columns elements at `out`). Returns the first
/// finite value that became infinite. Both dtypes are float weights.
std::optional<PanelPlace> cast_panel(const SourcePanel& panel, DType to, std::byte* out);

/// Adds `shift` to every value, rounded to nearest even in the panel's own dtype, into `out`, which
/// may be where the panel lies. A float weight.
void shift_panel(const SourcePanel& panel, float shift, std::byte* out);

}  // namespace jang
