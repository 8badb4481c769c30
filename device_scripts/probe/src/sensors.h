// What a kernel lets a program read of its machine: clock rates, temperatures, currents, energy counters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace edgekit {

// One file that holds one integer, kept open.
struct Sensor {
  // frequency, frequency_limit, temperature, current, voltage, power, energy, external_power
  // (SensorKind in edgekit/schema/event.py).
  std::string kind;
  std::string name;
  // What an integer of it counts, as the kernel documents the file: kHz, mC, uA, uV, uW, uJ; empty for a switch.
  std::string unit;
  std::string source;
  // The CPUs of a clock rate.
  std::vector<int> cpus;
  // A counter begins again after this value.
  std::optional<std::int64_t> wraps_at;
  int fd = -1;
};

struct Unreadable {
  std::string source;
  std::string reason;
};

struct Sensors {
  Sensors() = default;
  ~Sensors();
  Sensors(Sensors&&) = default;
  Sensors& operator=(Sensors&&) = delete;
  Sensors(const Sensors&) = delete;
  Sensors& operator=(const Sensors&) = delete;

  // Slow quantities (clock rates, temperatures), and those that are integrated over time (current, voltage, energy).
  std::vector<Sensor> slow;
  std::vector<Sensor> power;
  // What is there and does not give a number.
  std::vector<Unreadable> unreadable;
};

// Finds and opens what can be read below `root` (/sys) of either group. The probe looks by itself: what may be read depends on the
// user and the security context that it runs with, which only it has.
Sensors find_sensors(const std::string& root, bool slow, bool power);

// The integer that the file holds now, or nothing: a core that was taken offline, a sensor that went away.
std::optional<std::int64_t> read_sensor(int fd);

}  // namespace edgekit
