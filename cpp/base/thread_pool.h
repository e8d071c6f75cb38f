// The only place that starts threads. A fixed pool; the calling thread works too.
//
// Work is split over outputs, never over a sum, so no result depends on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace jang {

/// A non-owning reference to a callable, so that a region costs no allocation.
class RangeTask {
 public:
  template <typename F>
  RangeTask(F& f)  // NOLINT(google-explicit-constructor): lives only for the call
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* object, int64_t begin, int64_t end, int worker) {
          (*static_cast<F*>(object))(begin, end, worker);
        }) {}
  void operator()(int64_t begin, int64_t end, int worker) const {
    call_(object_, begin, end, worker);
  }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int64_t, int);
};

class ThreadPool {
 public:
  /// `threads` >= 1 counts the caller.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const noexcept;

  /// Calls task(begin, end, worker) over contiguous pieces of [0, n), each a multiple of `grain`
  /// long but for the last; worker < size() tells pieces that run at the same time apart. One
  /// contiguous range per thread, for work of even cost; a thread that is done takes over the range
  /// of one that has not started, so a worker may be called twice. After an exception no further
  /// piece starts, and that of the lowest piece is rethrown here once all that run have ended. A
  /// call from inside a region of the same pool runs inline, under the caller's worker number.
  template <typename F>
  void split(int64_t n, int64_t grain, F&& f) {
    run(n, grain, RangeTask(f), false);
  }

  /// As `split`, but pieces of exactly `grain` are handed out one at a time: for uneven work.
  template <typename F>
  void share(int64_t n, int64_t grain, F&& f) {
    run(n, grain, RangeTask(f), true);
  }

 private:
  void run(int64_t n, int64_t grain, RangeTask task, bool dynamic);
  struct State;
  std::unique_ptr<State> state_;
};

/// How many threads to use and why, for `jang env`.
struct ThreadChoice {
  int threads = 1;
  std::string reason;  // "JANG_NUM_THREADS", "affinity mask: 2", "cgroup quota: 1.5"
};

/// JANG_NUM_THREADS if set (an unusable value is an error), else the smaller of affinity mask and
/// cgroup quota rounded down, at least 1.
ThreadChoice default_thread_count();

}  // namespace jang
