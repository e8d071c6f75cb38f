// The pool: workers wait at a gate, enter the open region, take pieces until none is left.
//
// The gate is one atomic word, so that opening, entering and closing need no lock:
//
//     bits 63..17   generation, a new one for every region
//     bit  16       open: workers may still enter
//     bits 15..0    how many workers are inside
//
// A region's description is written while the gate is closed and nobody is inside, and read only by
// those who entered. The caller takes pieces too; once every piece is taken it closes the gate and
// waits for those inside. A worker that the system wakes late finds the gate closed and costs the
// region nothing. In `split` each thread takes its own piece first, which keeps a thread's rows in
// its cache from one region to the next, and then those that nobody has started.
//
// Waiting spins for some 30 us, because regions of a forward pass follow each other within that
// time, and then sleeps on a condition variable, so that an idle pool burns nothing.
#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace jang {
namespace {

constexpr uint64_t kInsideMask = 0xffff;
constexpr uint64_t kOpen = uint64_t{1} << 16;
constexpr int kGenerationShift = 17;
constexpr auto kSpinTime = std::chrono::microseconds(30);
constexpr int kMaxThreads = 4096;  // far below what the count inside can hold

void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

template <typename Done>
bool spin_until(Done done) {
  const auto limit = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      pause_cpu();
    }
  } while (std::chrono::steady_clock::now() < limit);
  return done();
}

// The pool whose region this thread works in, and its number there: nested calls run inline.
struct Place {
  const void* pool = nullptr;
  int worker = 0;
};
thread_local Place current_place;

class PlaceGuard {
 public:
  PlaceGuard(const void* pool, int worker) : before_(current_place) {
    current_place = Place{pool, worker};
  }
  ~PlaceGuard() { current_place = before_; }
  PlaceGuard(const PlaceGuard&) = delete;
  PlaceGuard& operator=(const PlaceGuard&) = delete;

 private:
  Place before_;
};

}  // namespace

struct ThreadPool::State {
  explicit State(int threads) : count(threads), claimed(static_cast<std::size_t>(threads)) {}

  // One region.
  struct Region {
    const RangeTask* task = nullptr;
    int64_t n = 0;
    int64_t grain = 1;
    int64_t units = 0;  // pieces of one grain
    int64_t parts = 0;  // ranges of `split`; 0 for `share`
    uint64_t generation = 0;
  };

  void worker_loop(int worker);
  bool wait_for_gate(uint64_t& seen);
  void work(int worker);
  void run_piece(int64_t first_unit, int64_t last_unit, int worker);
  bool claim(int64_t part);
  void record(int64_t begin);
  void open_gate();
  void close_gate();
  void leave();
  void stop();

  const int count;
  std::mutex region_mutex;  // one region at a time
  Region region;
  std::atomic<uint64_t> gate{0};
  std::atomic<int64_t> next_unit{0};           // share: the next piece to hand out
  std::vector<std::atomic<uint64_t>> claimed;  // split: generation that last took part i
  std::atomic<bool> failed{false};
  std::mutex failure_mutex;
  std::exception_ptr failure;
  int64_t failure_begin = 0;

  std::mutex sleep_mutex;
  std::condition_variable wake_workers, wake_caller;
  std::atomic<int> sleeping_workers{0};
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stopping{false};
  std::vector<std::thread> workers;
};

void ThreadPool::State::record(int64_t begin) {
  failed.store(true, std::memory_order_relaxed);
  const std::lock_guard lock(failure_mutex);
  // Of several failures the one of the lowest piece is reported, as a single thread would.
  if (failure && failure_begin <= begin) return;
  failure = std::current_exception();
  failure_begin = begin;
}

void ThreadPool::State::run_piece(int64_t first_unit, int64_t last_unit, int worker) {
  const int64_t begin = first_unit * region.grain;
  const int64_t end = last_unit == region.units ? region.n : last_unit * region.grain;
  try {
    (*region.task)(begin, end, worker);
  } catch (...) {
    record(begin);
  }
}

bool ThreadPool::State::claim(int64_t part) {
  auto& mark = claimed[static_cast<std::size_t>(part)];
  uint64_t before = mark.load(std::memory_order_relaxed);
  return before != region.generation &&
         mark.compare_exchange_strong(before, region.generation, std::memory_order_relaxed);
}

void ThreadPool::State::work(int worker) {
  const PlaceGuard place(this, worker);
  const Region& r = region;
  if (r.parts == 0) {
    while (!failed.load(std::memory_order_relaxed)) {
      const int64_t unit = next_unit.fetch_add(1, std::memory_order_relaxed);
      if (unit >= r.units) return;
      run_piece(unit, unit + 1, worker);
    }
    return;
  }
  for (int64_t i = 0; i < r.parts; ++i) {
    const int64_t part = (i + worker) % r.parts;
    if (failed.load(std::memory_order_relaxed)) return;
    if (!claim(part)) continue;
    const int64_t each = r.units / r.parts;
    const int64_t longer = r.units % r.parts;  // the first ones have a unit more
    const int64_t first = part * each + std::min(part, longer);
    run_piece(first, first + each + (part < longer ? 1 : 0), worker);
  }
}

// Two orders that must not cross (all sequentially consistent): here the gate is opened and then
// the sleepers are counted, a worker counts itself and then looks at the gate. One of them sees the
// other. So between close_gate and leave. The writes are exchanges because emulators of Arm on x86
// let a load pass a plain store before it; on x86 itself both are the same instruction.
void ThreadPool::State::open_gate() {
  gate.exchange((region.generation << kGenerationShift) | kOpen);
  if (sleeping_workers.load() == 0) return;
  { const std::lock_guard lock(sleep_mutex); }
  wake_workers.notify_all();
}

void ThreadPool::State::close_gate() {
  uint64_t inside = gate.fetch_and(~kOpen) & kInsideMask;
  if (inside == 0) return;
  const auto empty = [this] { return (gate.load() & kInsideMask) == 0; };
  if (spin_until(empty)) return;
  std::unique_lock lock(sleep_mutex);
  caller_sleeps.exchange(true);
  wake_caller.wait(lock, empty);
  caller_sleeps.store(false);
}

void ThreadPool::State::leave() {
  const uint64_t before = gate.fetch_sub(1);
  if ((before & kInsideMask) != 1 || (before & kOpen) != 0) return;
  if (!caller_sleeps.load()) return;
  { const std::lock_guard lock(sleep_mutex); }
  wake_caller.notify_one();
}

bool ThreadPool::State::wait_for_gate(uint64_t& seen) {
  const auto ready = [&] { return (gate.load() >> kGenerationShift) != seen || stopping.load(); };
  if (!spin_until(ready)) {
    std::unique_lock lock(sleep_mutex);
    sleeping_workers.fetch_add(1);
    wake_workers.wait(lock, ready);
    sleeping_workers.fetch_sub(1);
  }
  return !stopping.load();
}

void ThreadPool::State::worker_loop(int worker) {
  uint64_t seen = 0;
  while (wait_for_gate(seen)) {
    uint64_t now = gate.load();
    while ((now & kOpen) != 0) {
      if (!gate.compare_exchange_weak(now, now + 1)) continue;
      work(worker);
      leave();
      break;
    }
    seen = now >> kGenerationShift;
  }
}

void ThreadPool::State::stop() {
  stopping.store(true);
  { const std::lock_guard lock(sleep_mutex); }
  wake_workers.notify_all();
  for (std::thread& worker : workers) worker.join();
}

ThreadPool::ThreadPool(int threads) {
  if (threads < 1 || threads > kMaxThreads) {
    throw Error(ErrorCode::kArgument, "threads: expected 1 to " + std::to_string(kMaxThreads) +
                                          ", found " + std::to_string(threads));
  }
  state_ = std::make_unique<State>(threads);
  try {
    for (int i = 1; i < threads; ++i) {
      state_->workers.emplace_back([state = state_.get(), i] { state->worker_loop(i); });
    }
  } catch (const std::system_error& e) {
    const std::string found = std::to_string(state_->workers.size() + 1);
    state_->stop();
    throw Error(ErrorCode::kIo, "cannot start thread " + found + " of " + std::to_string(threads) +
                                    ": " + e.code().message());
  }
}

ThreadPool::~ThreadPool() { state_->stop(); }

int ThreadPool::size() const noexcept { return state_->count; }

void ThreadPool::run(int64_t n, int64_t grain, RangeTask task, bool dynamic) {
  JANG_ASSERT(grain >= 1);
  if (n <= 0) return;
  State& s = *state_;
  const int64_t units = n / grain + (n % grain != 0 ? 1 : 0);
  const bool nested = current_place.pool == &s;
  if (nested || s.count == 1 || units == 1) {
    // Inline under this thread's own number, so that scratch per worker stays apart.
    std::unique_lock<std::mutex> lock;
    if (!nested) lock = std::unique_lock(s.region_mutex);
    const PlaceGuard place(&s, nested ? current_place.worker : 0);
    const int64_t step = dynamic ? grain : n;
    for (int64_t begin = 0; begin < n; begin += std::min(step, n - begin)) {
      task(begin, begin + std::min(step, n - begin), current_place.worker);
    }
    return;
  }
  const std::lock_guard one_region(s.region_mutex);
  const int64_t parts = dynamic ? 0 : std::min<int64_t>(s.count, units);
  s.region = State::Region{&task, n, grain, units, parts, s.region.generation + 1};
  s.next_unit.store(0, std::memory_order_relaxed);
  s.failed.store(false, std::memory_order_relaxed);
  s.failure = nullptr;
  s.open_gate();
  s.work(0);
  s.close_gate();
  if (s.failure) std::rethrow_exception(std::exchange(s.failure, nullptr));
}

}  // namespace jang
