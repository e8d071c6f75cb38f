// Tokens of a TinyModel, and the logits that the runtime gives for them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"

namespace jang {

inline std::vector<int32_t> some_tokens(int count) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 29 + 11) % 67);
  return tokens;
}

inline std::vector<float> run(Model& model, const std::vector<int32_t>& tokens, std::size_t chunk) {
  KvCache cache = model.new_cache();
  const auto vocabulary = static_cast<std::size_t>(model.spec().vocabulary);
  std::vector<float> logits(tokens.size() * vocabulary);
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    const std::size_t n = std::min(chunk, tokens.size() - at);
    model.forward(std::span(tokens).subspan(at, n), cache, Model::Logits::kAll,
                  logits.data() + at * vocabulary);
  }
  return logits;
}

}  // namespace jang
