// One conversion as tests make it.
#pragma once

#include <filesystem>
#include <string>

#include "convert/convert.h"

namespace jang {

inline ConvertOptions conversion_options(const std::string& profile, Method method, int threads) {
  ConvertOptions options;
  options.plan.profile = profile;
  options.method = method;
  options.threads = threads;
  options.source_name = "source";
  options.generator_version = "1.0";
  return options;
}

inline ConvertReport convert_to(const std::filesystem::path& source,
                                const std::filesystem::path& output, const ConvertOptions& options,
                                const JobCallbacks& callbacks = {}) {
  std::filesystem::create_directories(output);
  return convert_directory(source, output, options, callbacks);
}

}  // namespace jang
