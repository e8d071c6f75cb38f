// The pool: every element exactly once, worker numbers apart, exceptions, nesting, idling.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace jang {
namespace {

std::vector<int> visits(ThreadPool& pool, int64_t n, int64_t grain, bool dynamic) {
  std::vector<int> seen(static_cast<std::size_t>(n));
  std::atomic<bool> good{true};
  const auto task = [&](int64_t begin, int64_t end, int worker) {
    const bool whole = end == n || (end - begin) % grain == 0;
    if (begin % grain != 0 || !whole || begin >= end || worker < 0 || worker >= pool.size()) {
      good = false;
    }
    if (dynamic && end - begin > grain) good = false;
    for (int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
  };
  if (dynamic) {
    pool.share(n, grain, task);
  } else {
    pool.split(n, grain, task);
  }
  EXPECT_TRUE(good) << "n " << n << " grain " << grain;
  return seen;
}

class PoolOfSize : public testing::TestWithParam<int> {};

TEST_P(PoolOfSize, VisitsEveryElementOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.size(), GetParam());
  for (const int64_t n : {0, 1, 2, 3, 5, 7, 16, 17, 63, 64, 65, 1000, 1001}) {
    for (const int64_t grain : {1, 2, 3, 8, 64, 2000}) {
      for (const bool dynamic : {false, true}) {
        const auto seen = visits(pool, n, grain, dynamic);
        EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), n) << "n " << n << " grain " << grain;
      }
    }
  }
}

TEST_P(PoolOfSize, ManySmallRegions) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> out(64);
  for (int round = 0; round < 3000; ++round) {
    pool.split(64, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) out[static_cast<std::size_t>(i)] += i;
    });
  }
  for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(out[static_cast<std::size_t>(i)], 3000 * i);
}

TEST_P(PoolOfSize, WorkerNumbersTellConcurrentPiecesApart) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> inside(static_cast<std::size_t>(GetParam()));
  std::atomic<bool> clash{false};
  pool.share(500, 1, [&](int64_t, int64_t, int worker) {
    if (inside[static_cast<std::size_t>(worker)].fetch_add(1) != 0) clash = true;
    std::this_thread::yield();
    inside[static_cast<std::size_t>(worker)].fetch_sub(1);
  });
  EXPECT_FALSE(clash);
}

TEST_P(PoolOfSize, RethrowsAndGoesOn) {
  ThreadPool pool(GetParam());
  for (const bool dynamic : {false, true}) {
    for (int round = 0; round < 50; ++round) {
      const auto task = [](int64_t begin, int64_t end, int) {
        if (begin <= 20 && 20 < end) throw std::runtime_error("at 20");
      };
      const auto region = [&] { dynamic ? pool.share(100, 3, task) : pool.split(100, 3, task); };
      EXPECT_THROW(region(), std::runtime_error);
      const auto seen = visits(pool, 100, 3, dynamic);
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), 100);
    }
  }
}

TEST_P(PoolOfSize, ReportsTheLowestOfSeveralFailures) {
  ThreadPool pool(GetParam());
  std::atomic<int> waiting{0};
  const int threads = GetParam();
  try {
    // Every piece waits until all have started, so that all of them throw.
    pool.split(threads, 1, [&](int64_t begin, int64_t, int) {
      waiting.fetch_add(1);
      const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (threads > 1 && waiting.load() < threads && std::chrono::steady_clock::now() < limit) {
        std::this_thread::yield();
      }
      throw std::runtime_error(std::to_string(begin));
    });
    FAIL() << "no exception";
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "0");
  }
}

TEST_P(PoolOfSize, NestedCallsRunInline) {
  ThreadPool pool(GetParam());
  std::vector<int> seen(60);
  std::atomic<bool> moved{false};
  pool.share(6, 1, [&](int64_t outer, int64_t, int worker) {
    const auto here = std::this_thread::get_id();
    pool.split(10, 1, [&](int64_t begin, int64_t end, int inner_worker) {
      if (std::this_thread::get_id() != here || inner_worker != worker) moved = true;
      for (int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(outer * 10 + i)];
    });
  });
  EXPECT_FALSE(moved);
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), 60);
}

TEST_P(PoolOfSize, NestedExceptionComesOut) {
  ThreadPool pool(GetParam());
  EXPECT_THROW(pool.split(8, 1,
                          [&](int64_t, int64_t, int) {
                            pool.split(4, 1, [](int64_t begin, int64_t, int) {
                              if (begin == 0) throw std::logic_error("inner");
                            });
                          }),
               std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Threads, PoolOfSize, testing::Values(1, 2, 3, 4, 7, 16));

TEST(ThreadPool, CallersFromSeveralThreadsTakeTurns) {
  constexpr std::size_t kCallers = 4;
  ThreadPool pool(3);
  std::array<std::atomic<int>, kCallers> inside{};  // pieces that run now, by caller
  std::atomic<bool> overlap{false};
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (std::size_t c = 0; c < kCallers; ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 100; ++round) {
        pool.split(30, 1, [&](int64_t begin, int64_t end, int) {
          inside[c].fetch_add(1);
          std::this_thread::yield();
          for (std::size_t other = 0; other < kCallers; ++other) {
            if (other != c && inside[other].load() != 0) overlap = true;
          }
          inside[c].fetch_sub(1);
          sum += end - begin;
        });
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_FALSE(overlap);
  EXPECT_EQ(sum, static_cast<int64_t>(kCallers) * 100 * 30);
}

TEST(ThreadPool, MoreThreadsThanPiecesAndHugeRanges) {
  ThreadPool pool(8);
  std::atomic<int> calls{0};
  pool.split(2, 1, [&](int64_t, int64_t, int) { ++calls; });
  EXPECT_EQ(calls, 2);
  std::atomic<int64_t> covered{0};
  const int64_t huge = INT64_MAX - 1;
  pool.split(huge, 1000, [&](int64_t begin, int64_t end, int) { covered += end - begin; });
  EXPECT_EQ(covered, huge);
}

#ifdef __linux__
/// How many threads of this process are running or ready to run.
int runnable_threads() {
  int runnable = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream in(entry.path() / "stat");
    const std::string stat(std::istreambuf_iterator<char>(in), {});
    const std::size_t name_end = stat.rfind(')');  // the name may hold anything
    if (name_end != std::string::npos && stat.compare(name_end + 2, 1, "R") == 0) ++runnable;
  }
  return runnable;
}

TEST(ThreadPool, IdleWorkersSleep) {
  ThreadPool pool(4);
  pool.split(4, 1, [](int64_t, int64_t, int) {});
  // Workers spin for a moment and then block: at some point only this thread is left running. Ones
  // that never stopped spinning would be seen running until the limit.
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  int runnable = runnable_threads();
  while (runnable > 1 && std::chrono::steady_clock::now() < limit) runnable = runnable_threads();
  EXPECT_EQ(runnable, 1);
}
#endif

TEST(ThreadPool, RefusesUnusableSizes) {
  for (const int threads : {0, -1, 1 << 20}) {
    try {
      ThreadPool pool(threads);
      FAIL() << threads;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kArgument);
    }
  }
}

class ThreadCountVariable : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv("JANG_NUM_THREADS")) {
      before_ = std::make_unique<std::string>(value);
    }
  }
  void TearDown() override {
    if (before_) {
      setenv("JANG_NUM_THREADS", before_->c_str(), 1);
    } else {
      unsetenv("JANG_NUM_THREADS");
    }
  }
  std::unique_ptr<std::string> before_;
};

TEST_F(ThreadCountVariable, IsTakenLiterally) {
  setenv("JANG_NUM_THREADS", "3", 1);
  EXPECT_EQ(default_thread_count().threads, 3);
  EXPECT_EQ(default_thread_count().reason, "JANG_NUM_THREADS");
}

TEST_F(ThreadCountVariable, UnusableValuesAreErrors) {
  for (const char* value : {"", "0", "-1", "two", "2x", " 2", "2.5", "+2", "99999999999", "1025"}) {
    setenv("JANG_NUM_THREADS", value, 1);
    try {
      default_thread_count();
      FAIL() << value;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kArgument);
      EXPECT_NE(e.message().find("JANG_NUM_THREADS"), std::string::npos);
    }
  }
}

TEST_F(ThreadCountVariable, WithoutItTheSystemDecides) {
  unsetenv("JANG_NUM_THREADS");
  const ThreadChoice choice = default_thread_count();
  EXPECT_GE(choice.threads, 1);
  EXPECT_LE(choice.threads, 1024);
  EXPECT_NE(choice.reason, "");
}

}  // namespace
}  // namespace jang
