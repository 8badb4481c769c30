#include "samplers.h"

#include <string>

namespace edgekit {
namespace {

Sensors wanted(const Plan& plan) {
  if (plan.conditions_hz <= 0 && plan.power_hz <= 0) return {};
  return find_sensors(plan.sysfs, plan.conditions_hz > 0, plan.power_hz > 0);
}

}  // namespace

Samplers::Samplers(const Plan& plan)
    : sensors_(wanted(plan)),
      wants_sensors_(plan.conditions_hz > 0 || plan.power_hz > 0 || plan.proportional_hz > 0),
      memory_(plan.memory_hz),
      proportional_(plan.proportional_hz),
      slow_(sensors_.slow, plan.conditions_hz),
      power_(sensors_.power, plan.power_hz) {
  if (!proportional_.unreadable().empty())
    sensors_.unreadable.push_back({ProportionalSampler::kSource, proportional_.unreadable()});
}

void Samplers::introduce(EventStream& events) const {
  if (wants_sensors_) events.sensors(sensors_);
}

void Samplers::flush(EventStream& events) {
  events.memory(memory_.drain());
  events.proportional(proportional_.drain());
  events.conditions(slow_.drain(), 0);
  events.conditions(power_.drain(), sensors_.slow.size());
  const auto tell = [&](std::int64_t dropped, const char* what) {
    if (dropped)
      events.error("samples_dropped", std::to_string(dropped) + " " + what + " samples found the buffer full", false);
  };
  tell(memory_.take_dropped(), "memory");
  tell(proportional_.take_dropped(), "proportional memory");
  tell(slow_.take_dropped(), "temperature and frequency");
  tell(power_.take_dropped(), "power");
}

}  // namespace edgekit
