// A temporary directory for one test, and weight files built from their header's text.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace jang::testing_io {

/// 8 length bytes, the header's text, `payload` zero bytes.
inline std::string weight_file(std::string_view header, std::size_t payload = 0) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) {
    file[i] = static_cast<char>(static_cast<unsigned char>(uint64_t{header.size()} >> (8 * i)));
  }
  return file.append(header).append(payload, '\0');
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// Expects an Error of this code that names this file and tensor; returns its message.
inline std::string expect_error(const std::function<void()>& action, ErrorCode code,
                                std::string_view file, std::string_view tensor) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(code_name(e.code()), code_name(code)) << e.what();
    EXPECT_TRUE(std::string_view(e.file()).ends_with(file)) << e.what();
    EXPECT_EQ(e.file().empty(), file.empty()) << e.what();
    EXPECT_EQ(e.tensor(), tensor) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    return e.message();
  }
  ADD_FAILURE() << "expected " << code_name(code) << ", nothing was thrown";
  return {};
}

class TestDirectory : public testing::Test {
 protected:
  TestDirectory() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() / ("jang_" + std::to_string(getpid()) + "_" +
                                                      info->test_suite_name() + "_" + info->name());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TestDirectory() override { std::filesystem::remove_all(path_); }

  std::filesystem::path put(const std::string& name, std::string_view content) const {
    const auto file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
    return file;
  }
  std::string get(const std::string& name) const {
    std::ifstream in(path_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  std::filesystem::path path_;
};

}  // namespace jang::testing_io
