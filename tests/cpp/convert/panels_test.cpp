// Panels cover every element once, in order, whatever the shape, and lead to the right bytes.
#include "convert/panels.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "base/error.h"
#include "convert/source_model.h"

namespace jang {
namespace {

TEST(Panels, CoverEveryElementOnceInOrder) {
  const std::pair<uint64_t, uint64_t> shapes[] = {
      {1, 1},
      {3, 32},
      {1000, 96},
      {7, 1 << 19},
      {5, 1 << 20},
      {2, (1 << 20) + 96},
      {1, 3 * (1 << 20) + 7},
      {4097, 4096},
  };
  for (const uint64_t size : {uint64_t{2}, uint64_t{4}}) {
    for (const auto& [rows, columns] : shapes) {
      std::vector<Panel> panels;
      cut_panels(9, rows, columns, size, panels);
      uint64_t next = 0, bytes = 0;
      for (const Panel& panel : panels) {
        EXPECT_EQ(panel.tensor, 9u);
        EXPECT_EQ(panel.row * columns + panel.column, next);
        EXPECT_TRUE(panel.columns == columns || panel.rows == 1);
        // A cut row may be quantized only if its pieces hold whole groups.
        EXPECT_EQ(panel.column % 128, 0u);
        EXPECT_LE(panel.bytes, kPanelBytes);
        next += panel.rows * panel.columns;
        bytes += panel.bytes;
      }
      EXPECT_EQ(next, rows * columns);
      EXPECT_EQ(bytes, rows * columns * size);
    }
  }
}

TEST(Panels, EmptyTensorsHaveNone) {
  std::vector<Panel> panels;
  cut_panels(0, 0, 64, 2, panels);
  cut_panels(0, 64, 0, 2, panels);
  EXPECT_TRUE(panels.empty());
}

FinalTensor stack_of_three() {
  FinalTensor tensor;
  tensor.name = "stack.weight";
  tensor.shape = {3, 2, 32};
  tensor.ranges = {{7, 0, 2}, {5, 10, 1}, {6, 3, 3}};
  return tensor;
}

TEST(Panels, RowsAreFoundThroughRanges) {
  const FinalTensor tensor = stack_of_three();
  EXPECT_EQ(locate_row(tensor, 1).tensor, 7u);
  EXPECT_EQ(locate_row(tensor, 1).row, 1u);
  EXPECT_EQ(locate_row(tensor, 1).available, 1u);
  EXPECT_EQ(locate_row(tensor, 2).tensor, 5u);
  EXPECT_EQ(locate_row(tensor, 2).row, 10u);
  EXPECT_EQ(locate_row(tensor, 3).tensor, 6u);
  EXPECT_EQ(locate_row(tensor, 5).row, 5u);
  EXPECT_THROW(locate_row(tensor, 6), Error);
}

TEST(Panels, PiecesOfAStackAreJoined) {
  SourceModel model;
  model.shapes = {{"a", {4, 32}}, {"b", {3, 32}}};
  model.dtype = DType::kF32;
  for (const auto& [name, shape] : model.shapes) {
    for (uint64_t i = 0; i < shape[0] * shape[1]; ++i) {
      model.values[name].push_back(static_cast<float>(i) + (name == "b" ? 1000.f : 0.f));
    }
  }
  const TemporaryDirectory directory;
  model.write(directory / "source");
  const Checkpoint checkpoint = Checkpoint::open(directory / "source");
  FinalTensor tensor;
  tensor.name = "joined";
  tensor.dtype = DType::kF32;
  tensor.shape = {5, 32};
  tensor.ranges = {{1, 1, 2}, {0, 0, 3}};  // rows 1, 2 of b, rows 0..2 of a
  AlignedBuffer<std::byte> scratch;
  const auto value = [](const SourcePanel& panel, uint64_t index) {
    float f = 0;
    std::memcpy(&f, panel.data + index * sizeof f, sizeof f);
    return f;
  };
  const SourcePanel all = read_panel(checkpoint, tensor, {0, 0, 5, 0, 32, 5 * 32 * 4}, scratch);
  EXPECT_EQ(value(all, 0), 1032.f);
  EXPECT_EQ(value(all, 63), 1095.f);
  EXPECT_EQ(value(all, 64), 0.f);
  EXPECT_EQ(value(all, 159), 95.f);
  const SourcePanel inside = read_panel(checkpoint, tensor, {0, 3, 2, 0, 32, 2 * 32 * 4}, scratch);
  EXPECT_EQ(value(inside, 0), 32.f);
  EXPECT_NE(inside.data, scratch.data());  // one piece is a view
}

TEST(Panels, CallbacksComeOnTheCallingThreadAndStopTheJob) {
  const std::vector<Panel> panels(200, Panel{0, 0, 1, 0, 1, 10});
  ThreadPool pool(3);
  const auto caller = std::this_thread::get_id();
  std::atomic<int> ran = 0;
  int calls = 0;
  JobProgress progress{{}, 2000};
  progress.callbacks.progress = [&](uint64_t done, uint64_t total, std::string_view item) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_LE(done, total);
    EXPECT_EQ(item, "name");
    ++calls;
  };
  const auto name = [](uint32_t) -> std::string_view { return "name"; };
  std::atomic<bool> caller_ran = false;
  for_each_panel(pool, panels, progress, name, [&](std::size_t, int worker) {
    if (worker == 0) caller_ran = true;
    // Or the others could be done before the caller has begun.
    while (!caller_ran) std::this_thread::yield();
    ++ran;
  });
  EXPECT_EQ(ran, 200);
  EXPECT_GE(calls, 1);
  EXPECT_EQ(progress.done, 2000u);

  ran = 0;
  JobProgress stopped{{}, 2000};
  stopped.callbacks.cancel = [&] { throw std::runtime_error("stop"); };
  ThreadPool alone(1);
  EXPECT_THROW(for_each_panel(alone, panels, stopped, name, [&](std::size_t, int) { ++ran; }),
               std::runtime_error);
  EXPECT_EQ(ran, 1);
}

}  // namespace
}  // namespace jang
