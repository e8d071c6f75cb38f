#include "io/file_names.h"

#include <system_error>

#include "base/error.h"

namespace jang {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

void remove_file(const fs::path& path) {
  std::error_code failure;
  if (!fs::remove(path, failure) && failure)
    throw Error(ErrorCode::kIo, path.string(), {}, "cannot remove: " + failure.message());
}

}  // namespace jang
