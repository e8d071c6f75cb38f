// Conversions as a whole: the streamed bytes equal those of quantizing matrices at once, do not
// depend on threads, and every refusal names file, tensor and place.
#include "convert/convert.h"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <stdexcept>

#include "arch/directory.h"
#include "base/error.h"
#include "convert/conversion.h"
#include "convert/source_model.h"
#include "convert/verify.h"
#include "io/checkpoint.h"
#include "io/checksum.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

ConvertOptions options_for(const std::string& profile, Method method = Method::kRtn,
                           int threads = 1) {
  return conversion_options(profile, method, threads);
}

template <typename Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorCode::kIo, "none");
}

std::string bytes_of(const Checkpoint& checkpoint, const std::string& name) {
  const CheckpointTensor* tensor = checkpoint.find(name);
  if (tensor == nullptr) return "missing " + name;
  const auto data = checkpoint.data(*tensor);
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

TEST(Convert, PanelsGiveTheBytesOfWholeMatrices) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const Method method : {Method::kRtn, Method::kMse}) {
      const TemporaryDirectory directory;
      SourceModel model;
      model.dtype = dtype;
      model.hidden = 160;  // no power of two, several groups of 32 only
      model.inner = 5 * 96;
      model.vocabulary = method == Method::kRtn ? 4133 : 77;  // several panels
      model.shards = 3;
      model.fill(3).write(directory / "source");
      const ConvertReport report =
          convert_to(directory / "source", directory / "out", options_for("JANG_3M", method, 2));
      const Checkpoint source = Checkpoint::open(directory / "source");
      const ModelDirectory out = open_model_directory(directory / "out");
      EXPECT_EQ(out.format, DirectoryFormat::kJang);
      EXPECT_EQ(report.file_bytes, out.checkpoint.file_bytes());
      ThreadPool pool(1);
      std::size_t quantized = 0;
      for (const auto& [name, shape] : model.shapes) {
        const std::string path = name.substr(0, name.size() - 7);
        const QuantizedModule* module = out.find_module(path);
        if (module == nullptr) {
          EXPECT_EQ(bytes_of(out.checkpoint, name), bytes_of(source, name)) << name;
          EXPECT_EQ(shape.size(), 1u) << name;
          continue;
        }
        ++quantized;
        EXPECT_EQ(module->scales->dtype, dtype);
        const AffineFormat format{module->width.bits, module->width.group_size, dtype};
        std::string codes(shape[0] * format.row_bytes(shape[1]), '\0');
        std::string scales(
            shape[0] * format.row_groups(shape[1]) * static_cast<uint64_t>(dtype_size(dtype)),
            '\0');
        std::string biases = scales;
        const auto data = source.data(*source.find(name));
        quantize_matrix({data.data(), dtype, shape[0], shape[1]}, format, method,
                        {reinterpret_cast<std::byte*>(codes.data()),
                         reinterpret_cast<std::byte*>(scales.data()),
                         reinterpret_cast<std::byte*>(biases.data())},
                        pool);
        EXPECT_EQ(bytes_of(out.checkpoint, path + ".weight"), codes) << name;
        EXPECT_EQ(bytes_of(out.checkpoint, path + ".scales"), scales) << name;
        EXPECT_EQ(bytes_of(out.checkpoint, path + ".biases"), biases) << name;
      }
      EXPECT_EQ(quantized, 16u);
    }
  }
}

TEST(Convert, RowsLongerThanAPanelAreCut) {
  const TemporaryDirectory directory;
  SourceModel model = model_of_long_rows();
  model.fill(4).write(directory / "source");
  convert_to(directory / "source", directory / "out", options_for("JANG_4L", Method::kRtn, 2));
  const ModelDirectory out = open_model_directory(directory / "out");
  const QuantizedModule* module = out.find_module("model.layers.0.mlp.down_proj");
  ASSERT_NE(module, nullptr);
  const AffineFormat format{module->width.bits, module->width.group_size, DType::kF32};
  std::vector<std::byte> codes(32 * format.row_bytes(model.inner));
  std::vector<std::byte> scales(32 * format.row_groups(model.inner) * 4);
  std::vector<std::byte> biases = scales;
  const auto& values = model.values.at("model.layers.0.mlp.down_proj.weight");
  quantize_panel({std::as_bytes(std::span(values)).data(), DType::kF32, 32, model.inner}, format,
                 Method::kRtn, {codes.data(), scales.data(), biases.data()});
  const auto stored = out.checkpoint.data(*module->weight);
  EXPECT_TRUE(std::equal(stored.begin(), stored.end(), codes.begin(), codes.end()));
  const auto stored_biases = out.checkpoint.data(*module->biases);
  EXPECT_TRUE(std::equal(stored_biases.begin(), stored_biases.end(), biases.begin(), biases.end()));
}

TEST(Convert, BytesDoNotDependOnThreadsOrRuns) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.vocabulary = 9001;
  model.fill(5).write(directory / "source");
  convert_to(directory / "source", directory / "one", options_for("JANG_4K", Method::kRtn, 1));
  const auto one = contents(directory / "one");
  EXPECT_EQ(one.size(), 4u);
  for (const int threads : {1, 2, 5}) {
    const fs::path other = directory / ("other" + std::to_string(threads));
    convert_to(directory / "source", other, options_for("JANG_4K", Method::kRtn, threads));
    EXPECT_EQ(contents(other), one);
  }
}

TEST(Convert, ChecksumsAreThoseOfThePayloads) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.vocabulary = 9001;
  model.fill(6).write(directory / "source");
  convert_to(directory / "source", directory / "out", options_for("JANG_4L", Method::kRtn, 2));
  const ModelDirectory out = open_model_directory(directory / "out");
  const Json* sums = out.jang_config->find("checksums")->find("tensors");
  ASSERT_NE(sums, nullptr);
  EXPECT_EQ(sums->as_object().size(), out.checkpoint.tensors().size());
  for (const CheckpointTensor& tensor : out.checkpoint.tensors()) {
    const Json* sum = sums->find(tensor.name);
    ASSERT_NE(sum, nullptr) << tensor.name;
    EXPECT_EQ(sum->as_string(), crc32_text(crc32_of(out.checkpoint.data(tensor)))) << tensor.name;
  }
}

TEST(Convert, CastsComeBeforeQuantizing) {
  const TemporaryDirectory directory;
  SourceModel wide;
  wide.dtype = DType::kF32;
  wide.fill(7).write(directory / "f32");
  SourceModel narrow = wide;
  narrow.dtype = DType::kBF16;
  narrow.write(directory / "bf16");
  ConvertOptions options = options_for("JANG_4L");
  options.plan.dtype = DType::kBF16;
  convert_to(directory / "f32", directory / "cast", options);
  convert_to(directory / "bf16", directory / "direct", options_for("JANG_4L"));
  auto cast = contents(directory / "cast"), direct = contents(directory / "direct");
  EXPECT_EQ(cast.at("model-00001-of-00001.safetensors"),
            direct.at("model-00001-of-00001.safetensors"));
}

TEST(Convert, ValuesThatDoNotFitTheCastAreRefused) {
  for (const bool matrix : {true, false}) {
    const TemporaryDirectory directory;
    SourceModel model;
    model.fill(8);
    const std::string name =
        matrix ? "model.layers.1.mlp.up_proj.weight" : "model.layers.1.input_layernorm.weight";
    model.values.at(name)[100] = 70000.f;
    model.write(directory / "source");
    ConvertOptions options = options_for("JANG_4L");
    options.plan.dtype = DType::kF16;
    const Error error =
        error_of([&] { convert_to(directory / "source", directory / "out", options); });
    EXPECT_EQ(error.code(), ErrorCode::kRange);
    EXPECT_EQ(error.file(), "model.safetensors");
    EXPECT_EQ(error.tensor(), name);
    EXPECT_NE(error.message().find("row 0, column 100"), std::string::npos) << error.message();
    EXPECT_FALSE(error.hint().empty());
  }
}

TEST(Convert, NonFiniteValuesAreRefusedWithTheirPlace) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::string name :
         {"model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"}) {
      const TemporaryDirectory directory;
      SourceModel model;
      model.fill(9);
      const uint64_t index = model.values.at(name).size() - 3;
      const uint64_t columns = model.shapes.at(name).back();
      model.values.at(name)[index] = bad;
      model.write(directory / "source");
      const Error error = error_of([&] {
        convert_to(directory / "source", directory / "out", options_for("JANG_2S", Method::kMse));
      });
      EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
      EXPECT_EQ(error.file(), "model.safetensors");
      EXPECT_EQ(error.tensor(), name);
      const std::string place =
          "row " + std::to_string(index / columns) + ", column " + std::to_string(index % columns);
      EXPECT_NE(error.message().find(place), std::string::npos) << error.message();
    }
  }
}

TEST(Convert, CancellingStopsIt) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.vocabulary = 20000;
  model.fill(10).write(directory / "source");
  // With two threads the caller may come to only one report of its own, the last.
  for (const int threads : {1, 2}) {
    const fs::path output = directory / ("out" + std::to_string(threads));
    const int last = threads == 1 ? 3 : 1;
    JobCallbacks callbacks;
    int calls = 0;
    callbacks.cancel = [&] {
      if (++calls == last) throw std::runtime_error("stop");
    };
    EXPECT_THROW(convert_to(directory / "source", output,
                            options_for("JANG_4L", Method::kRtn, threads), callbacks),
                 std::runtime_error);
    EXPECT_EQ(calls, last);
    EXPECT_FALSE(fs::exists(output / "jang_config.json"));
    EXPECT_FALSE(fs::exists(output / "config.json"));
  }
}

TEST(Convert, ProgressEndsAtTheTotal) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.fill(11).write(directory / "source");
  JobCallbacks callbacks;
  uint64_t last = 0, sum = 0;
  callbacks.progress = [&](uint64_t done, uint64_t total, std::string_view) {
    EXPECT_GE(done, last);
    last = done;
    sum = total;
  };
  convert_to(directory / "source", directory / "out", options_for("JANG_4L", Method::kRtn, 3),
             callbacks);
  uint64_t expected = 0;
  for (const auto& [name, values] : model.values) expected += values.size() * 2;
  EXPECT_EQ(sum, expected);
  EXPECT_EQ(last, expected);
}

TEST(Convert, AHeadThatEqualsItsTiedEmbeddingIsLeftOut) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.fill(12);
  model.tied = true;
  model.values["lm_head.weight"] = model.values["model.embed_tokens.weight"];
  model.write(directory / "source");
  convert_to(directory / "source", directory / "out", options_for("JANG_4L"));
  const ModelDirectory out = open_model_directory(directory / "out");
  EXPECT_EQ(out.find_module("lm_head"), nullptr);
  ASSERT_NE(out.find_module("model.embed_tokens"), nullptr);
  EXPECT_EQ(out.find_module("model.embed_tokens")->width.bits, 8);
}

TEST(Convert, QuantizedSourcesAreRefusedByName) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.fill(13).write(directory / "source");
  convert_to(directory / "source", directory / "out", options_for("JANG_4L"));
  for (const bool headers_only : {false, true}) {
    const Error error =
        error_of([&] { plan_directory(directory / "out", PlanOptions{}, headers_only); });
    EXPECT_EQ(error.code(), ErrorCode::kUnsupportedFormat);
    EXPECT_NE(error.message().find("JANG"), std::string::npos);
  }
  fs::remove(directory / "out" / "jang_config.json");  // now a stock MLX directory
  const Error error = error_of([&] { plan_directory(directory / "out", PlanOptions{}, false); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupportedFormat);
  EXPECT_NE(error.message().find("MLX"), std::string::npos);
}

TEST(Convert, ABareConfigCanBePlannedOnly) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.shards = 2;
  model.fill(14).write(directory / "source");
  fs::create_directories(directory / "bare");
  fs::copy_file(directory / "source" / "config.json", directory / "bare" / "config.json");
  const PlannedSource bare = plan_directory(directory / "bare", PlanOptions{}, true);
  const PlannedSource full = plan_directory(directory / "source", PlanOptions{}, false);
  EXPECT_EQ(bare.plan.parameters, full.plan.parameters);
  EXPECT_EQ(bare.plan.average_bits, full.plan.average_bits);
  fs::copy_file(directory / "source" / "model.safetensors.index.json",
                directory / "bare" / "model.safetensors.index.json");
  EXPECT_EQ(plan_directory(directory / "bare", PlanOptions{}, true).plan.parameters,
            full.plan.parameters);
  EXPECT_THROW(plan_directory(directory / "bare", PlanOptions{}, false), Error);
}

TEST(Convert, ABareConfigThatIsQuantizedIsRefused) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.extra_config = ", \"quantization_config\": {\"quant_method\": \"awq\"}";
  fs::create_directories(directory / "bare");
  write_file(directory / "bare" / "config.json", model.config());
  const Error error = error_of([&] { plan_directory(directory / "bare", PlanOptions{}, true); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupportedFormat);
  EXPECT_NE(error.message().find("awq"), std::string::npos);
}

CalibrationInput calibration_for(const SourceModel& model, int64_t sequences, int64_t tokens) {
  CalibrationInput input;
  input.tokens = tokens;
  input.text = "text.txt";
  input.sha256 = std::string(64, 'a');
  for (int64_t i = 0; i < sequences * tokens; ++i)
    input.ids.push_back(
        static_cast<int32_t>((i * i * 7 + i * 3) % static_cast<int64_t>(model.vocabulary)));
  return input;
}

TEST(Convert, GptqGivesTheSameBytesWithAnyThreads) {
  for (const bool tied : {false, true}) {
    const TemporaryDirectory directory;
    SourceModel model;
    model.tied = tied;
    model.fill(5).write(directory / "source");
    std::string first;
    for (const int threads : {1, 2}) {
      ConvertOptions options = options_for("JANG_3M", Method::kMse, threads);
      options.calibration = calibration_for(model, 9, 24);
      const fs::path out = directory / ("out" + std::to_string(threads));
      const ConvertReport report = convert_to(directory / "source", out, options);
      EXPECT_TRUE(report.warnings.empty());
      const std::string bytes = read_file(out / "model-00001-of-00001.safetensors");
      const std::string document = read_file(out / "jang_config.json");
      EXPECT_NE(document.find("\"quantization_method\": \"gptq\""), std::string::npos);
      EXPECT_NE(document.find("\"solver\": \"gptq\""), std::string::npos);
      EXPECT_TRUE(verify_directory(out, directory / "source", threads, {}).faults.empty());
      if (threads == 1) first = bytes + document;
      EXPECT_EQ(bytes + document, first) << tied;
      EXPECT_EQ(std::distance(fs::directory_iterator(out), fs::directory_iterator()), 4);
    }
  }
}

TEST(Convert, GptqToASizeMeasuresWhatWidthsCost) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.fill(5).write(directory / "source");
  std::string first;
  for (const int threads : {1, 2}) {
    ConvertOptions options = options_for("JANG_3M", Method::kMse, threads);
    options.plan.target = SizeTarget{6.0, {}};
    options.calibration = calibration_for(model, 9, 24);
    const fs::path out = directory / ("out" + std::to_string(threads));
    const ConvertReport report = convert_to(directory / "source", out, options);
    ASSERT_TRUE(report.plan.allocation.has_value());
    EXPECT_TRUE(report.plan.allocation->measured);
    EXPECT_LE(report.file_bytes, report.plan.allocation->requested_bytes);
    EXPECT_TRUE(verify_directory(out, directory / "source", threads, {}).faults.empty());
    const std::string bytes = read_file(out / "model-00001-of-00001.safetensors");
    if (threads == 1) first = bytes;
    EXPECT_EQ(bytes, first);
  }
}

TEST(Convert, GptqRefusesTokensThatDoNotFit) {
  const TemporaryDirectory directory;
  SourceModel model;
  model.fill(5).write(directory / "source");
  ConvertOptions options = options_for("JANG_3M");
  const auto refused = [&](CalibrationInput input, const std::string& name) {
    options.calibration = std::move(input);
    return error_of([&] { convert_to(directory / "source", directory / name, options); });
  };
  EXPECT_EQ(refused(calibration_for(model, 1, 257), "a").code(), ErrorCode::kArgument);
  EXPECT_EQ(refused(calibration_for(model, 2, 1), "b").code(), ErrorCode::kArgument);
  CalibrationInput foreign = calibration_for(model, 1, 8);
  foreign.ids[3] = static_cast<int32_t>(model.vocabulary);
  EXPECT_EQ(refused(foreign, "c").code(), ErrorCode::kArgument);
}

}  // namespace
}  // namespace jang
