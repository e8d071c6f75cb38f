// Proof that a directory is what it says: structure, map, manifest, checksums, values; against the
// source if given. SHA256SUMS itself is judged in Python (hashlib); everything else here.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"

namespace jang {

struct Fault {
  ErrorCode code = ErrorCode::kIo;
  std::string file, tensor, message;
};

struct TensorError {
  std::string path;
  double relative_rms = 0, max_abs = 0;
  double bound =
      0;  // what relative_rms may be: 1.5x (gptq: 2x, weighted mse: 3x) that of plain rounding
};

struct Verification {
  std::vector<Fault> faults;
  std::vector<std::string> notices;  // missing sums on foreign directories
  std::vector<TensorError> tensors;  // with a source
};

Verification verify_directory(const std::filesystem::path& path,
                              const std::optional<std::filesystem::path>& against, int threads,
                              const JobCallbacks& callbacks);

}  // namespace jang
