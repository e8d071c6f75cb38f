// NativeFile on POSIX systems. Interrupted calls are repeated, short reads and writes continued.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "io/native_file.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

// Linux moves at most 0x7ffff000 bytes per call; smaller steps also let Ctrl-C through.
constexpr std::size_t kMaxTransfer = std::size_t{1} << 26;

[[noreturn]] void fail(const std::filesystem::path& path, const char* action, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  throw Error(full ? ErrorCode::kNoSpace : ErrorCode::kIo, path.string(), {},
              std::string("cannot ") + action + ": " + std::generic_category().message(error));
}

template <typename Call>
auto repeat_if_interrupted(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

int open_or_fail(const std::filesystem::path& path, int flags, const char* action) {
  const int descriptor =
      repeat_if_interrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); });
  if (descriptor < 0) fail(path, action, errno);
  return descriptor;
}

int descriptor_of(std::intptr_t handle) { return static_cast<int>(handle); }

}  // namespace

NativeFile NativeFile::open_read(const std::filesystem::path& path) {
  NativeFile file(path);
  // Opening a pipe that nobody writes to would block; size() then refuses what is no file.
  file.handle_ = open_or_fail(path, O_RDONLY | O_NONBLOCK, "open");
  return file;
}

NativeFile NativeFile::create_new(const std::filesystem::path& path) {
  NativeFile file(path);
  file.handle_ = open_or_fail(path, O_RDWR | O_CREAT | O_EXCL, "create");
  return file;
}

NativeFile NativeFile::open_update(const std::filesystem::path& path) {
  NativeFile file(path);
  file.handle_ = open_or_fail(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK, "open");
  return file;
}

NativeFile::NativeFile(NativeFile&& other) noexcept
    : path_(std::move(other.path_)), handle_(std::exchange(other.handle_, -1)) {}

NativeFile& NativeFile::operator=(NativeFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(handle_, other.handle_);
  return *this;
}

NativeFile::~NativeFile() {
  if (handle_ >= 0) ::close(descriptor_of(handle_));
}

uint64_t NativeFile::size() const {
  struct stat status {};
  if (::fstat(descriptor_of(handle_), &status) != 0) fail(path_, "examine", errno);
  if (S_ISDIR(status.st_mode)) fail(path_, "read", EISDIR);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kIo, path_.string(), {}, "expected a regular file, found a device");
  }
  return static_cast<uint64_t>(status.st_size);
}

void NativeFile::allocate(uint64_t bytes) {
  if (bytes > static_cast<uint64_t>(std::numeric_limits<off_t>::max())) {
    fail(path_, "allocate", EFBIG);
  }
  const auto length = static_cast<off_t>(bytes);
  const int descriptor = descriptor_of(handle_);
#ifdef __linux__
  // Reserving finds a full disk now instead of after an hour. Not every file system can.
  if (length > 0 &&
      repeat_if_interrupted([&] { return ::fallocate(descriptor, 0, 0, length); }) != 0 &&
      errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) {
    fail(path_, "allocate", errno);
  }
#endif
  if (repeat_if_interrupted([&] { return ::ftruncate(descriptor, length); }) != 0) {
    fail(path_, "allocate", errno);
  }
}

std::size_t NativeFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = repeat_if_interrupted([&] {
      return ::pread(descriptor_of(handle_), out.data() + done,
                     std::min(out.size() - done, kMaxTransfer), static_cast<off_t>(offset + done));
    });
    if (n < 0) fail(path_, "read", errno);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

void NativeFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = repeat_if_interrupted([&] {
      return ::pwrite(descriptor_of(handle_), bytes.data() + done,
                      std::min(bytes.size() - done, kMaxTransfer),
                      static_cast<off_t>(offset + done));
    });
    if (n < 0) fail(path_, "write", errno);
    if (n == 0) fail(path_, "write", ENOSPC);  // a regular file that takes nothing is full
    done += static_cast<std::size_t>(n);
  }
}

void NativeFile::sync() {
  if (repeat_if_interrupted([&] { return ::fsync(descriptor_of(handle_)); }) != 0) {
    fail(path_, "flush", errno);
  }
}

void NativeFile::close() {
  // Not repeated: after EINTR the descriptor is already gone on Linux and may belong to another.
  const int descriptor = descriptor_of(std::exchange(handle_, -1));
  if (::close(descriptor) != 0 && errno != EINTR) fail(path_, "close", errno);
}

std::span<const std::byte> NativeFile::map(uint64_t bytes) const {
  if (bytes > std::numeric_limits<std::size_t>::max()) fail(path_, "map", ENOMEM);
  const auto length = static_cast<std::size_t>(bytes);
  void* const address = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, descriptor_of(handle_), 0);
  if (address == MAP_FAILED) fail(path_, "map", errno);
  return {static_cast<const std::byte*>(address), length};
}

void NativeFile::unmap(std::span<const std::byte> mapping) noexcept {
  ::munmap(const_cast<std::byte*>(mapping.data()), mapping.size());
}

void advise_will_need(std::span<const std::byte> part) noexcept {
  ::madvise(const_cast<std::byte*>(part.data()), part.size(), MADV_WILLNEED);
}

void advise_drop(std::span<const std::byte> part) noexcept {
  ::madvise(const_cast<std::byte*>(part.data()), part.size(), MADV_DONTNEED);
}

std::size_t page_bytes() noexcept {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = open_or_fail(directory, O_RDONLY | O_DIRECTORY, "open");
  const int result = repeat_if_interrupted([&] { return ::fsync(descriptor); });
  const int error = errno;
  ::close(descriptor);
  // Some network file systems have no such operation; they are durable by other means.
  if (result != 0 && error != EINVAL && error != ENOTSUP) fail(directory, "flush", error);
}

}  // namespace jang
