#include "calibrate/calibration_tokens.h"

#include <string>

#include "base/error.h"

namespace jang {

void check_tokens(const ModelDirectory& source, const ModelSpec& spec,
                  const CalibrationTokens& tokens) {
  if (tokens.tokens < 2 || tokens.sequences() < 1 ||
      static_cast<int64_t>(tokens.ids.size()) != tokens.sequences() * tokens.tokens) {
    throw Error(ErrorCode::kArgument,
                "calibration: expected one or more sequences of at least 2 tokens");
  }
  if (spec.max_positions > 0 && tokens.tokens > spec.max_positions) {
    throw Error(ErrorCode::kArgument, source.config.file(), {},
                "calibration: expected sequences of at most " + std::to_string(spec.max_positions) +
                    " tokens, found " + std::to_string(tokens.tokens));
  }
  for (const int32_t id : tokens.ids) {
    if (id >= 0 && id < spec.vocabulary) continue;
    throw Error(ErrorCode::kArgument, "calibration: token " + std::to_string(id) +
                                          " is outside the vocabulary of " +
                                          std::to_string(spec.vocabulary));
  }
}

}  // namespace jang
