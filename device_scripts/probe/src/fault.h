// Every way the probe can fail: the code that stands in the `error` event, and the exit code.
#pragma once

#include <stdexcept>
#include <string>

namespace edgekit {

// Documented in ../README.md. 0 is success; a stream ended by a signal exits with 128 + its number.
enum class Exit : int {
  kDone = 0,
  kUsage = 2,    // the command line
  kPlan = 3,     // the plan cannot be read, or asks for what cannot be (a prompt longer than the context)
  kRuntime = 4,  // the runtime library is missing, too old, or not for this machine
  kModel = 5,    // the model is missing or corrupt, or the runtime refuses its operators or options
  kRun = 6,      // inference failed (also: the graph is not fed as the plan states), or a logit is not a number
  kEvents = 7,   // the event stream cannot be written
  kSystem = 8,   // the kernel refused something: affinity, a thread, memory
};

class Fault : public std::runtime_error {
 public:
  Fault(Exit exit, std::string code, const std::string& message)
      : std::runtime_error(message), exit_(exit), code_(std::move(code)) {}

  Exit exit() const { return exit_; }
  const std::string& code() const { return code_; }

 private:
  Exit exit_;
  std::string code_;
};

}  // namespace edgekit
