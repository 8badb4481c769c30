#include "events.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "clock.h"
#include "fault.h"

#ifndef EDGEKIT_PROBE_VERSION
#define EDGEKIT_PROBE_VERSION "unversioned"
#endif

namespace edgekit {
namespace {

constexpr std::int64_t kSchemaVersion = 1;

#if defined(__ANDROID__) && defined(__aarch64__)
constexpr const char* kAbi = "android-arm64-v8a";
#elif defined(__ANDROID__) && defined(__x86_64__)
constexpr const char* kAbi = "android-x86_64";
#elif defined(__aarch64__)
constexpr const char* kAbi = "linux-arm64";
#elif defined(__x86_64__)
constexpr const char* kAbi = "linux-x86_64";
#else
#error "no name is agreed for this ABI: see ABIS in edgekit/deploy/toolchain.py"
#endif

void put(JsonWriter& json, const char* key, const std::optional<std::int64_t>& value) {
  json.key(key);
  if (value) json.value(*value);
  else json.null();
}

void put_memory(JsonWriter& json, const MemoryUse& use) {
  json.key("memory").begin_object();
  put(json, "rss", use.rss);
  put(json, "anon", use.anon);
  put(json, "file", use.file);
  put(json, "peak", use.peak);
  json.end_object();
}

template <typename Sample>
void put_column(JsonWriter& json, const char* name, const std::vector<Sample>& samples, std::int64_t Sample::* field) {
  json.key(name).begin_array();
  for (const Sample& sample : samples) json.value(sample.*field);
  json.end_array();
}

[[noreturn]] void cannot_write(const std::string& what) {
  throw Fault(Exit::kEvents, "events", what + ": " + std::strerror(errno));
}

int open_file(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) cannot_write("open the event stream " + path);
  return fd;
}

bool write_all(int fd, const std::string& text) {
  std::size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t n = write(fd, text.data() + sent, text.size() - sent);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

EventStream::EventStream(const std::string& target, const std::string& copy) {
  if (!copy.empty()) copy_ = open_file(copy);
  fd_ = target == "-" ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0) : open_file(target);
  if (fd_ < 0) cannot_write("open standard output");
}

EventStream::~EventStream() {
  if (fd_ >= 0) close(fd_);
  if (copy_ >= 0) close(copy_);
}

JsonWriter EventStream::event(const char* name) const {
  JsonWriter json;
  json.begin_object().key("event").value(name).key("t").value(now_ns());
  return json;
}

void EventStream::send(JsonWriter& json) {
  json.end_object();
  const std::string line = json.text() + "\n";
  if (copy_ >= 0 && !write_all(copy_, line)) cannot_write("write the copy of the events");
  if (fd_ < 0 || write_all(fd_, line)) return;
  if (copy_ < 0) cannot_write("write to the event stream");
  // The connection to the host is gone, the measurement is not: it can be fetched from the copy later.
  const std::string reason = std::strerror(errno);
  close(fd_);
  fd_ = -1;
  error("stream_lost", "the event stream cannot be written any more (" + reason + "); the copy goes on", false);
}

void EventStream::hello(const std::string& runtime, const std::string& runtime_version) {
  JsonWriter json = event("hello");
  json.key("schema_version").value(kSchemaVersion);
  json.key("probe_version").value(EDGEKIT_PROBE_VERSION);
  json.key("runtime").value(runtime);
  json.key("runtime_version").value(runtime_version);
  json.key("abi").value(kAbi);
  json.key("clock").value(kClockName);
  json.key("clock_resolution_ns").value(clock_resolution_ns());
  json.key("unix_ns").value(unix_ns());
  json.key("pid").value(std::int64_t{getpid()});
  json.key("cpus_online").value(std::int64_t{sysconf(_SC_NPROCESSORS_ONLN)});
  json.key("page_size").value(std::int64_t{sysconf(_SC_PAGESIZE)});
  send(json);
  greeted_ = true;
}

void EventStream::loaded(const LoadResult& load) {
  JsonWriter json = event("loaded");
  json.key("load").value(load.load);
  json.key("resident_before");
  if (load.resident_before) json.value(*load.resident_before);
  else json.null();
  json.key("start_ns").value(load.start_ns);
  json.key("end_ns").value(load.end_ns);
  json.key("threads").value(load.threads);
  json.key("affinity_asked");
  if (load.affinity_asked) json.values(*load.affinity_asked);
  else json.null();
  json.key("affinity_read").begin_array();
  for (const auto& cpus : load.affinity_read) json.values(cpus);
  json.end_array();
  json.key("kernels").values(load.kernels);
  json.key("major_faults").value(load.major_faults);
  json.key("huge_bytes").value(load.huge_bytes);
  put_memory(json, read_memory());
  send(json);
}

void EventStream::golden(const std::vector<std::int64_t>& tokens, const std::vector<std::vector<float>>& logits) {
  JsonWriter json = event("golden");
  json.key("tokens").values(tokens);
  json.key("logits").begin_array();
  for (const auto& row : logits) {
    json.begin_array();
    for (const float logit : row) json.value(double{logit});
    json.end_array();
  }
  json.end_array();
  send(json);
}

void EventStream::trial_start(std::int64_t trial) {
  JsonWriter json = event("trial_start");
  json.key("trial").value(trial);
  send(json);
}

void EventStream::trial(const TrialTimes& times) {
  JsonWriter json = event("trial");
  json.key("trial").value(times.trial);
  if (times.part) json.key("part").value(*times.part);
  json.key("start_ns").value(times.start_ns);
  json.key("end_ns").value(times.end_ns);
  json.key("token_ns").values(times.token_ns);
  const RegionUse& use = times.use;
  json.key("cpus").values(use.cpus);
  json.key("caller_cpus").values(use.caller_cpus);
  json.key("major_faults").value(use.major_faults);
  json.key("minor_faults").value(use.minor_faults);
  json.key("involuntary_switches").value(use.involuntary_switches);
  json.key("voluntary_switches").value(use.voluntary_switches);
  json.key("cpu_ns").value(use.cpu_ns);
  json.key("thread_run_ns").values(use.thread_run_ns);
  json.key("thread_wait_ns").values(use.thread_wait_ns);
  put(json, "limited_ns", use.limited_ns);
  put(json, "machine_ns", use.machine_ns);
  put(json, "stolen_ns", use.stolen_ns);
  send(json);
}

void EventStream::sensors(const Sensors& sensors) {
  JsonWriter json = event("sensors");
  json.key("sensors").begin_array();
  for (const std::vector<Sensor>* group : {&sensors.slow, &sensors.power})
    for (const Sensor& sensor : *group) {
      json.begin_object();
      json.key("kind").value(sensor.kind);
      json.key("name").value(sensor.name);
      json.key("unit").value(sensor.unit);
      json.key("source").value(sensor.source);
      json.key("cpus").values(sensor.cpus);
      put(json, "wraps_at", sensor.wraps_at);
      json.end_object();
    }
  json.end_array();
  json.key("unreadable").begin_array();
  for (const Unreadable& file : sensors.unreadable)
    json.begin_object().key("source").value(file.source).key("reason").value(file.reason).end_object();
  json.end_array();
  send(json);
}

void EventStream::memory(const std::vector<MemorySample>& samples) {
  if (samples.empty()) return;
  JsonWriter json = event("memory");
  put_column(json, "at_ns", samples, &MemorySample::at_ns);
  put_column(json, "rss", samples, &MemorySample::rss);
  put_column(json, "anon", samples, &MemorySample::anon);
  put_column(json, "file", samples, &MemorySample::file);
  send(json);
}

void EventStream::proportional(const std::vector<ProportionalSample>& samples) {
  if (samples.empty()) return;
  JsonWriter json = event("proportional");
  put_column(json, "at_ns", samples, &ProportionalSample::at_ns);
  put_column(json, "took_ns", samples, &ProportionalSample::took_ns);
  put_column(json, "rss", samples, &ProportionalSample::rss);
  put_column(json, "pss", samples, &ProportionalSample::pss);
  put_column(json, "uss", samples, &ProportionalSample::uss);
  put_column(json, "swap", samples, &ProportionalSample::swap);
  send(json);
}

void EventStream::footprint(const char* moment, std::optional<std::int64_t> trial, const Footprint& found) {
  JsonWriter json = event("footprint");
  json.key("moment").value(moment);
  put(json, "trial", trial);
  json.key("at_ns").value(found.at_ns);
  json.key("rss").value(found.rss);
  json.key("pss").value(found.pss);
  json.key("swap").value(found.swap);
  json.key("weights_file").value(found.weights_file);
  json.key("other_file").value(found.other_file);
  json.key("anon").value(found.anon);
  json.key("other").value(found.other);
  json.key("cache").value(found.cache);
  json.key("cache_size").value(found.cache_size);
  json.key("buffers").value(found.buffers);
  json.key("buffers_size").value(found.buffers_size);
  put(json, "allocated", found.allocated);
  put(json, "reserved", found.reserved);
  send(json);
}

void EventStream::conditions(const ConditionColumns& columns, std::size_t first) {
  if (columns.at_ns.empty()) return;
  JsonWriter json = event("conditions");
  json.key("first").value(static_cast<std::int64_t>(first));
  json.key("at_ns").values(columns.at_ns);
  json.key("took_ns").values(columns.took_ns);
  json.key("values").begin_array();
  for (const auto& column : columns.values) {
    json.begin_array();
    for (const std::int64_t value : column) {
      if (value == kNoValue) json.null();
      else json.value(value);
    }
    json.end_array();
  }
  json.end_array();
  send(json);
}

void EventStream::profile(const char* format, std::int64_t passes, const std::vector<ProfiledTrial>& trials) {
  JsonWriter json = event("operator_profile");
  json.key("format").value(format);
  json.key("passes").value(passes);
  json.key("trials").begin_array();
  for (const ProfiledTrial& trial : trials) {
    json.begin_object();
    json.key("trial").value(trial.trial);
    json.key("first").value(trial.first);
    json.key("passes").value(trial.passes);
    json.end_object();
  }
  json.end_array();
  send(json);
}

void EventStream::error(const std::string& code, const std::string& message, bool fatal) {
  JsonWriter json = event("error");
  json.key("code").value(code);
  json.key("message").value(message);
  json.key("fatal").value(fatal);
  send(json);
}

void EventStream::bye(const char* reason, int trials_done) {
  JsonWriter json = event("bye");
  json.key("reason").value(reason);
  json.key("trials_done").value(trials_done);
  put_memory(json, read_memory());
  send(json);
}

}  // namespace edgekit
