// edgekit-calibrate --places CPUS/CPUS/... [--rounds N] [--seconds S] [--buffer BYTES]
//
// Measures what the processor's CPUs can do, in places: each a list of CPUs with one thread pinned to each. Writes a
// line of JSON for each sample (edgekit/schema/calibration.py is the contract). ../README.md documents the exit codes.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "affinity.h"
#include "clock.h"
#include "fault.h"
#include "huge_pages.h"
#include "json.h"
#include "kernels.h"
#include "pool.h"

#ifndef EDGEKIT_PROBE_VERSION
#define EDGEKIT_PROBE_VERSION "unversioned"
#endif

namespace edgekit {
namespace {

constexpr const char* kUsage =
    "usage: edgekit-calibrate --places CPUS[/CPUS...] [--rounds N] [--seconds S] [--buffer BYTES]\n";

// Work of one sample: long against the clock and a thread's start, short enough that most pass undisturbed between two
// turns of another program.
constexpr std::int64_t kSampleNs = 10'000'000;
// Side of the products: operands of one thread stay in its second-level cache.
constexpr int kDepth = 256;
constexpr int kTiles = 16;
constexpr int kLaunches = 500;
// A sample in which a thread had its CPU for less of the time was disturbed. Rounds go on until each quantity has so
// many undisturbed ones, or the time is over.
constexpr double kQuiet = 0.97;
constexpr int kEnough = 7;
constexpr std::int64_t kClockSteps = 400'000;
// What one pass reads, for each thread; the next pass goes on behind it.
constexpr std::size_t kChunkWords = std::size_t{1} << 17;
// A buffer this many times the last-level cache: what is left in it from the last pass is little.
constexpr std::int64_t kCaches = 8;
constexpr std::int64_t kSmallestBuffer = std::int64_t{128} << 20;
constexpr std::int64_t kLargestBuffer = std::int64_t{1} << 30;

struct Arguments {
  std::vector<std::vector<int>> places;
  int rounds = 25;
  double seconds = 40;
  std::int64_t buffer = 0;
};

bool parse_places(const std::string& text, std::vector<std::vector<int>>& out) {
  std::vector<int> place;
  std::size_t at = 0;
  while (at < text.size()) {
    char* end = nullptr;
    const long cpu = std::strtol(text.c_str() + at, &end, 10);
    if (end == text.c_str() + at || cpu < 0 || cpu >= CPU_SETSIZE) return false;
    place.push_back(static_cast<int>(cpu));
    at = static_cast<std::size_t>(end - text.c_str());
    if (at == text.size() || text[at] == '/') {
      out.push_back(place);
      place.clear();
    } else if (text[at] != ',') {
      return false;
    }
    ++at;
  }
  return place.empty() && !out.empty();
}

bool parse_arguments(int argc, char** argv, Arguments& out) {
  if (argc % 2 == 0) return false;
  for (int i = 1; i < argc; i += 2) {
    if (std::strcmp(argv[i], "--places") == 0) {
      if (!parse_places(argv[i + 1], out.places)) return false;
    } else if (std::strcmp(argv[i], "--rounds") == 0) out.rounds = std::atoi(argv[i + 1]);
    else if (std::strcmp(argv[i], "--seconds") == 0) out.seconds = std::atof(argv[i + 1]);
    else if (std::strcmp(argv[i], "--buffer") == 0) out.buffer = std::atoll(argv[i + 1]);
    else return false;
  }
  return !out.places.empty() && out.rounds > 0 && out.seconds > 0 && out.buffer >= 0;
}

std::int64_t thread_cpu_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return to_ns(t);
}

void say(JsonWriter& json) {
  json.end_object();
  const std::string line = json.text() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0)
    throw Fault(Exit::kEvents, "events", "write to standard output");
}

struct Cache {
  int level;
  std::string kind;
  std::int64_t bytes;
  std::string cpus;
};

// What the kernel tells of the caches of one CPU; nothing where it does not.
std::vector<Cache> caches_of(int cpu) {
  std::vector<Cache> out;
  for (int index = 0; index < 10; ++index) {
    const std::string folder =
        "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cache/index" + std::to_string(index) + "/";
    Cache cache{0, "", 0, ""};
    std::string size;
    if (!(std::ifstream(folder + "level") >> cache.level)) break;
    if (!(std::ifstream(folder + "size") >> size)) continue;
    std::ifstream(folder + "type") >> cache.kind;
    std::ifstream(folder + "shared_cpu_list") >> cache.cpus;
    char* unit = nullptr;
    cache.bytes = std::strtoll(size.c_str(), &unit, 10);
    if (*unit == 'K') cache.bytes <<= 10;
    if (*unit == 'M') cache.bytes <<= 20;
    out.push_back(cache);
  }
  return out;
}

// Operands of one thread, packed for a product.
struct Operands {
  std::vector<std::uint8_t> a;
  std::vector<std::uint8_t> b;
  std::vector<std::uint8_t> c;
};

// A product in floats has 4 bytes an element, one in integers 1.
Operands make_operands(const Product& product, std::size_t size) {
  Operands made;
  const auto count = [&](int side) { return static_cast<std::size_t>(side) * kDepth * kTiles; };
  made.a.resize(count(product.rows) * size);
  made.b.resize(count(product.columns) * size);
  made.c.resize(static_cast<std::size_t>(product.rows) * product.columns * 4);
  std::uint32_t state = 12345;
  const auto draw = [&] { return (state = state * 1664525u + 1013904223u) >> 26; };  // 0 to 63
  if (size == 1) {
    for (std::uint8_t& value : made.a) value = static_cast<std::uint8_t>(draw());
    for (std::uint8_t& value : made.b) value = static_cast<std::uint8_t>(static_cast<std::int8_t>(draw() * 2) - 63);
  } else {
    for (auto* list : {&made.a, &made.b})
      for (std::size_t at = 0; at < list->size(); at += 4) {
        const float value = static_cast<float>(draw()) / 64.0f - 0.5f;
        std::memcpy(list->data() + at, &value, 4);
      }
  }
  return made;
}

template <typename A, typename B, typename C>
bool same_as_plain(const Product& product, const Operands& operands, double tolerance) {
  const auto* a = reinterpret_cast<const A*>(operands.a.data());
  const auto* b = reinterpret_cast<const B*>(operands.b.data());
  const auto* c = reinterpret_cast<const C*>(operands.c.data());
  for (int i = 0; i < product.rows; ++i)
    for (int j = 0; j < product.columns; ++j) {
      double sum = 0;
      for (int k = 0; k < kDepth; ++k) {
        const int block = k / product.step;
        const int inner = k % product.step;
        sum += static_cast<double>(a[(block * product.rows + i) * product.step + inner]) *
               static_cast<double>(b[(block * product.columns + j) * product.step + inner]);
      }
      if (!(std::abs(sum - static_cast<double>(c[i * product.columns + j])) <= tolerance)) return false;
    }
  return true;
}

// A rate is worth nothing if the product is wrong: each that could be chosen is held against plain sums.
void check(const std::vector<Product>& products, std::size_t size) {
  for (const Product& product : products) {
    Operands operands = make_operands(product, size);
    product.tile(operands.a.data(), operands.b.data(), operands.c.data(), kDepth);
    const bool same = size == 1 ? same_as_plain<std::uint8_t, std::int8_t, std::int32_t>(product, operands, 0)
                                : same_as_plain<float, float, float>(product, operands, 1e-3);
    if (!same) throw Fault(Exit::kRun, "product", std::string("the product ") + product.name + " computes a wrong result");
  }
}

void multiply(const Product& product, std::size_t size, Operands& operands, std::int64_t passes) {
  const std::size_t a = static_cast<std::size_t>(product.rows) * kDepth * size;
  const std::size_t b = static_cast<std::size_t>(product.columns) * kDepth * size;
  for (std::int64_t pass = 0; pass < passes; ++pass)
    for (int j = 0; j < kTiles; ++j)
      for (int i = 0; i < kTiles; ++i)
        product.tile(operands.a.data() + i * a, operands.b.data() + j * b, operands.c.data(), kDepth);
}

double operations(const Product& product) {
  return 2.0 * product.rows * product.columns * kDepth * kTiles * kTiles;
}

// Additions that wait for each other: one a cycle on every processor of today. Of a register, since some processors add
// small constants while they rename registers, many in one cycle.
void count_cycles(std::int64_t steps) {
  std::uint64_t value = 0;
  std::uint64_t step = 1;
  __asm__ volatile("" : "+r"(step));
  for (std::int64_t i = 0; i < steps; i += 8) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      value += step;
      __asm__ volatile("" : "+r"(value), "+r"(step));
    }
  }
}

class Calibration {
 public:
  explicit Calibration(const Arguments& arguments) : arguments_(arguments) {}
  void run();

 private:
  struct Task {
    const char* what;
    // What one thread of `threads` does in `passes` passes.
    std::function<void(int thread, int threads, std::int64_t passes)> each;
    // What all threads together do in one pass, in the task's unit.
    std::function<double(int threads)> work;
  };
  struct Timing {
    std::int64_t ns;
    // Smallest share of that time in which a thread had its CPU.
    double on_cpu;
  };

  void hello();
  void make_buffer();
  std::vector<Task> tasks();
  bool quiet_enough() const;
  void measure(std::size_t place, int round);
  Timing timed(Pool& pool, const std::function<void(int)>& job);
  void sample(std::size_t place, int round, const char* what, double value, double on_cpu);

  const Arguments& arguments_;
  std::vector<Cache> caches_;
  std::uint64_t* buffer_ = nullptr;
  // How much of it, about, lies in huge pages.
  std::int64_t huge_bytes_ = 0;
  std::size_t words_ = 0;
  Product float_ = float_products().front();
  Product integer_ = integer_products().front();
  std::vector<Operands> float_operands_;
  std::vector<Operands> integer_operands_;
  std::vector<Task> tasks_;
  // Passes of a sample, by place and task; found in the first round.
  std::vector<std::vector<std::int64_t>> passes_;
  // Undisturbed samples, by place and task.
  std::vector<std::vector<int>> quiet_;
  // Where each thread's next pass over the buffer begins.
  std::vector<std::size_t> next_;
  volatile std::uint64_t sink_ = 0;
};

void Calibration::make_buffer() {
  std::int64_t last = 0;
  for (const Cache& cache : caches_) last = std::max(last, cache.bytes);
  std::int64_t bytes = arguments_.buffer;
  if (bytes == 0) {
    bytes = std::clamp(kCaches * last, kSmallestBuffer, kLargestBuffer);
    const std::int64_t free = std::int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);
    bytes = std::min(bytes, std::max(free / 3, std::int64_t{16} << 20));
  }
  // Every thread has at least one chunk of its own.
  std::size_t threads = 1;
  for (const auto& place : arguments_.places) threads = std::max(threads, place.size());
  const auto grain = static_cast<std::int64_t>(threads * kChunkWords * 8);
  bytes = std::max(bytes / grain * grain, grain);
  next_.assign(threads, 0);
  void* at = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw Fault(Exit::kSystem, "memory", "reserve " + std::to_string(bytes) + " bytes to read");
  // Pages that were never written are all the same one.
  std::memset(at, 0x5a, static_cast<std::size_t>(bytes));
  // As the probe does with weights: with small pages the processor waits for addresses, and weights would seem to be read
  // faster than memory allows.
  huge_bytes_ = std::min(use_huge_pages(), bytes);
  buffer_ = static_cast<std::uint64_t*>(at);
  words_ = static_cast<std::size_t>(bytes) / 8;
}

void Calibration::hello() {
  const Features known = features();
  JsonWriter json;
  json.begin_object().key("event").value("calibration");
  json.key("schema_version").value(1);
  json.key("version").value(EDGEKIT_PROBE_VERSION);
  json.key("fp32_kernel").value(float_.name);
  json.key("int8_kernel").value(integer_.name);
  json.key("fp16").value(known.fp16);
  json.key("dotprod").value(known.dotprod);
  json.key("i8mm").value(known.i8mm);
  json.key("buffer_bytes").value(static_cast<std::int64_t>(words_ * 8));
  json.key("huge_bytes").value(huge_bytes_);
  json.key("caches").begin_array();
  for (const Cache& cache : caches_) {
    json.begin_object().key("level").value(cache.level).key("kind").value(cache.kind);
    json.key("bytes").value(cache.bytes).key("cpus").value(cache.cpus).end_object();
  }
  json.end_array();
  say(json);
}

std::vector<Calibration::Task> Calibration::tasks() {
  return {
      {"bandwidth",
       [this](int thread, int threads, std::int64_t passes) {
         const auto self = static_cast<std::size_t>(thread);
         const std::size_t chunks = std::max<std::size_t>(1, words_ / static_cast<std::size_t>(threads) / kChunkWords);
         std::uint64_t sum = 0;
         for (std::int64_t pass = 0; pass < passes; ++pass, ++next_[self])
           sum += read_all(buffer_ + (self * chunks + next_[self] % chunks) * kChunkWords, kChunkWords);
         if (sum == 1) sink_ = sum;  // the compiler must not leave the reading out
       },
       [](int threads) { return static_cast<double>(kChunkWords) * 8 * threads; }},
      {"fp32",
       [this](int thread, int, std::int64_t passes) {
         multiply(float_, 4, float_operands_[static_cast<std::size_t>(thread)], passes);
       },
       [this](int threads) { return operations(float_) * threads; }},
      {"int8",
       [this](int thread, int, std::int64_t passes) {
         multiply(integer_, 1, integer_operands_[static_cast<std::size_t>(thread)], passes);
       },
       [this](int threads) { return operations(integer_) * threads; }},
      {"clock", [](int, int, std::int64_t passes) { count_cycles(passes * kClockSteps); },
       [](int) { return static_cast<double>(kClockSteps); }},
  };
}

void Calibration::sample(std::size_t place, int round, const char* what, double value, double on_cpu) {
  JsonWriter json;
  json.begin_object().key("event").value("sample").key("what").value(what);
  json.key("cpus").values(arguments_.places[place]);
  json.key("round").value(round).key("value").value(value).key("on_cpu").value(on_cpu);
  say(json);
}

Calibration::Timing Calibration::timed(Pool& pool, const std::function<void(int)>& job) {
  struct Part {
    std::int64_t used = 0;
    std::int64_t end = 0;
    // Threads do not write to one cache line.
    char padding[112];
  };
  std::vector<Part> parts(static_cast<std::size_t>(pool.threads()));
  const std::int64_t start = now_ns();
  pool.run([&](int thread) {
    Part& part = parts[static_cast<std::size_t>(thread)];
    const std::int64_t before = thread_cpu_ns();
    job(thread);
    part.used = thread_cpu_ns() - before;
    part.end = now_ns();
  });
  Timing timing{1, 1.0};
  for (const Part& part : parts) {
    const std::int64_t took = std::max<std::int64_t>(part.end - start, 1);
    timing.ns = std::max(timing.ns, took);
    timing.on_cpu = std::min(timing.on_cpu, static_cast<double>(part.used) / static_cast<double>(took));
  }
  return timing;
}

// The first round finds how many passes a sample needs, wakes the CPUs, and is not reported.
void Calibration::measure(std::size_t place, int round) {
  Pool pool(arguments_.places[place]);
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    const Task& task = tasks_[i];
    std::int64_t& passes = passes_[place][i];
    const auto job = [&](int thread) { task.each(thread, pool.threads(), passes); };
    if (round < 0) {
      std::int64_t took = timed(pool, job).ns;
      while (took < kSampleNs / 4) {
        passes *= 2;
        took = timed(pool, job).ns;
      }
      passes = std::max<std::int64_t>(1, passes * kSampleNs / took);
    } else {
      const Timing timing = timed(pool, job);
      const double done = task.work(pool.threads()) * static_cast<double>(passes);
      if (timing.on_cpu >= kQuiet) ++quiet_[place][i];
      sample(place, round, task.what, done * 1e9 / static_cast<double>(timing.ns), timing.on_cpu);
    }
  }
  if (round < 0) return;
  const std::function<void(int)> nothing = [](int) {};
  const std::int64_t used = thread_cpu_ns();
  const std::int64_t start = now_ns();
  for (int i = 0; i < kLaunches; ++i) pool.run(nothing);
  const double took = static_cast<double>(now_ns() - start);
  sample(place, round, "launch", took / kLaunches, static_cast<double>(thread_cpu_ns() - used) / took);
}

bool Calibration::quiet_enough() const {
  for (const auto& place : quiet_)
    for (const int count : place)
      if (count < kEnough) return false;
  return true;
}

void Calibration::run() {
  check(float_products(), 4);
  check(integer_products(), 1);
  std::size_t threads = 1;
  for (const auto& place : arguments_.places) {
    threads = std::max(threads, place.size());
    for (const Cache& cache : caches_of(place.front())) {
      const bool known = std::any_of(caches_.begin(), caches_.end(), [&](const Cache& other) {
        return other.level == cache.level && other.kind == cache.kind && other.cpus == cache.cpus;
      });
      if (!known) caches_.push_back(cache);
    }
  }
  make_buffer();
  for (std::size_t i = 0; i < threads; ++i) {
    float_operands_.push_back(make_operands(float_, 4));
    integer_operands_.push_back(make_operands(integer_, 1));
  }
  hello();
  tasks_ = tasks();
  quiet_.assign(arguments_.places.size(), std::vector<int>(tasks_.size(), 0));
  passes_.assign(arguments_.places.size(), std::vector<std::int64_t>(tasks_.size(), 1));
  const std::int64_t end = now_ns() + static_cast<std::int64_t>(arguments_.seconds * 1e9);
  int round = -1;
  // In turn, so that a change of the machine falls on all places; at least one whole round is measured.
  for (; round < 1 || (now_ns() < end && (round < arguments_.rounds || !quiet_enough())); ++round)
    for (std::size_t place = 0; place < arguments_.places.size(); ++place) measure(place, round);
  JsonWriter json;
  json.begin_object().key("event").value("done").key("rounds").value(round);
  say(json);
}

}  // namespace
}  // namespace edgekit

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--clock") == 0) {
    // For the host, which sees that the program starts here; as the probe does.
    std::printf("%lld\n", static_cast<long long>(edgekit::now_ns()));
    return 0;
  }
  edgekit::Arguments arguments;
  if (!edgekit::parse_arguments(argc, argv, arguments)) {
    std::fputs(edgekit::kUsage, stderr);
    return static_cast<int>(edgekit::Exit::kUsage);
  }
  try {
    edgekit::Calibration(arguments).run();
  } catch (const edgekit::Fault& fault) {
    std::fprintf(stderr, "edgekit-calibrate: %s\n", fault.what());
    return static_cast<int>(fault.exit());
  } catch (const std::bad_alloc&) {
    std::fputs("edgekit-calibrate: out of memory\n", stderr);
    return static_cast<int>(edgekit::Exit::kSystem);
  }
  return 0;
}
