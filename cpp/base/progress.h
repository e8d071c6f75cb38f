// How long work reports itself and how it is stopped: callbacks, always made on the calling
// thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace jang {

/// `done` and `total` are bytes of source weights; `item` is the tensor just finished.
using ProgressCallback = std::function<void(uint64_t done, uint64_t total, std::string_view item)>;

/// Called at least every few hundred milliseconds during long work; throws to stop it.
using CancelCallback = std::function<void()>;

/// A line about how the work goes on that its user wants to read before the end.
using NoticeCallback = std::function<void(std::string_view line)>;

struct JobCallbacks {
  ProgressCallback progress;  // may be empty
  CancelCallback cancel;      // may be empty
  NoticeCallback notice;      // may be empty
};

}  // namespace jang
