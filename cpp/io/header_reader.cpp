// The state machine behind read_header_entries. It follows the only shape a header may have:
//
//     depth 1   { "<tensor>": entry, ..., "__metadata__": strings or null }
//     depth 2   entry = { "dtype": string, "shape": numbers, "data_offsets": numbers, <scalars> }
//               strings = { "<key>": string, ... }
//     depth 3   numbers = [ unsigned, ... ]
//
// It keeps one validated TensorInfo per entry and stops at the first cap that is passed, so a
// hostile header of 100 MB costs a small multiple of its size and no more.
#include "io/header_reader.h"

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "base/checked_math.h"
#include "io/json_error.h"

namespace jang {
namespace {

constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxNameBytes = 4096;
constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxMetadata = 65'536;
constexpr std::size_t kMaxUnknownFields = 64;  // per entry
constexpr int kMaxDepth = 3;
constexpr std::string_view kMetadataKey = "__metadata__";

std::string shape_text(std::span<const uint64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

class HeaderReader {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  HeaderReader(const std::string& file, SafetensorsHeader& out)
      : file_(file), out_(out), names_(ByName{&out.tensors}) {}

  bool null() {
    if (place_ == Place::kMetadataValue) {
      place_ = Place::kTop;
      return true;
    }
    return other_scalar("null");
  }
  bool boolean(bool) { return other_scalar("a boolean"); }
  bool number_integer(number_integer_t v) { return other_scalar(std::to_string(v)); }
  bool number_float(number_float_t, const string_t& text) { return other_scalar(text); }
  bool binary(binary_t&) { return other_scalar("binary"); }
  bool number_unsigned(number_unsigned_t v);
  bool string(string_t& v);
  bool key(string_t& k);
  bool start_object(std::size_t);
  bool end_object();
  bool start_array(std::size_t);
  bool end_array();
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& e) {
    fail(ErrorCode::kHeaderSyntax, json_fault(position, token, e.what()));
  }

 private:
  enum class Place {
    kStart,          // before the header's object
    kTop,            // among tensor names
    kEntryStart,     // after a tensor's name
    kEntry,          // among an entry's fields
    kMetadataValue,  // after "__metadata__"
    kMetadata,       // among its keys
  };
  enum class Field { kDtype, kShape, kOffsets, kUnknown };

  // Orders tensors, given by index, by name: a tree, because hashes of hostile names may collide.
  struct ByName {
    const std::vector<TensorInfo>* tensors;
    bool operator()(std::size_t a, std::size_t b) const {
      return (*tensors)[a].name < (*tensors)[b].name;
    }
  };

  [[noreturn]] void fail(ErrorCode code, const std::string& message) const {
    const bool in_entry = place_ == Place::kEntry || place_ == Place::kEntryStart;
    throw Error(code, file_, in_entry ? out_.tensors.back().name : std::string(), message);
  }
  [[noreturn]] void fail_field(const std::string& found) const;
  bool other_scalar(const std::string& found);
  void begin_tensor(string_t& name);
  void begin_field(string_t& name);
  void begin_metadata_key(string_t& name);
  void enter();
  void finish_entry();

  const std::string& file_;
  SafetensorsHeader& out_;
  Place place_ = Place::kStart;
  int depth_ = 0;
  std::set<std::size_t, ByName> names_;
  bool has_metadata_ = false;
  std::string* metadata_value_ = nullptr;

  // The entry being read; its name is out_.tensors.back().name.
  Field field_ = Field::kUnknown;
  std::string field_name_;
  bool in_list_ = false;
  std::optional<std::string> dtype_;
  std::optional<std::vector<uint64_t>> shape_;
  std::optional<std::vector<uint64_t>> offsets_;
  std::set<std::string> unknown_fields_;
};

void HeaderReader::fail_field(const std::string& found) const {
  switch (place_) {
    case Place::kStart:
      fail(ErrorCode::kHeaderSyntax, "expected one JSON object as header, found " + found);
    case Place::kMetadataValue:
      fail(ErrorCode::kMetadataType, "__metadata__: expected an object of strings, found " + found);
    case Place::kMetadata:
      fail(ErrorCode::kMetadataType, "__metadata__: expected only strings, found " + found);
    case Place::kEntry:
      break;
    default:
      fail(ErrorCode::kEntryField,
           "expected an object with dtype, shape and data_offsets, found " + found);
  }
  switch (field_) {
    case Field::kDtype:
      fail(ErrorCode::kEntryField, "dtype: expected a string, found " + found);
    case Field::kShape:
      fail(ErrorCode::kEntryField, "shape: expected a list of unsigned integers, found " + found);
    case Field::kOffsets:
      fail(ErrorCode::kEntryField, "data_offsets: expected two unsigned integers, found " + found);
    case Field::kUnknown:
      break;
  }
  fail(ErrorCode::kEntryField,
       "unknown field '" + field_name_ + "': expected a scalar, found " + found);
}

bool HeaderReader::other_scalar(const std::string& found) {
  if (place_ == Place::kEntry && field_ == Field::kUnknown) return true;
  fail_field(found);
}

bool HeaderReader::number_unsigned(number_unsigned_t v) {
  if (!in_list_) return other_scalar(std::to_string(v));
  auto& list = field_ == Field::kShape ? *shape_ : *offsets_;
  if (field_ == Field::kShape && list.size() == kMaxRank) {
    fail(ErrorCode::kHeaderCap, "shape: expected at most 8 dimensions, found more");
  }
  if (field_ == Field::kOffsets && list.size() == 2) fail_field("more");
  list.push_back(v);
  return true;
}

bool HeaderReader::string(string_t& v) {
  if (place_ == Place::kMetadata) {
    *metadata_value_ = std::move(v);
    return true;
  }
  if (place_ == Place::kEntry && field_ == Field::kDtype && !in_list_) {
    dtype_ = std::move(v);
    return true;
  }
  return other_scalar("a string");
}

bool HeaderReader::key(string_t& k) {
  switch (place_) {
    case Place::kTop:
      if (k == kMetadataKey) {
        if (has_metadata_) fail(ErrorCode::kDuplicateName, "__metadata__ occurs twice");
        has_metadata_ = true;
        place_ = Place::kMetadataValue;
      } else {
        begin_tensor(k);
      }
      return true;
    case Place::kEntry:
      begin_field(k);
      return true;
    default:
      begin_metadata_key(k);
      return true;
  }
}

void HeaderReader::begin_tensor(string_t& name) {
  if (name.empty()) fail(ErrorCode::kHeaderCap, "expected a tensor name, found an empty one");
  if (name.size() > kMaxNameBytes) {
    fail(ErrorCode::kHeaderCap, "tensor name '" + name.substr(0, 60) + "...': expected at most " +
                                    std::to_string(kMaxNameBytes) + " bytes, found " +
                                    std::to_string(name.size()));
  }
  if (name.find('\0') != std::string::npos) {
    fail(ErrorCode::kHeaderEncoding, "tensor name '" + name + "': found a NUL character");
  }
  if (out_.tensors.size() == kMaxTensors) {
    fail(ErrorCode::kHeaderCap,
         "expected at most " + std::to_string(kMaxTensors) + " tensors, found more");
  }
  out_.tensors.emplace_back().name = std::move(name);
  place_ = Place::kEntryStart;
  if (!names_.insert(out_.tensors.size() - 1).second) {
    fail(ErrorCode::kDuplicateName, "expected every tensor once, found it twice");
  }
}

void HeaderReader::begin_field(string_t& name) {
  const auto once = [&](bool seen) {
    if (seen) fail(ErrorCode::kDuplicateName, "expected '" + name + "' once, found it twice");
  };
  if (name == "dtype") {
    once(dtype_.has_value());
    field_ = Field::kDtype;
  } else if (name == "shape") {
    once(shape_.has_value());
    field_ = Field::kShape;
  } else if (name == "data_offsets") {
    once(offsets_.has_value());
    field_ = Field::kOffsets;
  } else {
    field_ = Field::kUnknown;
    field_name_ = name;
    once(!unknown_fields_.insert(name).second);
    if (unknown_fields_.size() > kMaxUnknownFields) {
      fail(ErrorCode::kHeaderCap,
           "expected at most " + std::to_string(kMaxUnknownFields) + " unknown fields, found more");
    }
  }
}

void HeaderReader::begin_metadata_key(string_t& name) {
  const auto [place, is_new] = out_.metadata.try_emplace(std::move(name));
  if (!is_new) {
    fail(ErrorCode::kDuplicateName,
         "__metadata__: expected '" + place->first + "' once, found it twice");
  }
  if (out_.metadata.size() > kMaxMetadata) {
    fail(ErrorCode::kHeaderCap,
         "__metadata__: expected at most " + std::to_string(kMaxMetadata) + " strings, found more");
  }
  metadata_value_ = &place->second;
}

void HeaderReader::enter() {
  if (++depth_ > kMaxDepth) {
    fail(ErrorCode::kHeaderCap, "expected at most 3 levels of nesting, found more");
  }
}

bool HeaderReader::start_object(std::size_t) {
  enter();
  switch (place_) {
    case Place::kStart:
      place_ = Place::kTop;
      return true;
    case Place::kEntryStart:
      place_ = Place::kEntry;
      return true;
    case Place::kMetadataValue:
      place_ = Place::kMetadata;
      return true;
    default:
      fail_field("an object");
  }
}

bool HeaderReader::end_object() {
  --depth_;
  if (place_ == Place::kEntry) finish_entry();
  place_ = Place::kTop;
  return true;
}

bool HeaderReader::start_array(std::size_t) {
  enter();
  if (place_ != Place::kEntry || in_list_) fail_field("a list");
  if (field_ != Field::kShape && field_ != Field::kOffsets) fail_field("a list");
  (field_ == Field::kShape ? shape_ : offsets_).emplace();
  in_list_ = true;
  return true;
}

bool HeaderReader::end_array() {
  --depth_;
  in_list_ = false;
  if (field_ == Field::kOffsets && offsets_->size() != 2) {
    fail_field(std::to_string(offsets_->size()));
  }
  return true;
}

// Rules 5 to 8 on one entry. Offsets stay relative to the payload until rule 9 has passed.
void HeaderReader::finish_entry() {
  if (!dtype_) fail(ErrorCode::kEntryField, "expected the field dtype, found none");
  if (!shape_) fail(ErrorCode::kEntryField, "expected the field shape, found none");
  if (!offsets_) fail(ErrorCode::kEntryField, "expected the field data_offsets, found none");
  const auto type = parse_dtype(*dtype_);
  if (!type && safetensors_bits(*dtype_) == 0) {
    fail(ErrorCode::kUnknownDtype, "expected a dtype of safetensors, found '" + *dtype_ + "'");
  }
  if (!type) {
    fail(ErrorCode::kUnusableDtype,
         "dtype " + *dtype_ + " is known but not supported: no tensor of ours can hold it");
  }
  const auto elements = checked_product(*shape_);
  const auto bits =
      elements ? checked_mul(*elements, 8 * static_cast<uint64_t>(dtype_size(*type))) : elements;
  if (!bits) {
    fail(ErrorCode::kShapeOverflow,
         "shape " + shape_text(*shape_) + " of " + *dtype_ + ": the size overflows 64 bits");
  }
  const uint64_t begin = (*offsets_)[0];
  const uint64_t end = (*offsets_)[1];
  if (begin > end || end - begin != *bits / 8) {
    fail(ErrorCode::kPayloadSize, "expected " + std::to_string(*bits / 8) + " bytes for shape " +
                                      shape_text(*shape_) + " of " + *dtype_ +
                                      ", found data_offsets [" + std::to_string(begin) + ", " +
                                      std::to_string(end) + "]");
  }
  TensorInfo& tensor = out_.tensors.back();
  tensor.dtype = *type;
  tensor.shape = std::move(*shape_);
  tensor.begin = begin;
  tensor.end = end;
  dtype_.reset();
  shape_.reset();
  offsets_.reset();
  unknown_fields_.clear();
}

}  // namespace

void read_header_entries(std::string_view text, const std::string& file, SafetensorsHeader& out) {
  HeaderReader reader(file, out);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
}

}  // namespace jang
