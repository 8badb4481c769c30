// edgekit-probe --plan plan.json --events events.jsonl|- [--copy copy.jsonl] [--profile operators]
// edgekit-probe --clock
//
// Reads a plan, streams events. ../README.md documents the exit codes.

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "affinity.h"
#include "clock.h"
#include "engine.h"
#include "events.h"
#include "fault.h"
#include "memory.h"
#include "plan.h"
#include "samplers.h"
#include "termination.h"
#include "trials.h"
#include "usage.h"

namespace edgekit {
namespace {

constexpr const char* kUsage =
    "usage: edgekit-probe --plan PLAN.json --events EVENTS.jsonl|- [--copy COPY.jsonl] [--profile OPERATORS]\n"
    "       edgekit-probe --clock\n";

struct Arguments {
  std::string plan;
  std::string events;
  std::string copy;
  std::string profile;
};

bool parse_arguments(int argc, char** argv, Arguments& out) {
  if (argc % 2 == 0) return false;
  for (int i = 1; i < argc; i += 2) {
    if (std::strcmp(argv[i], "--plan") == 0) out.plan = argv[i + 1];
    else if (std::strcmp(argv[i], "--events") == 0) out.events = argv[i + 1];
    else if (std::strcmp(argv[i], "--copy") == 0) out.copy = argv[i + 1];
    else if (std::strcmp(argv[i], "--profile") == 0) out.profile = argv[i + 1];
    else return false;
  }
  return !out.plan.empty() && !out.events.empty();
}

// One launch. What must be said at the end, whatever happens, is kept here.
class Launch {
 public:
  explicit Launch(EventStream& events) : events_(events) {}

  // `profile_path`: where the times of single operators go, or empty.
  void run(const std::string& plan_path, const std::string& profile_path);
  void flush_samples();
  int trials_done() const { return trials_done_; }

 private:
  void load_all(const Plan& plan);
  void run_trials(const Plan& plan);
  // A walk over all mappings, as expensive as proportional memory: taken where that is asked for.
  void take_footprint(const Plan& plan, const char* moment, std::optional<std::int64_t> trial = std::nullopt);

  EventStream& events_;
  // Outlives the samplers and is never freed while the signal thread may call into it.
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Samplers> samplers_;
  // Threads that do not compute: ours, and those the runtime's library keeps beside its sessions.
  std::set<int> helpers_;
  int trials_done_ = 0;
  std::vector<ProfiledTrial> profiled_;
};

void Launch::flush_samples() {
  if (samplers_) samplers_->flush(events_);
}

void Launch::take_footprint(const Plan& plan, const char* moment, std::optional<std::int64_t> trial) {
  if (plan.proportional_hz <= 0) return;
  if (const auto found = read_footprint(plan.artefact.model_path, engine_->memory()))
    events_.footprint(moment, trial, *found);
}

void Launch::load_all(const Plan& plan) {
  for (int load = 0; load < plan.loads; ++load) {
    stop_if_asked();
    if (load > 0) engine_->unload();
    take_footprint(plan, "start");
    LoadResult result;
    result.load = load;
    result.threads = plan.threads;
    result.affinity_asked = plan.affinity;
    result.resident_before = resident_share(plan.artefact.model_path);
    const std::int64_t faults = major_faults_now();
    result.start_ns = now_ns();
    engine_->load(plan.artefact, plan.threads, plan.positions());
    result.end_ns = now_ns();
    result.major_faults = major_faults_now() - faults;
    result.affinity_read = read_affinity();
    result.kernels = engine_->kernels();
    result.huge_bytes = engine_->huge_bytes();
    events_.loaded(result);
    take_footprint(plan, "loaded");
    flush_samples();
  }
}

void Launch::run_trials(const Plan& plan) {
  TrialRunner runner(*engine_, plan, helpers_);
  for (const Trial& trial : plan.trials) {
    stop_if_asked();
    events_.trial_start(trial.id);
    const auto tell = [&](const TrialTimes& times) {
      events_.trial(times);
      profiled_.push_back({trial.id, engine_->passes() - times.passes, times.passes});
      flush_samples();
    };
    const TrialTimes* times = &runner.run(trial);
    tell(*times);
    if (trial.seconds) {
      const std::int64_t end_ns = times->start_ns + static_cast<std::int64_t>(*trial.seconds * 1e9);
      while (times->end_ns < end_ns) {
        times = &runner.run_again(trial);
        tell(*times);
      }
    }
    take_footprint(plan, "trial", trial.id);
    ++trials_done_;
  }
}

void Launch::run(const std::string& plan_path, const std::string& profile_path) {
  Plan plan = read_plan(plan_path);
  plan.artefact.profile_path = profile_path;
  if (!profile_path.empty() && plan.loads != 1)
    throw Fault(Exit::kPlan, "unsupported", "operators are profiled in launches that load the model once");
  // Before any thread exists: threads inherit it, the runtime's too.
  if (plan.affinity) set_affinity(*plan.affinity);
  // The signals are blocked before the runtime starts threads that would otherwise take them.
  std::atomic<Engine*>* engine = new std::atomic<Engine*>(nullptr);
  watch_termination([engine] {
    if (Engine* running = *engine) running->cancel();
  });
  engine_ = make_engine(plan.artefact);
  *engine = engine_.get();
  events_.hello(plan.artefact.runtime, engine_->version());
  samplers_ = std::make_unique<Samplers>(plan);
  samplers_->introduce(events_);
  helpers_ = other_threads();
  load_all(plan);
  if (plan.golden) {
    const GoldenAnswer answer = run_golden(*engine_, *plan.golden, plan.artefact.vocab);
    events_.golden(answer.tokens, answer.logits);
    take_footprint(plan, "golden");
    flush_samples();
  }
  run_trials(plan);
  if (!profile_path.empty()) {
    const std::int64_t passes = engine_->passes();
    events_.profile(engine_->write_profile(), passes, profiled_);
  }
}

// A stream always begins with hello, also when there is nothing to say about the runtime.
void greet(EventStream& events) {
  if (!events.greeted()) events.hello("", "");
}

int end(EventStream& events, Launch& launch, const char* reason, Exit exit) {
  launch.flush_samples();
  events.bye(reason, launch.trials_done());
  return static_cast<int>(exit);
}

int fail(EventStream& events, Launch& launch, Exit exit, const std::string& code, const std::string& message) {
  std::fprintf(stderr, "edgekit-probe: %s\n", message.c_str());
  greet(events);
  // A pass that was cancelled fails; that is the end that was asked for, not a fault.
  if (const int signal = termination_signal) {
    end(events, launch, "terminated", Exit::kDone);
    return 128 + signal;
  }
  launch.flush_samples();
  events.error(code, message, true);
  return end(events, launch, "failed", exit);
}

int run(const Arguments& arguments) {
  EventStream events(arguments.events, arguments.copy);
  Launch* launch = new Launch(events);
  try {
    launch->run(arguments.plan, arguments.profile);
    return end(events, *launch, "done", Exit::kDone);
  } catch (const Terminated&) {
    greet(events);
    end(events, *launch, "terminated", Exit::kDone);
    return 128 + termination_signal;
  } catch (const Fault& fault) {
    if (fault.exit() == Exit::kEvents) throw;
    return fail(events, *launch, fault.exit(), fault.code(), fault.what());
  } catch (const std::bad_alloc&) {
    return fail(events, *launch, Exit::kSystem, "memory", "out of memory");
  }
}

}  // namespace
}  // namespace edgekit

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--clock") == 0) {
    // For the host, which notes its own clock before and after: the events' clock now.
    std::printf("%lld\n", static_cast<long long>(edgekit::now_ns()));
    return 0;
  }
  edgekit::Arguments arguments;
  if (!edgekit::parse_arguments(argc, argv, arguments)) {
    std::fputs(edgekit::kUsage, stderr);
    return static_cast<int>(edgekit::Exit::kUsage);
  }
  int code;
  try {
    code = edgekit::run(arguments);
  } catch (const edgekit::Fault& fault) {
    std::fprintf(stderr, "edgekit-probe: %s\n", fault.what());
    code = static_cast<int>(fault.exit());
  }
  std::fflush(nullptr);
  // Everything is written. Taking the session down orderly would cost seconds and could only fail; and another thread
  // may still be waiting in the runtime.
  _exit(code);
}
