// Values gathered from a written checkpoint against where each of them is said to lie.
#include "arch/source_values.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/float16.h"
#include "io/safetensors_writer.h"
#include "io/test_directory.h"

namespace jang {
namespace {

using SourceValuesTest = testing_io::TestDirectory;

constexpr uint64_t kHeads = 3, kPlain = 40, kOther = 7, kRank = 70;

/// a [heads * (plain + other), rank] and b [5, rank], each value its own index.
Checkpoint write(const std::filesystem::path& directory, DType dtype) {
  const std::map<std::string, uint64_t> rows = {{"a", kHeads * (kPlain + kOther)}, {"b", 5}};
  std::vector<OutputTensor> tensors;
  for (const auto& [name, count] : rows) tensors.push_back({name, dtype, {count, kRank}});
  SafetensorsWriter writer(directory / "model.safetensors", layout_safetensors(tensors));
  for (std::size_t t = 0; t < rows.size(); ++t) {
    std::vector<float> values(rows.at(writer.layout().tensors[t].name) * kRank);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 2048);
    std::vector<uint16_t> halves;
    for (const float value : values) {
      halves.push_back(dtype == DType::kBF16 ? float_to_bf16(value) : float_to_half(value));
    }
    writer.write(
        t, 0,
        dtype == DType::kF32 ? std::as_bytes(std::span(values)) : std::as_bytes(std::span(halves)));
  }
  writer.finish();
  return Checkpoint::open(directory);
}

float number(const std::byte* data, uint64_t index, DType dtype) {
  if (dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, data + index * 4, 4);
    return value;
  }
  uint16_t half = 0;
  std::memcpy(&half, data + index * 2, 2);
  return half_to_float(half);
}

float value_of(const std::byte* data, uint64_t index, DType dtype) {
  if (dtype != DType::kBF16) return number(data, index, dtype);
  uint16_t word = 0;
  std::memcpy(&word, data + index * 2, 2);
  return bf16_to_float(word);
}

TEST_F(SourceValuesTest, TransposedAndPlainTensorsAreWhereTheyAreSaidToBe) {
  for (const DType dtype : {DType::kF32, DType::kF16}) {
    const std::filesystem::path folder = path_ / std::string(dtype_name(dtype));
    std::filesystem::create_directory(folder);
    const Checkpoint checkpoint = write(folder, dtype);
    FinalTensor turned;
    turned.name = "turned";
    turned.dtype = dtype;
    turned.shape = {kHeads, kRank / 2, kPlain};
    turned.transposed = SourceColumns{1, 2};  // every other column
    FinalTensor plain;
    plain.name = "plain";
    plain.dtype = dtype;
    plain.shape = {kHeads, kOther, kRank};
    for (uint64_t h = 0; h < kHeads; ++h) {
      turned.ranges.push_back({0, h * (kPlain + kOther), kPlain});
      plain.ranges.push_back({0, h * (kPlain + kOther) + kPlain, kOther});
    }
    for (const FinalTensor* tensor : {&turned, &plain}) {
      const uint64_t all = tensor->elements() / tensor->columns();
      for (const uint64_t first : {uint64_t{0}, all / 2 - 3, all - 4}) {
        for (const uint64_t column : {0, 5}) {
          const uint64_t rows = 4, columns = tensor->columns() - column;
          std::vector<std::byte> bytes(rows * columns * static_cast<uint64_t>(dtype_size(dtype)));
          gather_values(checkpoint, *tensor, first, rows, column, columns, bytes.data());
          for (uint64_t r = 0; r < rows; ++r) {
            for (uint64_t c = 0; c < columns; ++c) {
              const SourceValue at = locate_value(*tensor, first + r, column + c);
              EXPECT_EQ(at.tensor, 0u);
              const auto expected = static_cast<float>((at.row * kRank + at.column) % 2048);
              ASSERT_EQ(number(bytes.data(), r * columns + c, dtype), expected)
                  << tensor->name << " " << first + r << " " << column + c;
            }
          }
        }
      }
      EXPECT_THROW(locate_value(*tensor, all, 0), Error);
    }
    // Head 1, row 3, column 2: rows of the source are the tensor's columns.
    const SourceValue at = locate_value(turned, kRank / 2 + 3, 2);
    EXPECT_EQ(at.row, kPlain + kOther + 2);
    EXPECT_EQ(at.column, 7u);
  }
}

TEST_F(SourceValuesTest, FactorsMultiplyTheirRowsInTheDtypeOfTheSource) {
  constexpr float kFirst = 0.3f, kSecond = 4.0f;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const std::filesystem::path folder = path_ / std::string(dtype_name(dtype));
    std::filesystem::create_directory(folder);
    const Checkpoint checkpoint = write(folder, dtype);
    FinalTensor matrix, vector;
    matrix.dtype = vector.dtype = dtype;
    matrix.name = "matrix";
    matrix.shape = {10, kRank};
    matrix.ranges = {{0, 20, 6}, {0, 3, 4}};
    matrix.factors = {{2, 5, kFirst}, {8, 10, kSecond}};
    vector.name = "vector";  // one row of the source
    vector.shape = {kRank};
    vector.ranges = {{0, 3, 1}};
    vector.factors = {{5, 60, kFirst}};
    const auto check = [&](const FinalTensor& tensor, uint64_t row, uint64_t rows, uint64_t column,
                           uint64_t columns) {
      FinalTensor plain = tensor;
      plain.factors.clear();
      const auto size = static_cast<uint64_t>(dtype_size(dtype));
      std::vector<std::byte> found(rows * columns * size), stored(found.size());
      gather_values(checkpoint, tensor, row, rows, column, columns, found.data());
      gather_values(checkpoint, plain, row, rows, column, columns, stored.data());
      for (uint64_t i = 0; i < rows * columns; ++i) {
        const uint64_t place = tensor.shape.size() == 1 ? column + i : row + i / columns;
        float factor = 1.0f;
        for (const RowFactor& part : tensor.factors)
          if (place >= part.begin && place < part.end) factor = part.factor;
        const float before = value_of(stored.data(), i, dtype);
        float expected = before * factor;
        if (dtype == DType::kF16) expected = half_to_float(float_to_half(expected));
        if (dtype == DType::kBF16) expected = bf16_to_float(float_to_bf16(expected));
        ASSERT_EQ(value_of(found.data(), i, dtype), expected) << tensor.name << " " << place;
      }
    };
    check(matrix, 0, 10, 0, kRank);
    check(matrix, 4, 5, 7, 12);  // across ranges and factors
    check(matrix, 9, 1, 69, 1);
    check(vector, 0, 1, 0, kRank);
    check(vector, 0, 1, 58, 5);
  }
}

TEST_F(SourceValuesTest, RunsHoldTheValuesAndAnotherDtypeIsRefused) {
  const Checkpoint checkpoint = write(path_, DType::kF16);
  FinalTensor turned;
  turned.name = "turned";
  turned.dtype = DType::kF16;
  turned.shape = {kRank, kPlain};
  turned.ranges = {{0, 2, kPlain}};
  turned.transposed.emplace();
  uint64_t runs = 0;
  for_each_run(checkpoint, turned, 3, 2, 1, 4,
               [&](const CheckpointTensor& source, uint64_t offset, uint64_t bytes) {
                 EXPECT_EQ(source.name, "a");
                 EXPECT_EQ(offset, 3 * kRank * 2);
                 EXPECT_EQ(bytes, 4 * kRank * 2);
                 ++runs;
               });
  EXPECT_EQ(runs, 1u);
  turned.dtype = DType::kBF16;
  std::vector<std::byte> bytes(2 * 2);
  EXPECT_THROW(gather_values(checkpoint, turned, 0, 1, 0, 2, bytes.data()), Error);
}

}  // namespace
}  // namespace jang
