// All that is sampled beside the trials, each at the plan's rate, and its way into the events.
#pragma once

#include "conditions.h"
#include "events.h"
#include "memory.h"
#include "plan.h"
#include "sensors.h"

namespace edgekit {

class Samplers {
 public:
  // Finds the sensors that the plan asks for, and starts. Throws Fault (memory, thread).
  explicit Samplers(const Plan& plan);

  // Says what is sampled, and what cannot be read.
  void introduce(EventStream& events) const;
  // Writes the samples since the last call. Not called inside a timed region.
  void flush(EventStream& events);

 private:
  Sensors sensors_;
  const bool wants_sensors_;
  MemorySampler memory_;
  ProportionalSampler proportional_;
  ConditionsSampler slow_;
  ConditionsSampler power_;
};

}  // namespace edgekit
