// What a directory holds: format, profile, widths, sizes. Reads headers and JSON only.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace jang {

struct InspectedTensor {
  std::string name;  // module path for quantized modules (one row a triple), tensor name otherwise
  std::string dtype;
  std::vector<uint64_t> shape;  // logical
  std::optional<int> bits, group_size;
  uint64_t bytes = 0;
  std::string file;
};

struct Inspection {
  std::string format;  // jang, jang-v1, mlx, hf
  std::string model_type;
  std::optional<std::string> profile, method;
  double average_bits = 0;  // of quantized weights' codes; the stored width for plain directories
  double bits_per_weight = 0;
  uint64_t bytes = 0, parameters = 0;
  std::vector<RoleRow> roles;
  std::vector<InspectedTensor> tensors;
};

Inspection inspect_directory(const std::filesystem::path& path);

}  // namespace jang
