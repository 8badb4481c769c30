#include "plan.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "fault.h"
#include "json.h"

// One probe is built per runtime.
#ifndef EDGEKIT_RUNTIME
#define EDGEKIT_RUNTIME "onnxruntime"
#endif

namespace edgekit {
namespace {

constexpr std::int64_t kSchemaVersion = 1;

// Sanity limits: beyond them a plan is a mistake, and its allocations would be too.
constexpr std::int64_t kMaxThreads = 1024;
constexpr std::int64_t kMaxLoads = 1000;
constexpr std::int64_t kMaxContext = 1 << 24;
constexpr std::int64_t kMaxVocab = 1 << 24;
constexpr std::size_t kMaxTrials = 100'000;
constexpr std::size_t kMaxCacheTensors = 4096;
constexpr std::int64_t kMaxCacheElements = std::int64_t{1} << 34;
constexpr double kMaxHz = 1000;
constexpr double kMaxSeconds = 7 * 24 * 3600;

[[noreturn]] void fail(const std::string& message) { throw Fault(Exit::kPlan, "plan", "read plan: " + message); }

// One object of the document, with its place in it for messages.
class Reader {
 public:
  Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (json.kind != Json::Kind::kObject) fail(where_ + " is not an object");
  }

  std::string path(const char* key) const { return where_ + "." + key; }

  // The member, or null where it is absent or null.
  const Json* optional(const char* key) const {
    const Json* value = json_.find(key);
    return value && value->kind != Json::Kind::kNull ? value : nullptr;
  }

  const Json& required(const char* key) const {
    const Json* value = optional(key);
    if (!value) fail(path(key) + " is missing");
    return *value;
  }

  bool flag(const char* key) const {
    const Json& value = required(key);
    if (value.kind != Json::Kind::kBool) fail(path(key) + " is neither true nor false");
    return value.boolean;
  }

  std::string text(const char* key) const {
    const Json& value = required(key);
    if (value.kind != Json::Kind::kString) fail(path(key) + " is not a string");
    return value.text;
  }

  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    return checked_integer(required(key), path(key), low, high);
  }

  double number(const char* key, double low, double high) const {
    const Json& value = required(key);
    if (value.kind != Json::Kind::kInteger && value.kind != Json::Kind::kNumber) fail(path(key) + " is not a number");
    if (value.number < low || value.number > high) fail(path(key) + " is out of range");
    return value.number;
  }

  const std::vector<Json>& array(const char* key) const { return checked_array(required(key), path(key)); }

  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> out;
    for (const Json& item : array(key)) {
      if (item.kind != Json::Kind::kString) fail(path(key) + " holds something that is not a string");
      out.push_back(item.text);
    }
    return out;
  }

  std::vector<std::int64_t> integers(const char* key, std::int64_t low, std::int64_t high) const {
    std::vector<std::int64_t> out;
    for (const Json& item : array(key)) out.push_back(checked_integer(item, path(key), low, high));
    return out;
  }

  static const std::vector<Json>& checked_array(const Json& value, const std::string& where) {
    if (value.kind != Json::Kind::kArray) fail(where + " is not an array");
    return value.items;
  }

  static std::int64_t checked_integer(const Json& value, const std::string& where, std::int64_t low,
                                      std::int64_t high) {
    if (value.kind != Json::Kind::kInteger) fail(where + " is not an integer");
    if (value.integer < low || value.integer > high)
      fail(where + " is " + std::to_string(value.integer) + ", not within " + std::to_string(low) + " to " +
           std::to_string(high));
    return value.integer;
  }

 private:
  const Json& json_;
  std::string where_;
};

ElementType element_type(const std::string& name, const std::string& where) {
  if (name == "float32") return ElementType::kFloat32;
  if (name == "float16") return ElementType::kFloat16;
  fail(where + " is \"" + name + "\", not float32 or float16");
}

OnnxInterface read_interface(const Json& json, std::int64_t context) {
  const Reader in(json, "artefact.interface");
  OnnxInterface out;
  out.tokens = in.text("tokens");
  out.seqlens_k = in.text("seqlens_k");
  out.total_sequence_length = in.text("total_sequence_length");
  out.past = in.texts("past");
  out.present = in.texts("present");
  out.cache_type = element_type(in.text("cache_dtype"), in.path("cache_dtype"));
  out.logits = in.text("logits");
  out.logits_type = element_type(in.text("logits_dtype"), in.path("logits_dtype"));
  if (in.optional("logits_positions")) {
    const std::string positions = in.text("logits_positions");
    if (positions != "last" && positions != "all") fail(in.path("logits_positions") + " is neither last nor all");
    out.all_logits = positions == "all";
  }
  const auto& shapes = in.array("cache_shape");
  if (shapes.size() > kMaxCacheTensors) fail("artefact.interface.cache_shape has too many entries");
  if (out.past.size() != shapes.size() || out.present.size() != shapes.size())
    fail("artefact.interface: past, present and cache_shape differ in length");
  for (const Json& shape : shapes) {
    std::vector<std::int64_t> dims;
    std::int64_t elements = 1;
    for (const Json& dim : Reader::checked_array(shape, in.path("cache_shape"))) {
      dims.push_back(Reader::checked_integer(dim, in.path("cache_shape"), 1, kMaxContext));
      if (elements > kMaxCacheElements / dims.back()) fail("artefact.interface.cache_shape is too large");
      elements *= dims.back();
    }
    if (dims.size() != 4 || dims[0] != 1) fail("artefact.interface.cache_shape is not [1, kv_heads, context, head_dim]");
    if (dims[2] < context) fail("artefact.interface.cache_shape holds fewer positions than artefact.context_length");
    out.cache_shape.push_back(std::move(dims));
  }
  return out;
}

Artefact read_artefact(const Json& json) {
  const Reader in(json, "artefact");
  Artefact out;
  out.runtime = in.text("runtime");
  if (out.runtime != EDGEKIT_RUNTIME)
    throw Fault(Exit::kRuntime, "unsupported",
                "this probe has no engine for the runtime \"" + out.runtime + "\", only for " EDGEKIT_RUNTIME);
  out.model_path = in.text("model_path");
  out.context_length = in.integer("context_length", 1, kMaxContext);
  out.vocab = in.integer("vocab", 1, kMaxVocab);
  // The other runtime's programs describe themselves, and its libraries are linked.
  if (out.runtime != "onnxruntime") {
    if (in.optional("kernels")) out.kernels = in.flag("kernels");
    return out;
  }
  out.library_path = in.text("library_path");
  out.interface = read_interface(in.required("interface"), out.context_length);
  if (const Json* config = in.optional("session_config")) {
    if (config->kind != Json::Kind::kObject) fail("artefact.session_config is not an object");
    for (const auto& [key, value] : config->members) {
      if (value.kind != Json::Kind::kString) fail("artefact.session_config." + key + " is not a string");
      out.session_config.emplace_back(key, value.text);
    }
  }
  if (in.optional("kernel_libraries")) out.kernel_libraries = in.texts("kernel_libraries");
  return out;
}

void refuse_beyond_context(const std::string& what, std::int64_t needed, std::int64_t context) {
  if (needed > context)
    throw Fault(Exit::kPlan, "too_long",
                what + " needs " + std::to_string(needed) + " positions, the model has a context of " +
                    std::to_string(context));
}

Trial read_trial(const Json& json, std::size_t index, std::int64_t context) {
  const Reader in(json, "trials[" + std::to_string(index) + "]");
  Trial out;
  out.id = in.integer("id", 0, INT64_MAX);
  const std::string kind = in.text("kind");
  if (kind == "prefill") out.kind = Trial::Kind::kPrefill;
  else if (kind == "decode") out.kind = Trial::Kind::kDecode;
  else fail(in.path("kind") + " is \"" + kind + "\", not prefill or decode");
  out.tokens = in.integer("tokens", 1, kMaxContext);
  if (in.optional("depth")) out.depth = in.integer("depth", 0, kMaxContext);
  if (in.optional("seconds")) {
    if (out.kind != Trial::Kind::kDecode) fail(in.path("seconds") + " is for a decode only");
    out.seconds = in.number("seconds", 0, kMaxSeconds);
  }
  refuse_beyond_context("trial " + std::to_string(out.id), out.depth + out.tokens, context);
  return out;
}

Golden read_golden(const Json& json, const Artefact& artefact) {
  const Reader in(json, "golden");
  const std::int64_t last = artefact.vocab - 1;
  Golden out;
  out.prompt = in.integers("prompt", 0, last);
  out.tokens = in.integers("tokens", 0, last);
  out.logit_ids = in.integers("logit_ids", 0, last);
  if (out.prompt.empty()) fail("golden.prompt is empty");
  if (out.tokens.empty()) fail("golden.tokens is empty");
  // The last token is compared, never fed.
  refuse_beyond_context("the golden check", static_cast<std::int64_t>(out.prompt.size() + out.tokens.size()) - 1,
                        artefact.context_length);
  return out;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path + ": " + std::strerror(errno));
  std::string text;
  std::string chunk(64 << 10, '\0');
  // Grown as the file is: the largest plan allowed would otherwise stand in this process's peak memory.
  while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())), file.gcount() > 0) {
    text.append(chunk.data(), static_cast<std::size_t>(file.gcount()));
    if (text.size() > kMaxJsonBytes) fail(path + ": larger than any plan");
  }
  if (file.bad()) fail(path + ": " + std::strerror(errno));
  return text;
}

}  // namespace

std::int64_t Plan::positions() const {
  std::int64_t most = 1;
  for (const Trial& trial : trials) most = std::max(most, trial.depth + trial.tokens);
  if (golden) most = std::max(most, static_cast<std::int64_t>(golden->prompt.size() + golden->tokens.size()) - 1);
  return most;
}

Plan read_plan(const std::string& path) {
  Json document;
  try {
    document = parse_json(read_file(path));
  } catch (const JsonError& error) {
    fail(path + ": not valid JSON: " + error.what());
  }
  const Reader in(document, "plan");
  const std::int64_t version = in.integer("schema_version", 1, INT64_MAX);
  if (version > kSchemaVersion)
    throw Fault(Exit::kPlan, "unsupported",
                "the plan's schema version " + std::to_string(version) + " is newer than " +
                    std::to_string(kSchemaVersion) + ", the newest this probe reads");
  Plan out;
  out.artefact = read_artefact(in.required("artefact"));
  out.threads = static_cast<int>(in.integer("threads", 1, kMaxThreads));
  if (in.optional("affinity")) {
    out.affinity.emplace();
    for (const std::int64_t cpu : in.integers("affinity", 0, CPU_SETSIZE - 1))
      out.affinity->push_back(static_cast<int>(cpu));
    if (out.affinity->empty()) fail("plan.affinity is empty");
  }
  out.loads = static_cast<int>(in.integer("loads", 1, kMaxLoads));
  const auto& trials = in.array("trials");
  if (trials.size() > kMaxTrials) fail("plan.trials has too many entries");
  std::set<std::int64_t> ids;
  for (const Json& trial : trials) {
    out.trials.push_back(read_trial(trial, out.trials.size(), out.artefact.context_length));
    if (!ids.insert(out.trials.back().id).second)
      fail("plan.trials: two have the id " + std::to_string(out.trials.back().id));
  }
  if (const Json* golden = in.optional("golden")) out.golden = read_golden(*golden, out.artefact);
  out.seed = static_cast<std::uint64_t>(in.integer("seed", INT64_MIN, INT64_MAX));
  out.memory_hz = in.number("memory_hz", 0, kMaxHz);
  // Newer than the rest; a host that does not know them asks for none.
  for (const auto& [key, hz] : {std::pair{"proportional_hz", &out.proportional_hz},
                                std::pair{"conditions_hz", &out.conditions_hz}, std::pair{"power_hz", &out.power_hz}})
    if (in.optional(key)) *hz = in.number(key, 0, kMaxHz);
  if (in.optional("sysfs")) out.sysfs = in.text("sysfs");
  if (in.optional("huge_pages")) out.artefact.huge_pages = in.flag("huge_pages");
  return out;
}

}  // namespace edgekit
