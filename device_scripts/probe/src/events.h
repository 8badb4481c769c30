// The event stream: one JSON object a line, each written out at once (edgekit/schema/event.py is the contract).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "conditions.h"
#include "footprint.h"
#include "json.h"
#include "memory.h"
#include "sensors.h"
#include "usage.h"

namespace edgekit {

struct TrialTimes {
  std::int64_t trial = 0;
  // Which pass of a trial that lasts for a time.
  std::optional<std::int64_t> part;
  std::int64_t start_ns = 0;
  std::int64_t end_ns = 0;
  std::vector<std::int64_t> token_ns;
  // Forward passes: one a token of a decode; a prefill may take several.
  std::int64_t passes = 0;
  RegionUse use;
};

// Which of the profiled passes a trial timed.
struct ProfiledTrial {
  std::int64_t trial = 0;
  std::int64_t first = 0;
  std::int64_t passes = 0;
};

struct LoadResult {
  int load = 0;
  std::optional<double> resident_before;
  std::int64_t start_ns = 0;
  std::int64_t end_ns = 0;
  int threads = 0;
  std::optional<std::vector<int>> affinity_asked;
  std::vector<std::vector<int>> affinity_read;
  std::vector<std::string> kernels;
  std::int64_t major_faults = 0;
  std::int64_t huge_bytes = 0;
};

class EventStream {
 public:
  // `target` is a path, replaced if it exists, or "-" for standard output; `copy` is a path that gets every line as
  // well, or empty. Throws Fault (events).
  EventStream(const std::string& target, const std::string& copy);
  ~EventStream();
  EventStream(const EventStream&) = delete;
  EventStream& operator=(const EventStream&) = delete;

  void hello(const std::string& runtime, const std::string& runtime_version);
  void loaded(const LoadResult& load);
  void golden(const std::vector<std::int64_t>& tokens, const std::vector<std::vector<float>>& logits);
  void trial_start(std::int64_t trial);
  void trial(const TrialTimes& times);
  // The sensors that are sampled; samples name them by their place: first all slow ones, then those of power.
  void sensors(const Sensors& sensors);
  // Nothing is written for no samples.
  void memory(const std::vector<MemorySample>& samples);
  void proportional(const std::vector<ProportionalSample>& samples);
  // `moment` is start, loaded, golden or trial; `trial` is then its number.
  void footprint(const char* moment, std::optional<std::int64_t> trial, const Footprint& found);
  // `first` is the place of the first column's sensor.
  void conditions(const ConditionColumns& columns, std::size_t first);
  void profile(const char* format, std::int64_t passes, const std::vector<ProfiledTrial>& trials);
  void error(const std::string& code, const std::string& message, bool fatal);
  void bye(const char* reason, int trials_done);

  bool greeted() const { return greeted_; }

 private:
  JsonWriter event(const char* name) const;
  void send(JsonWriter& json);

  // -1 once nobody reads it any more and the copy goes on alone.
  int fd_ = -1;
  int copy_ = -1;
  bool greeted_ = false;
};

}  // namespace edgekit
