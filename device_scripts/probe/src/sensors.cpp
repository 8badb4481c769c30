#include "sensors.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace edgekit {
namespace {

// Phones have some ninety thermal zones; each open file costs a descriptor, of which Android gives 1024 at the least.
constexpr std::size_t kMaxSensors = 256;
constexpr std::size_t kMaxText = 64;
constexpr int kMaxCpu = 4095;

// Names in `folder` that begin with `prefix`, thermal_zone2 before thermal_zone10.
std::vector<std::string> entries(const std::string& folder, const char* prefix) {
  std::vector<std::string> found;
  if (DIR* dir = opendir(folder.c_str())) {
    while (const dirent* entry = readdir(dir))
      if (entry->d_name[0] != '.' && std::strncmp(entry->d_name, prefix, std::strlen(prefix)) == 0)
        found.emplace_back(entry->d_name);
    closedir(dir);
  }
  std::sort(found.begin(), found.end(), [](const std::string& a, const std::string& b) {
    return std::make_pair(a.size(), a) < std::make_pair(b.size(), b);
  });
  return found;
}

// The first line of a small file, cut to some length; empty where it cannot be read.
std::string read_line(const std::string& path, std::size_t most = kMaxText) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::string text(most, '\0');
  const ssize_t length = read(fd, &text[0], text.size());
  close(fd);
  text.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
  return text.substr(0, text.find('\n'));
}

// "0-3 7" or "0,1,2": the kernel writes CPUs both ways.
std::vector<int> read_cpus(const std::string& path) {
  const std::string text = read_line(path, 4096);
  std::vector<int> cpus;
  const char* at = text.c_str();
  while (*at) {
    char* end;
    const long first = std::strtol(at, &end, 10);
    if (end == at) {
      ++at;
      continue;
    }
    const long last = *end == '-' ? std::strtol(end + 1, &end, 10) : first;
    for (long cpu = first; cpu >= 0 && cpu <= std::min<long>(last, kMaxCpu); ++cpu) cpus.push_back(static_cast<int>(cpu));
    at = end;
  }
  return cpus;
}

class Finder {
 public:
  Finder(const std::string& root, Sensors& out) : root_(root), out_(out) {}

  void find(bool slow, bool power) {
    if (slow) clock_rates();
    if (slow) temperatures();
    supplies(slow, power);
    if (power) energy_counters();
  }

 private:
  void add(std::vector<Sensor>& group, Sensor sensor, const std::string& path) {
    sensor.source = path;
    if (access(path.c_str(), F_OK) != 0) return;
    if (out_.slow.size() + out_.power.size() >= kMaxSensors) {
      out_.unreadable.push_back({path, "more sensors than are read"});
      return;
    }
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
      out_.unreadable.push_back({path, std::strerror(errno)});
      return;
    }
    errno = 0;
    if (!read_sensor(fd)) {
      out_.unreadable.push_back({path, errno ? std::strerror(errno) : "it holds no number"});
      close(fd);
      return;
    }
    sensor.fd = fd;
    group.push_back(std::move(sensor));
  }

  static Sensor sensor(const char* kind, std::string name, const char* unit) {
    Sensor made;
    made.kind = kind;
    made.name = std::move(name);
    made.unit = unit;
    return made;
  }

  void clock_rates() {
    const std::string folder = root_ + "/devices/system/cpu/cpufreq";
    for (const std::string& name : entries(folder, "policy")) {
      const std::string policy = folder + "/" + name;
      Sensor rate = sensor("frequency", name, "kHz");
      rate.cpus = read_cpus(policy + "/related_cpus");
      Sensor limit = rate;
      limit.kind = "frequency_limit";
      add(out_.slow, std::move(rate), policy + "/scaling_cur_freq");
      // Lowered by the kernel when the device is too hot: a throttled core says so here.
      add(out_.slow, std::move(limit), policy + "/scaling_max_freq");
    }
  }

  void temperatures() {
    const std::string zones = root_ + "/class/thermal";
    for (const std::string& name : entries(zones, "thermal_zone")) {
      const std::string type = read_line(zones + "/" + name + "/type");
      // Types repeat; the zone's number does not.
      add(out_.slow, sensor("temperature", type.empty() ? name : type + "#" + name.substr(12), "mC"),
          zones + "/" + name + "/temp");
    }
    // On a PC the cores' own sensors are often found only here; the other chips are disks and fans.
    const std::string chips = root_ + "/class/hwmon";
    for (const std::string& chip : entries(chips, "hwmon")) {
      const std::string type = read_line(chips + "/" + chip + "/name");
      if (type != "coretemp" && type != "k10temp" && type != "zenpower") continue;
      for (const std::string& file : entries(chips + "/" + chip, "temp")) {
        const std::size_t end = file.find("_input");
        if (end == std::string::npos) continue;
        const std::string label = read_line(chips + "/" + chip + "/" + file.substr(0, end) + "_label");
        add(out_.slow, sensor("temperature", type + " " + (label.empty() ? file.substr(0, end) : label), "mC"),
            chips + "/" + chip + "/" + file);
      }
    }
  }

  void supplies(bool slow, bool power) {
    const std::string folder = root_ + "/class/power_supply";
    for (const std::string& name : entries(folder, "")) {
      const std::string supply = folder + "/" + name;
      const std::string type = read_line(supply + "/type");
      if (type == "Battery") {
        // A mouse's battery is a battery, too; it powers the mouse.
        if (read_line(supply + "/scope") == "Device") continue;
        if (power) {
          add(out_.power, sensor("current", name, "uA"), supply + "/current_now");
          add(out_.power, sensor("voltage", name, "uV"), supply + "/voltage_now");
          add(out_.power, sensor("power", name, "uW"), supply + "/power_now");
        }
        // Tenths of a degree.
        if (slow) add(out_.slow, sensor("temperature", name, "dC"), supply + "/temp");
      } else if (power) {
        add(out_.power, sensor("external_power", name, ""), supply + "/online");
      }
    }
  }

  void energy_counters() {
    const std::string folder = root_ + "/class/powercap";
    for (const std::string& name : entries(folder, "intel-rapl:")) {
      const std::string zone = folder + "/" + name;
      const std::string domain = read_line(zone + "/name");
      Sensor counter = sensor("energy", domain.empty() ? name : domain + "#" + name.substr(11), "uJ");
      const std::string range = read_line(zone + "/max_energy_range_uj");
      char* end;
      const std::int64_t wraps_at = std::strtoll(range.c_str(), &end, 10);
      if (end != range.c_str() && wraps_at > 0) counter.wraps_at = wraps_at;
      add(out_.power, std::move(counter), zone + "/energy_uj");
    }
  }

  const std::string root_;
  Sensors& out_;
};

}  // namespace

Sensors::~Sensors() {
  for (const std::vector<Sensor>* group : {&slow, &power})
    for (const Sensor& sensor : *group)
      if (sensor.fd >= 0) close(sensor.fd);
}

Sensors find_sensors(const std::string& root, bool slow, bool power) {
  Sensors found;
  Finder(root, found).find(slow, power);
  return found;
}

std::optional<std::int64_t> read_sensor(int fd) {
  char text[32];
  const ssize_t length = pread(fd, text, sizeof text - 1, 0);
  if (length <= 0) return std::nullopt;
  text[length] = '\0';
  char* end;
  errno = 0;
  const std::int64_t value = std::strtoll(text, &end, 10);
  if (end == text || errno != 0 || (*end != '\n' && *end != '\0')) return std::nullopt;
  return value;
}

}  // namespace edgekit
