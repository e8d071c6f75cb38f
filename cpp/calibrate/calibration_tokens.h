// The tokens that a calibration reads, as its callers hand them over.
#pragma once

#include <cstdint>
#include <span>

#include "arch/directory.h"
#include "arch/spec.h"

namespace jang {

struct CalibrationTokens {
  std::span<const int32_t> ids;  // [sequences][tokens]
  int64_t tokens = 0;            // of a sequence
  int64_t sequences() const noexcept {
    return tokens == 0 ? 0 : static_cast<int64_t>(ids.size()) / tokens;
  }
  std::span<const int32_t> sequence(int64_t number) const noexcept {
    return ids.subspan(static_cast<std::size_t>(number * tokens), static_cast<std::size_t>(tokens));
  }
};

/// Error{kArgument} for tokens that do not fit the model: none, too many in a sequence, ids beyond
/// its vocabulary.
void check_tokens(const ModelDirectory& source, const ModelSpec& spec,
                  const CalibrationTokens& tokens);

}  // namespace jang
