#include "json.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace edgekit {

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : members)
    if (name == key) return &value;
  return nullptr;
}

namespace {

// Length of the valid UTF-8 sequence at the start of `text`, or 0.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto tail = [&](std::size_t n) {
    if (text.size() < n) return false;
    for (std::size_t i = 1; i < n; ++i)
      if ((byte(i) & 0xC0) != 0x80) return false;
    return true;
  };
  const unsigned char c = byte(0);
  if (c < 0x80) return 1;
  if (c >= 0xC2 && c <= 0xDF) return tail(2) ? 2 : 0;
  if (c >= 0xE0 && c <= 0xEF) {
    if (!tail(3)) return 0;
    const bool overlong = c == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = c == 0xED && byte(1) >= 0xA0;
    return overlong || surrogate ? 0 : 3;
  }
  if (c >= 0xF0 && c <= 0xF4) {
    if (!tail(4)) return 0;
    const bool overlong = c == 0xF0 && byte(1) < 0x90;
    const bool beyond = c == 0xF4 && byte(1) >= 0x90;
    return overlong || beyond ? 0 : 4;
  }
  return 0;
}

void append_utf8(std::string& out, std::uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    if (text_.size() > kMaxJsonBytes) fail("larger than any plan");
    Json value = parse(0);
    skip_space();
    if (at_ != text_.size()) fail("text after the end");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw JsonError(what + " at byte " + std::to_string(at_)); }

  bool more() const { return at_ < text_.size(); }
  char peek() const { return more() ? text_[at_] : '\0'; }

  void skip_space() {
    while (more() && (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r')) ++at_;
  }

  bool take(char c) {
    if (!more() || peek() != c) return false;
    ++at_;
    return true;
  }

  void word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) fail("not a value");
    at_ += expected.size();
  }

  Json parse(int depth) {
    if (depth > kMaxJsonDepth) fail("nested too deeply");
    if (++values_ > kMaxJsonValues) fail("too many values");
    skip_space();
    if (!more()) fail("unexpected end");
    Json value;
    switch (peek()) {
      case '{':
        object(value, depth);
        break;
      case '[':
        array(value, depth);
        break;
      case '"':
        value.kind = Json::Kind::kString;
        value.text = string();
        break;
      case 't':
        word("true");
        value.kind = Json::Kind::kBool;
        value.boolean = true;
        break;
      case 'f':
        word("false");
        value.kind = Json::Kind::kBool;
        break;
      case 'n':
        word("null");
        break;
      default:
        number(value);
    }
    return value;
  }

  void object(Json& value, int depth) {
    value.kind = Json::Kind::kObject;
    ++at_;
    skip_space();
    if (take('}')) return;
    do {
      skip_space();
      if (peek() != '"') fail("expected a key");
      std::string key = string();
      if (value.members.size() == kMaxJsonMembers) fail("too many keys in one object");
      if (value.find(key)) fail("duplicate key \"" + key + "\"");
      skip_space();
      if (!take(':')) fail("expected ':'");
      value.members.emplace_back(std::move(key), parse(depth + 1));
      skip_space();
    } while (take(','));
    if (!take('}')) fail("expected ',' or '}'");
  }

  void array(Json& value, int depth) {
    value.kind = Json::Kind::kArray;
    ++at_;
    skip_space();
    if (take(']')) return;
    do {
      value.items.push_back(parse(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) fail("expected ',' or ']'");
  }

  void digits() {
    if (peek() < '0' || peek() > '9') fail("not a value");
    while (peek() >= '0' && peek() <= '9') ++at_;
  }

  void number(Json& value) {
    const std::size_t start = at_;
    bool integral = true;
    take('-');
    if (!take('0')) digits();
    if (take('.')) {
      integral = false;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      integral = false;
      ++at_;
      if (!take('+')) take('-');
      digits();
    }
    const std::string literal(text_.substr(start, at_ - start));
    value.kind = Json::Kind::kNumber;
    value.number = std::strtod(literal.c_str(), nullptr);
    if (!std::isfinite(value.number)) fail("number out of range");
    if (integral) {
      errno = 0;
      value.integer = std::strtoll(literal.c_str(), nullptr, 10);
      if (errno == ERANGE) fail("integer out of range");
      value.kind = Json::Kind::kInteger;
    }
  }

  std::uint32_t hex4() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = peek();
      if (c >= '0' && c <= '9') code = code * 16 + static_cast<std::uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') code = code * 16 + static_cast<std::uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') code = code * 16 + static_cast<std::uint32_t>(c - 'A' + 10);
      else fail("bad \\u escape");
      ++at_;
    }
    return code;
  }

  void escape(std::string& out) {
    const char c = peek();
    ++at_;
    switch (c) {
      case '"': case '\\': case '/': out += c; return;
      case 'b': out += '\b'; return;
      case 'f': out += '\f'; return;
      case 'n': out += '\n'; return;
      case 'r': out += '\r'; return;
      case 't': out += '\t'; return;
      case 'u': break;
      default: fail("bad escape");
    }
    std::uint32_t code = hex4();
    if (code >= 0xDC00 && code <= 0xDFFF) fail("lone surrogate");
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (!take('\\') || !take('u')) fail("lone surrogate");
      const std::uint32_t low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("lone surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, code);
  }

  std::string string() {
    std::string out;
    ++at_;
    while (true) {
      if (!more()) fail("unterminated string");
      const char c = peek();
      if (c == '"') {
        ++at_;
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20) fail("control character in a string");
      if (c == '\\') {
        ++at_;
        if (!more()) fail("unterminated string");
        escape(out);
        continue;
      }
      const std::size_t length = utf8_length(text_.substr(at_));
      if (length == 0) fail("not UTF-8");
      out.append(text_.substr(at_, length));
      at_ += length;
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t values_ = 0;
};

}  // namespace

Json parse_json(std::string_view text) { return Parser(text).document(); }

void JsonWriter::separate() {
  if (!first_ && !after_key_) out_ += ',';
  first_ = false;
  after_key_ = false;
}

JsonWriter& JsonWriter::begin_object() {
  separate();
  out_ += '{';
  first_ = true;
  return *this;
}

JsonWriter& JsonWriter::end_object() {
  out_ += '}';
  first_ = false;
  return *this;
}

JsonWriter& JsonWriter::begin_array() {
  separate();
  out_ += '[';
  first_ = true;
  return *this;
}

JsonWriter& JsonWriter::end_array() {
  out_ += ']';
  first_ = false;
  return *this;
}

JsonWriter& JsonWriter::key(std::string_view name) {
  value(name);
  out_ += ':';
  after_key_ = true;
  return *this;
}

JsonWriter& JsonWriter::value(std::int64_t number) {
  separate();
  out_ += std::to_string(number);
  return *this;
}

JsonWriter& JsonWriter::value(double number) {
  if (!std::isfinite(number)) throw std::domain_error("JSON has no such number");
  separate();
  // Nine significant digits give every float back exactly.
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.9g", number);
  out_ += buffer;
  return *this;
}

JsonWriter& JsonWriter::value(bool flag) {
  separate();
  out_ += flag ? "true" : "false";
  return *this;
}

JsonWriter& JsonWriter::null() {
  separate();
  out_ += "null";
  return *this;
}

JsonWriter& JsonWriter::value(std::string_view text) {
  separate();
  out_ += '"';
  while (!text.empty()) {
    const char c = text.front();
    if (c == '"' || c == '\\') {
      out_ += '\\';
      out_ += c;
      text.remove_prefix(1);
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      out_ += buffer;
      text.remove_prefix(1);
    } else if (const std::size_t length = utf8_length(text)) {
      out_.append(text.substr(0, length));
      text.remove_prefix(length);
    } else {
      out_ += "\xEF\xBF\xBD";
      text.remove_prefix(1);
    }
  }
  out_ += '"';
  return *this;
}

}  // namespace edgekit
