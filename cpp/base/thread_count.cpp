// How many threads: the environment if it says so, else what the system lets this process use.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <thread>

#include "base/cpu_quota.h"
#include "base/error.h"
#include "base/thread_pool.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace jang {
namespace {

constexpr int kMaxRequested = 1024;

int parse_requested(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1 ||
      value > kMaxRequested) {
    throw Error(ErrorCode::kArgument, "JANG_NUM_THREADS: expected a number from 1 to " +
                                          std::to_string(kMaxRequested) + ", found '" +
                                          std::string(text) + "'");
  }
  return value;
}

/// CPUs this process may run on, 0 if the system does not tell.
int affinity_count() {
#ifdef __linux__
  // The kernel refuses a mask shorter than its own; machines over 1024 CPUs need a longer one.
  for (int cpus = CPU_SETSIZE; cpus <= (1 << 18); cpus *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(cpus),
                                                               [](cpu_set_t* p) { CPU_FREE(p); });
    if (!set) return 0;
    const std::size_t bytes = CPU_ALLOC_SIZE(cpus);
    if (sched_getaffinity(0, bytes, set.get()) == 0) return CPU_COUNT_S(bytes, set.get());
  }
#endif
  return 0;
}

}  // namespace

ThreadChoice default_thread_count() {
  if (const char* text = std::getenv("JANG_NUM_THREADS"); text != nullptr) {
    return {parse_requested(text), "JANG_NUM_THREADS"};
  }
  ThreadChoice choice;
  if (const int cpus = affinity_count(); cpus > 0) {
    choice = {cpus, "affinity mask: " + std::to_string(cpus)};
  } else {
    choice.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    choice.reason = "hardware threads: " + std::to_string(choice.threads);
  }
  if (const auto quota = cgroup_cpu_quota(); quota && *quota < choice.threads) {
    char text[64];
    std::snprintf(text, sizeof text, "cgroup quota: %.4g", *quota);
    choice = {std::max(1, static_cast<int>(std::floor(*quota))), text};
  }
  choice.threads = std::min(choice.threads, kMaxRequested);
  return choice;
}

}  // namespace jang
