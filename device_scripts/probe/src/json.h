// JSON: a strict reader with limits for the plan, and a writer for one event a line.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgekit {

struct Json {
  enum class Kind { kNull, kBool, kInteger, kNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  bool boolean = false;
  std::int64_t integer = 0;
  double number = 0;  // also set for integers
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  // The member called `key`, or null when there is none.
  const Json* find(std::string_view key) const;
};

struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A plan is some kilobytes, and a golden record with every logit of a large vocabulary still fits.
inline constexpr std::size_t kMaxJsonBytes = 16u << 20;
inline constexpr int kMaxJsonDepth = 32;
inline constexpr std::size_t kMaxJsonValues = 2'000'000;
// Keys are looked up one after the other.
inline constexpr std::size_t kMaxJsonMembers = 1024;

// Parses one document. Throws JsonError, with the byte offset, for anything RFC 8259 does not allow,
// for duplicate keys, and beyond the limits above.
Json parse_json(std::string_view text);

// Writes one JSON object or array after another; commas are its business. Numbers that JSON does not
// have (NaN, infinity) are refused with std::domain_error; bytes that are not UTF-8 become U+FFFD.
class JsonWriter {
 public:
  JsonWriter& begin_object();
  JsonWriter& end_object();
  JsonWriter& begin_array();
  JsonWriter& end_array();
  JsonWriter& key(std::string_view name);
  JsonWriter& value(std::int64_t number);
  JsonWriter& value(int number) { return value(std::int64_t{number}); }
  JsonWriter& value(double number);
  JsonWriter& value(bool flag);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& null();

  template <typename T>
  JsonWriter& values(const std::vector<T>& list) {
    begin_array();
    for (const T& item : list) value(item);
    return end_array();
  }

  const std::string& text() const { return out_; }

 private:
  void separate();

  std::string out_;
  bool first_ = true;
  bool after_key_ = false;
};

}  // namespace edgekit
