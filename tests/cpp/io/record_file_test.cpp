// Record files: round trips, that an unfinished one changes nothing, and every kind of damage.
#include "io/record_file.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "test_directory.h"

namespace jang {
namespace {

using testing_io::bytes_of;

class RecordFileTest : public testing_io::TestDirectory {
 protected:
  std::filesystem::path file() const { return path_ / "state"; }
  void write(const std::string& payload, const Json& record) const {
    RecordFileWriter writer(file());
    writer.append(bytes_of(payload));
    writer.commit(record);
  }
  void expect_damage(const std::string& content) const {
    put("state", content);
    EXPECT_THROW((void)RecordFile::open(file(), {}), Error);
  }
};

TEST_F(RecordFileTest, GivesBackWhatWasWritten) {
  const std::string payload(5'000'011, 'x');  // several pieces
  const Json record = Json::Object{{"name", "value"}, {"third", 1.0 / 3.0}, {"count", 7}};
  {
    RecordFileWriter writer(file());
    writer.append(bytes_of(payload).first(17));
    writer.append(bytes_of(payload).subspan(17));
    writer.commit(record);
  }
  int polls = 0;
  const RecordFile found = RecordFile::open(file(), [&] { ++polls; });
  EXPECT_GE(polls, 2);
  EXPECT_EQ(found.record(), record);
  ASSERT_EQ(found.payload_bytes(), payload.size());
  std::string part(23, '\0');
  found.read(payload.size() - part.size(), std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(part, std::string(23, 'x'));
  EXPECT_FALSE(std::filesystem::exists(RecordFileWriter::unfinished(file())));
}

TEST_F(RecordFileTest, APayloadMayBeEmpty) {
  write("", Json::Object{});
  EXPECT_EQ(RecordFile::open(file(), {}).payload_bytes(), 0u);
}

TEST_F(RecordFileTest, TheFormerFileStaysUntilTheNextIsWhole) {
  write("former", Json::Object{{"n", 1}});
  {
    RecordFileWriter next(file());
    next.append(bytes_of("next"));
    EXPECT_EQ(RecordFile::open(file(), {}).payload_bytes(), 6u);
  }
  EXPECT_FALSE(std::filesystem::exists(RecordFileWriter::unfinished(file())));
  put("state.new", "of a writer that was killed");
  write("next", Json::Object{{"n", 2}});
  EXPECT_EQ(RecordFile::open(file(), {}).payload_bytes(), 4u);
}

TEST_F(RecordFileTest, NoDamagedByteGoesUnnoticed) {
  write("some payload", Json::Object{{"key", "value"}});
  const std::string whole = get("state");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x20);
    expect_damage(damaged);
    if (i % 7 == 0 || i + 1 == whole.size()) expect_damage(whole.substr(0, i));
  }
  expect_damage(whole + " ");
  put("state", whole);
  EXPECT_EQ(RecordFile::open(file(), {}).payload_bytes(), 12u);
}

TEST_F(RecordFileTest, SizesThatLieAllocateNothing) {
  write("", Json::Object{});
  std::string lying = get("state");
  for (std::size_t i = 8; i < 16; ++i) lying[i] = '\xff';
  testing_io::expect_error(
      [&] {
        expect_damage(lying);
        (void)RecordFile::open(file(), {});
      },
      ErrorCode::kChecksum, "state", "");
}

}  // namespace
}  // namespace jang
