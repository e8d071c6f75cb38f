// The writer: golden bytes, the order of payloads, round trips through the reader, a full disk.
#include "io/safetensors_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/checked_math.h"
#include "io/checkpoint.h"
#include "io/checksum.h"
#include "io/safetensors_header.h"
#include "test_directory.h"

namespace jang {
namespace {

using testing_io::bytes_of;
using testing_io::expect_error;
using testing_io::TestDirectory;

std::vector<OutputTensor> small_set() {
  return {{"tiny", DType::kF16, {3}},        {"norm", DType::kF32, {5}},
          {"w.weight", DType::kU32, {2, 8}}, {"a.weight", DType::kU8, {128}},
          {"bytes", DType::kU8, {3}},        {"alpha", DType::kF32, {1}}};
}

TEST(Layout, GoldenBytes) {
  const SafetensorsLayout layout = layout_safetensors(small_set());
  const std::string json = R"({"__metadata__":{"format":"mlx"},)"
                           R"("a.weight":{"dtype":"U8","shape":[128],"data_offsets":[0,128]},)"
                           R"("w.weight":{"dtype":"U32","shape":[2,8],"data_offsets":[128,192]},)"
                           R"("alpha":{"dtype":"F32","shape":[1],"data_offsets":[192,196]},)"
                           R"("norm":{"dtype":"F32","shape":[5],"data_offsets":[196,216]},)"
                           R"("tiny":{"dtype":"F16","shape":[3],"data_offsets":[216,222]},)"
                           R"("bytes":{"dtype":"U8","shape":[3],"data_offsets":[222,225]}})";
  ASSERT_EQ(json.size(), 403u);
  // 8 + 403 = 411 is padded to 448, so N = 440 = 0x01b8.
  const std::string expected = std::string("\xb8\x01\0\0\0\0\0\0", 8) + json + std::string(37, ' ');
  EXPECT_EQ(layout.header, expected);
  EXPECT_EQ(layout.begins, (std::vector<uint64_t>{448, 576, 640, 644, 664, 670}));
  EXPECT_EQ(layout.file_bytes, 673u);
}

TEST(Layout, NoTensors) {
  const SafetensorsLayout layout = layout_safetensors({});
  EXPECT_EQ(layout.header.size() % 64, 0u);
  EXPECT_EQ(layout.file_bytes, layout.header.size());
  EXPECT_EQ(layout.header.substr(8, 34), R"({"__metadata__":{"format":"mlx"}} )");
}

TEST(Layout, OrderOfTheInputDoesNotMatter) {
  auto tensors = small_set();
  const std::string header = layout_safetensors(tensors).header;
  std::mt19937 random(1);
  for (int i = 0; i < 20; ++i) {
    std::shuffle(tensors.begin(), tensors.end(), random);
    EXPECT_EQ(layout_safetensors(tensors).header, header);
  }
}

TEST(Layout, PayloadsAreAlignedAndReadable) {
  std::mt19937 random(2);
  const std::vector<DType> types{DType::kU8,  DType::kF16, DType::kBF16,
                                 DType::kF32, DType::kU32, DType::kI64};
  for (int round = 0; round < 200; ++round) {
    std::vector<OutputTensor> tensors;
    for (std::size_t i = 0; i < 1 + random() % 12; ++i) {
      OutputTensor tensor{"t" + std::to_string(i), types[random() % types.size()], {}};
      for (std::size_t d = 0; d < random() % 4; ++d) tensor.shape.push_back(random() % 40);
      tensors.push_back(tensor);
    }
    const SafetensorsLayout layout = layout_safetensors(tensors);
    const SafetensorsHeader header =
        parse_safetensors_header(bytes_of(layout.header), layout.file_bytes, "f");
    EXPECT_EQ(header.file_bytes, layout.file_bytes);
    EXPECT_EQ(header.metadata.at("format"), "mlx");
    ASSERT_EQ(header.tensors.size(), tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const OutputTensor& tensor = layout.tensors[i];
      const uint64_t alignment =
          tensor.bytes() % 64 == 0 ? 64 : static_cast<uint64_t>(dtype_size(tensor.dtype));
      EXPECT_EQ(layout.begins[i] % alignment, 0u);
    }
    for (const TensorInfo& info : header.tensors) {
      std::size_t i = 0;
      while (layout.tensors[i].name != info.name) ++i;
      EXPECT_EQ(info.shape, layout.tensors[i].shape);
      EXPECT_EQ(info.dtype, layout.tensors[i].dtype);
      EXPECT_EQ(info.begin, layout.begins[i]);
    }
  }
}

TEST(Layout, NamesAreEscaped) {
  const std::string name = "q\"\\\n\xc3\xbc";
  const SafetensorsLayout layout = layout_safetensors({{name, DType::kU8, {1}}});
  const auto header = parse_safetensors_header(bytes_of(layout.header), layout.file_bytes, "f");
  EXPECT_EQ(header.tensors[0].name, name);
}

TEST(Layout, RefusesWhatAReaderWouldRefuse) {
  const auto refused = [](std::vector<OutputTensor> tensors, ErrorCode code,
                          const std::string& tensor) {
    expect_error([&] { layout_safetensors(std::move(tensors)); }, code, "", tensor);
  };
  refused({{"a", DType::kF32, {1}}, {"b", DType::kU8, {64}}, {"a", DType::kU8, {64}}},
          ErrorCode::kDuplicateName, "a");
  refused({{"a", DType::kF32, {uint64_t{1} << 62, 2}}}, ErrorCode::kShapeOverflow, "a");
  refused({{"a", DType::kU8, {uint64_t{1} << 63}}, {"b", DType::kU8, {uint64_t{1} << 63}}},
          ErrorCode::kShapeOverflow, "b");
  refused({{"a", DType::kF32, {1, 1, 1, 1, 1, 1, 1, 1, 1}}}, ErrorCode::kHeaderCap, "a");
  refused({{"", DType::kF32, {}}}, ErrorCode::kHeaderCap, "");
  refused({{"__metadata__", DType::kF32, {}}}, ErrorCode::kHeaderCap, "__metadata__");
  refused({{"\xff", DType::kF32, {}}}, ErrorCode::kHeaderEncoding, "\\xff");
}

class WriterTest : public TestDirectory {};

TEST_F(WriterTest, RoundTripInPiecesFromSeveralThreads) {
  const auto path = path_ / "model.safetensors";
  SafetensorsWriter writer(path, layout_safetensors(small_set()));
  std::vector<std::string> contents;
  std::mt19937 random(3);
  for (const OutputTensor& tensor : writer.layout().tensors) {
    std::string content(static_cast<std::size_t>(tensor.bytes()), '\0');
    for (char& c : content) c = static_cast<char>(random());
    contents.push_back(content);
  }
  std::vector<std::thread> threads;
  for (std::size_t half = 0; half < 2; ++half) {
    threads.emplace_back([&, half] {
      for (std::size_t i = 0; i < contents.size(); ++i) {
        const std::size_t middle = contents[i].size() / 2;
        const auto bytes = bytes_of(contents[i]);
        const auto piece = half == 0 ? bytes.first(middle) : bytes.subspan(middle);
        writer.write(i, half == 0 ? 0 : middle, piece);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  writer.finish();
  const Checkpoint checkpoint = Checkpoint::open(path_);
  for (std::size_t i = 0; i < contents.size(); ++i) {
    const auto* tensor = checkpoint.find(writer.layout().tensors[i].name);
    ASSERT_NE(tensor, nullptr);
    const auto data = checkpoint.data(*tensor);
    ASSERT_EQ(data.size(), contents[i].size());
    EXPECT_EQ(std::memcmp(data.data(), contents[i].data(), data.size()), 0);
  }
}

TEST_F(WriterTest, HasItsFullSizeFromTheStart) {
  SafetensorsWriter writer(path_ / "f", layout_safetensors(small_set()));
  EXPECT_EQ(std::filesystem::file_size(path_ / "f"), writer.layout().file_bytes);
}

TEST_F(WriterTest, NeverOverwrites) {
  put("f", "precious");
  expect_error([&] { SafetensorsWriter(path_ / "f", layout_safetensors(small_set())); },
               ErrorCode::kIo, "f", "");
  expect_error([&] { write_file(path_ / "f", "x"); }, ErrorCode::kIo, "f", "");
  EXPECT_EQ(get("f"), "precious");
  std::filesystem::create_symlink("elsewhere", path_ / "link");
  expect_error([&] { write_file(path_ / "link", "x"); }, ErrorCode::kIo, "link", "");
  EXPECT_FALSE(std::filesystem::exists(path_ / "elsewhere"));
}

TEST_F(WriterTest, NoSuchDirectory) {
  expect_error([&] { write_file(path_ / "absent" / "f", "x"); }, ErrorCode::kIo, "absent/f", "");
  expect_error([&] { sync_directory(path_ / "absent"); }, ErrorCode::kIo, "absent", "");
  EXPECT_NO_THROW(sync_directory(path_));
}

#ifdef __linux__
TEST_F(WriterTest, AFullDiskIsNoSpace) {
  // A memory file system compares the size with its own before it reserves a page.
  const std::filesystem::path memory = "/dev/shm";
  std::error_code error;
  if (!std::filesystem::is_directory(memory, error)) GTEST_SKIP() << "no " << memory;
  const auto path = memory / path_.filename();
  const uint64_t bytes = uint64_t{1} << 50;
  expect_error(
      [&] {
        SafetensorsWriter(path, layout_safetensors({{"a", DType::kU8, {bytes}}}));
      },
      ErrorCode::kNoSpace, path.string(), "");
  std::filesystem::remove(path);
}
#endif

TEST_F(WriterTest, SmallFiles) {
  write_file(path_ / "f", "text");
  EXPECT_EQ(read_file(path_ / "f"), "text");
  write_file(path_ / "empty", "");
  EXPECT_EQ(read_file(path_ / "empty"), "");
  expect_error([&] { read_file(path_ / "f", 3); }, ErrorCode::kConfigSyntax, "f", "");
  expect_error([&] { read_file(path_ / "absent"); }, ErrorCode::kIo, "absent", "");
  expect_error([&] { read_file(path_); }, ErrorCode::kIo, path_.filename().string(), "");
}

TEST(Checksum, KnownValues) {
  EXPECT_EQ(crc32_text(crc32_of(bytes_of("123456789"))),
            "cbf43926");  // the catalogue's check value
  EXPECT_EQ(crc32_text(crc32_of({})), "00000000");
  EXPECT_EQ(crc32_of(bytes_of("6789"), crc32_of(bytes_of("12345"))),
            crc32_of(bytes_of("123456789")));
}

TEST(Checksum, JoinsPieces) {
  std::string text(10'000, '\0');
  std::mt19937 random(4);
  for (char& c : text) c = static_cast<char>(random());
  for (const std::size_t cut : {0u, 1u, 5000u, 9999u, 10'000u}) {
    const auto bytes = bytes_of(text);
    EXPECT_EQ(
        crc32_join(crc32_of(bytes.first(cut)), crc32_of(bytes.subspan(cut)), text.size() - cut),
        crc32_of(bytes));
  }
}

TEST(Checksum, JoinsPastFourGibibytes) {
  // Zeros joined to themselves: 2^33 bytes by doubling and in one step must agree.
  const std::string block(1 << 20, '\0');
  uint32_t crc = crc32_of(bytes_of(block));
  uint64_t length = block.size();
  while (length < uint64_t{1} << 32) {
    crc = crc32_join(crc, crc, length);
    length *= 2;
  }
  const uint32_t tail = crc32_of(bytes_of("tail"));
  // tail, then 2^32 zeros in one step; against four steps of 2^30.
  uint32_t stepwise = tail;
  uint32_t quarter = crc32_of(bytes_of(block));
  uint64_t quarter_length = block.size();
  while (quarter_length < uint64_t{1} << 30) {
    quarter = crc32_join(quarter, quarter, quarter_length);
    quarter_length *= 2;
  }
  for (int i = 0; i < 4; ++i) stepwise = crc32_join(stepwise, quarter, uint64_t{1} << 30);
  EXPECT_EQ(crc32_join(tail, crc, uint64_t{1} << 32), stepwise);
}

}  // namespace
}  // namespace jang
