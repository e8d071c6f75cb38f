// Names in the file system, whatever they point to.
#pragma once

#include <filesystem>

namespace jang {

/// Whether anything has that name, a link that leads nowhere included.
bool is_there(const std::filesystem::path& path);

/// A link goes itself, not what it points to; nothing there is fine. Throws Error{kIo}.
void remove_file(const std::filesystem::path& path);

}  // namespace jang
