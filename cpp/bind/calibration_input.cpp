#include "bind/calibration_input.h"

#include "base/error.h"

namespace jang::bind {

CalibrationInput calibration_input(const std::optional<Tokens>& ids, const std::string& text,
                                   const std::string& sha256, int streams) {
  if (!ids || ids->ndim() != 2) {
    throw Error(ErrorCode::kArgument,
                "method gptq: expected calibration_ids [sequences, tokens], found " +
                    (ids ? std::to_string(ids->ndim()) + " dimensions" : "none"));
  }
  if (streams != 1 && streams != 2) {
    throw Error(ErrorCode::kArgument,
                "calibration_streams: expected 1 or 2, found " + std::to_string(streams));
  }
  return {
      {ids->data(), ids->data() + ids->size()}, ids->shape(1), text, sha256, {}, 0, streams == 2};
}

}  // namespace jang::bind
