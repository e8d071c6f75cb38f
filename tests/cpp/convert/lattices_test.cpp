// Sources that lie on lattices, through whole conversions: what is found is stored bit for bit by
// every method that looks for it, the rest of the model and other models do not notice.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "arch/directory.h"
#include "base/error.h"
#include "convert/conversion.h"
#include "convert/convert.h"
#include "convert/source_model.h"
#include "convert/verify.h"
#include "model/tiny_model.h"
#include "quant/quantize.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

ConvertOptions options_for(const std::string& profile, Method method = Method::kMse,
                           int threads = 2) {
  return conversion_options(profile, method, threads);
}

/// d * (q - 2^(bits - 1)) with a scale of 4 significant bits in each group: exact in all types.
void put_on_lattice(std::vector<float>& values, std::size_t group, int bits, unsigned seed) {
  std::mt19937 random(seed);
  const unsigned long codes = 1ul << bits;
  float d = 1;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i % group == 0) d = std::ldexp(1.0f + static_cast<float>(random() % 8) / 8.0f, -7);
    // Both ends are there, so that no narrower width would do.
    const unsigned long q = i % group == 0 ? 0 : i % group == 1 ? codes - 1 : random() % codes;
    values[i] = d * static_cast<float>(static_cast<int>(q) - static_cast<int>(codes / 2));
  }
}

std::string weights_and_record(const fs::path& out) {
  return read_file(out / "model-00001-of-00001.safetensors") + read_file(out / "jang_config.json");
}

using Chosen = std::function<bool(const std::string&)>;

/// A model whose chosen matrices lie on lattices.
SourceModel model_on_lattices(const Chosen& chosen, std::size_t group = 32, int bits = 4) {
  SourceModel model;
  model.fill(70);
  unsigned seed = 70;
  for (auto& [name, values] : model.values) {
    if (model.shapes.at(name).size() == 2 && chosen(name))
      put_on_lattice(values, group, bits, ++seed);
  }
  return model;
}

bool all(const std::string&) { return true; }
bool only_up(const std::string& name) { return name.find("up_proj") != std::string::npos; }

std::string path_of(const std::string& name) { return name.substr(0, name.size() - 7); }

std::vector<float> read_module(const ModelDirectory& directory, const std::string& path) {
  const QuantizedModule* module = directory.find_module(path);
  if (module == nullptr) return {};
  const auto part = [&](const CheckpointTensor* tensor) {
    return const_cast<std::byte*>(directory.checkpoint.data(*tensor).data());
  };
  const AffineFormat format{module->width.bits, module->width.group_size, module->scales->dtype};
  uint64_t rows = 1;
  for (std::size_t i = 0; i + 1 < module->shape.size(); ++i) rows *= module->shape[i];
  std::vector<float> values(rows * module->shape.back());
  ThreadPool pool(1);
  dequantize_matrix({part(module->weight), part(module->scales), part(module->biases)}, format,
                    rows, module->shape.back(), values.data(), pool);
  return values;
}

std::string solver_of(const fs::path& out, const std::string& path) {
  const Json document =
      parse_json(read_file(out / "jang_config.json"), "jang_config.json", ErrorCode::kConfigSyntax);
  return document.find("quantization")
      ->find("tensor_quantization_manifest")
      ->find(path)
      ->find("solver")
      ->as_string();
}

void expect_verified(const fs::path& out, const fs::path& source) {
  for (const Fault& fault : verify_directory(out, source, 2, {}).faults)
    ADD_FAILURE() << fault.tensor << ": " << fault.message;
}

CalibrationInput calibration_for(uint64_t vocabulary) {
  CalibrationInput input;
  input.tokens = 24;
  input.text = "text.txt";
  input.sha256 = std::string(64, 'a');
  for (int64_t i = 0; i < 9 * input.tokens; ++i)
    input.ids.push_back(
        static_cast<int32_t>((i * i * 7 + i * 3) % static_cast<int64_t>(vocabulary)));
  return input;
}

TEST(ConvertLattices, AWholeModelIsStoredWithoutLoss) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const TemporaryDirectory directory;
    SourceModel model = model_on_lattices(all);
    model.dtype = dtype;
    model.write(directory / "source");
    const ConvertReport report =
        convert_to(directory / "source", directory / "out", options_for("JANG_4L"));
    EXPECT_EQ(report.lattices.tensors, 16u);
    EXPECT_EQ(report.lattices.lossless_tensors, 16u);
    EXPECT_EQ(report.lattices.lossless_groups, report.lattices.groups);
    const ModelDirectory out = open_model_directory(directory / "out");
    for (const auto& [name, values] : model.values) {
      if (model.shapes.at(name).size() != 2) continue;
      EXPECT_EQ(out.find_module(path_of(name))->width.bits, 4) << name;
      EXPECT_EQ(out.find_module(path_of(name))->width.group_size, 32) << name;
      EXPECT_EQ(read_module(out, path_of(name)), values) << name;
      EXPECT_EQ(solver_of(directory / "out", path_of(name)), "lattice");
    }
    expect_verified(directory / "out", directory / "source");
  }
}

TEST(ConvertLattices, OnlyTheTensorsThatLieOnOne) {
  const TemporaryDirectory directory;
  const SourceModel model = model_on_lattices(only_up);
  model.write(directory / "source");
  SourceModel plain;
  plain.fill(70).write(directory / "plain");
  const ConvertReport report =
      convert_to(directory / "source", directory / "out", options_for("JANG_4L"));
  const ConvertReport other =
      convert_to(directory / "plain", directory / "other", options_for("JANG_4L"));
  EXPECT_EQ(report.lattices.tensors, 2u);
  EXPECT_EQ(other.lattices.tensors, 0u);
  EXPECT_EQ(read_file(directory / "other" / "jang_config.json").find("lattice"), std::string::npos);
  const ModelDirectory out = open_model_directory(directory / "out");
  const ModelDirectory usual = open_model_directory(directory / "other");
  for (const auto& [name, values] : model.values) {
    if (model.shapes.at(name).size() != 2) continue;
    if (only_up(name)) {
      EXPECT_EQ(read_module(out, path_of(name)), values) << name;
    } else {
      EXPECT_EQ(read_module(out, path_of(name)), read_module(usual, path_of(name))) << name;
      EXPECT_EQ(solver_of(directory / "out", path_of(name)), "mse");
    }
  }
  expect_verified(directory / "out", directory / "source");
}

TEST(ConvertLattices, WidthsAndGroupsThatDoNotHoldThem) {
  const TemporaryDirectory directory;
  model_on_lattices(only_up).write(directory / "source");
  const auto found = [&](const char* name, const ConvertOptions& options) {
    return convert_to(directory / "source", directory / name, options).lattices.tensors;
  };
  EXPECT_EQ(found("narrow", options_for("JANG_3L")), 0u);
  ConvertOptions options = options_for("JANG_4L");
  options.plan.group_size = 64;
  EXPECT_EQ(found("g64", options), 0u);
  options.plan.group_size = 32;
  EXPECT_EQ(found("g32", options), 2u);
  options.plan.group_size.reset();
  options.plan.rules = {parse_width_rule("model.layers.0.mlp.up_proj=3:32")};
  EXPECT_EQ(found("rule", options), 1u);
}

TEST(ConvertLattices, RtnStaysPlainRounding) {
  const TemporaryDirectory directory;
  model_on_lattices(all).write(directory / "source");
  const ConvertReport report =
      convert_to(directory / "source", directory / "out", options_for("JANG_4L", Method::kRtn));
  EXPECT_EQ(report.lattices.tensors, 0u);
  EXPECT_EQ(solver_of(directory / "out", "lm_head"), "rtn");
  EXPECT_EQ(report.plan.global.group_size, 64);
  expect_verified(directory / "out", directory / "source");
}

TEST(ConvertLattices, GptqSolvesTheOthers) {
  for (const bool tied : {false, true}) {
    const TemporaryDirectory directory;
    SourceModel model = model_on_lattices([](const std::string& name) {
      return only_up(name) || name.find("embed") != std::string::npos ||
             name.find("layers.0.self_attn") != std::string::npos;
    });
    model.tied = tied;
    if (tied) {
      model.values.erase("lm_head.weight");
      model.shapes.erase("lm_head.weight");
    }
    model.write(directory / "source");
    std::string first;
    for (const int threads : {1, 2}) {
      ConvertOptions options = options_for("JANG_4L", Method::kMse, threads);
      options.calibration = calibration_for(model.vocabulary);
      const fs::path out = directory / ("out" + std::to_string(threads));
      const ConvertReport report = convert_to(directory / "source", out, options);
      EXPECT_EQ(report.lattices.tensors, 7u);
      EXPECT_EQ(report.lattices.lossless_tensors, 7u);
      const ModelDirectory written = open_model_directory(out);
      for (const auto& [name, values] : model.values) {
        if (model.shapes.at(name).size() != 2) continue;
        const std::string solver = solver_of(out, path_of(name));
        if (solver == "lattice") {
          EXPECT_EQ(read_module(written, path_of(name)), values) << name;
        } else {
          EXPECT_EQ(solver, "gptq") << name;
        }
      }
      expect_verified(out, directory / "source");
      const std::string bytes = weights_and_record(out);
      if (threads == 1) first = bytes;
      EXPECT_EQ(bytes, first);
    }
  }
}

TEST(ConvertLattices, ASizeFitsAndKeepsThem) {
  const TemporaryDirectory directory;
  const SourceModel model = model_on_lattices(all);
  model.write(directory / "source");
  for (const bool calibrated : {false, true}) {
    ConvertOptions options = options_for("");
    if (calibrated) options.calibration = calibration_for(model.vocabulary);
    const fs::path out = directory / (calibrated ? "gptq" : "mse");
    options.plan.target = SizeTarget{7.0, std::nullopt};
    const ConvertReport report = convert_to(directory / "source", out, options);
    EXPECT_LE(report.file_bytes, report.plan.allocation->requested_bytes);
    EXPECT_EQ(report.plan.allocation->measured, calibrated);
    EXPECT_EQ(report.lattices.lossless_tensors, 16u);
    EXPECT_EQ(report.plan.average_bits, 4.0);
    expect_verified(out, directory / "source");
    // Below the lattices: what they are left for has a price.
    options.plan.target =
        SizeTarget{std::nullopt, (report.plan.allocation->lowest_bytes + report.file_bytes) / 2};
    const ConvertReport narrow = convert_to(
        directory / "source", directory / (calibrated ? "gptq-narrow" : "mse-narrow"), options);
    EXPECT_LE(narrow.file_bytes, narrow.plan.allocation->requested_bytes);
    EXPECT_GT(narrow.lattices.tensors, 0u);
    EXPECT_LT(narrow.lattices.tensors, 16u);
  }
}

TEST(ConvertLattices, ThreadsDoNotMatter) {
  const TemporaryDirectory directory;
  SourceModel model = model_on_lattices(only_up);
  model.shards = 3;
  model.write(directory / "source");
  std::string first;
  for (const int threads : {1, 2, 3}) {
    const fs::path out = directory / std::to_string(threads);
    convert_to(directory / "source", out, options_for("JANG_4K", Method::kMse, threads));
    const std::string bytes = weights_and_record(out);
    if (threads == 1) first = bytes;
    EXPECT_EQ(bytes, first);
  }
}

TEST(ConvertLattices, SomeGroupsMayMiss) {
  const TemporaryDirectory directory;
  SourceModel model = model_on_lattices(only_up);
  // 192 rows of 4 groups: 7 of 768 are below one in a hundred, 9 are not.
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto spoil = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) model.values[name][i * 40 * 32 + 5] = 0.01171875f;
  };
  spoil(7);
  model.write(directory / "source");
  const ConvertReport report =
      convert_to(directory / "source", directory / "out", options_for("JANG_4L"));
  EXPECT_EQ(report.lattices.tensors, 2u);
  EXPECT_EQ(report.lattices.lossless_tensors, 1u);
  EXPECT_EQ(report.lattices.groups - report.lattices.lossless_groups, 7u);
  expect_verified(directory / "out", directory / "source");
  spoil(9);
  model.write(directory / "worse");
  EXPECT_EQ(
      convert_to(directory / "worse", directory / "out9", options_for("JANG_4L")).lattices.tensors,
      1u);
}

TEST(ConvertLattices, ACastComesFirst) {
  const TemporaryDirectory directory;
  SourceModel model = model_on_lattices(all);
  model.dtype = DType::kF32;
  // Off the lattice by less than half a step of bf16: on it once cast.
  for (auto& [name, values] : model.values) {
    if (model.shapes.at(name).size() != 2) continue;
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] *= i % 2 == 0 ? 1.0f + 0x1p-12f : 1.0f - 0x1p-12f;
  }
  model.write(directory / "source");
  ConvertOptions options = options_for("JANG_4L");
  options.plan.dtype = DType::kBF16;
  EXPECT_EQ(convert_to(directory / "source", directory / "out", options).lattices.lossless_tensors,
            16u);
  expect_verified(directory / "out", directory / "source");
}

// Rounding to the source's type is all that a lattice's values may have lost.
TEST(ConvertLattices, ValuesThatWereRoundedVerify) {
  const TemporaryDirectory directory;
  SourceModel model = model_on_lattices(all);
  std::mt19937 random(9);
  for (auto& [name, values] : model.values) {
    if (model.shapes.at(name).size() != 2) continue;
    float d = 1;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i % 32 == 0)
        d = bf16_to_float(
            float_to_bf16(0.01f * (0.5f + static_cast<float>(random() % 1000) / 1000.0f)));
      values[i] = bf16_to_float(
          float_to_bf16(d * static_cast<float>(static_cast<int>(random() % 32) - 16)));
    }
  }
  model.write(directory / "source");
  const ConvertReport report =
      convert_to(directory / "source", directory / "out", options_for("uniform-5"));
  EXPECT_EQ(report.lattices.tensors, 16u);
  expect_verified(directory / "out", directory / "source");
}

TEST(ConvertLattices, VerifyCountsTheGroups) {
  const TemporaryDirectory directory;
  model_on_lattices(only_up).write(directory / "source");
  convert_to(directory / "source", directory / "out", options_for("JANG_4L"));
  // The same model with one weight of the lattice a step further.
  SourceModel other = model_on_lattices(only_up);
  other.values["model.layers.1.mlp.up_proj.weight"][7] += 0x1p-9f;
  other.write(directory / "other");
  const std::vector<Fault> faults =
      verify_directory(directory / "out", directory / "other", 2, {}).faults;
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].code, ErrorCode::kQuality);
  EXPECT_NE(faults[0].message.find("lattice"), std::string::npos) << faults[0].message;
}

TEST(ConvertLattices, AStackHasOneIfAllItsExpertsHave) {
  for (const bool spoiled : {false, true}) {
    const TemporaryDirectory directory;
    TinyModel tiny;
    tiny.experts = 6;
    tiny.layers = 1;
    tiny.model_type = "mixtral";
    tiny.fill(56);
    unsigned seed = 0;
    for (auto& [name, values] : tiny.tensors) {
      if (name.find("experts.") == std::string::npos) continue;
      // One expert of down needs a width more than the others.
      const bool wider = name == TinyModel::expert(0, 3) + "w2.weight";
      put_on_lattice(values, 32, wider ? 5 : 4, ++seed);
    }
    if (spoiled) {  // gate: a tenth of one expert, less than one in a hundred of the stack
      auto& values = tiny.tensors.at(TinyModel::expert(0, 2) + "w1.weight");
      for (std::size_t i = 0; i < values.size() / 20; ++i)
        values[i] = 0.01f * std::sin(7.7f * static_cast<float>(i));
    }
    tiny.write(directory / "source");
    for (const bool calibrated : {false, true}) {
      ConvertOptions options = options_for("JANG_6M");
      if (calibrated) options.calibration = calibration_for(67);
      const fs::path out = directory / (calibrated ? "gptq" : "mse");
      const ConvertReport report = convert_to(directory / "source", out, options);
      EXPECT_EQ(report.lattices.tensors, spoiled ? 2u : 3u);
      EXPECT_EQ(report.lattices.lossless_tensors, report.lattices.tensors);
      const ModelDirectory written = open_model_directory(out);
      for (const auto& [part, letter] :
           {std::pair{"gate_proj", "w1"}, {"up_proj", "w3"}, {"down_proj", "w2"}}) {
        const std::string path = std::string("model.layers.0.block_sparse_moe.switch_mlp.") + part;
        const QuantizedModule* module = written.find_module(path);
        ASSERT_NE(module, nullptr) << path;
        const bool lattice = !(spoiled && letter == std::string("w1"));
        EXPECT_EQ(module->width.bits, lattice ? letter == std::string("w2") ? 5 : 4 : 6) << part;
        if (!lattice) {
          EXPECT_EQ(solver_of(out, path), calibrated ? "gptq" : "mse");
          continue;
        }
        std::vector<float> expected;
        for (int64_t e = 0; e < tiny.experts; ++e) {
          const auto& values = tiny.tensors.at(TinyModel::expert(0, e) + letter + ".weight");
          expected.insert(expected.end(), values.begin(), values.end());
        }
        EXPECT_EQ(read_module(written, path), expected) << part;
      }
      expect_verified(out, directory / "source");
    }
  }
}

TEST(ConvertLattices, ProgressAndCancelling) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.vocabulary = 9000;  // several panels
  model.fill(70);
  put_on_lattice(model.values["model.embed_tokens.weight"], 32, 4, 1);
  model.write(directory / "source");
  JobCallbacks callbacks;
  uint64_t last = 0, sum = 0;
  callbacks.progress = [&](uint64_t done, uint64_t total, std::string_view) {
    EXPECT_GE(done, last);
    EXPECT_GE(total, sum);
    EXPECT_LE(done, total);
    last = done;
    sum = total;
  };
  convert_to(directory / "source", directory / "out", options_for("JANG_4L"), callbacks);
  uint64_t expected = model.values["model.embed_tokens.weight"].size() * 2;  // read twice
  for (const auto& [name, values] : model.values) expected += values.size() * 2;
  EXPECT_EQ(sum, expected);
  EXPECT_EQ(last, expected);
  JobCallbacks stopping;
  stopping.cancel = [] { throw std::runtime_error("stop"); };
  EXPECT_THROW(convert_to(directory / "source", directory / "stopped",
                          options_for("JANG_4L", Method::kMse, 1), stopping),
               std::runtime_error);
  EXPECT_TRUE(fs::is_empty(directory / "stopped"));
}

}  // namespace
}  // namespace jang
