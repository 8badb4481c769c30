#include "termination.h"

#include <csignal>
#include <system_error>
#include <thread>

#include "fault.h"

namespace edgekit {

void watch_termination(std::function<void()> on_signal) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // Under nohup the probe is meant to outlive its terminal.
  struct sigaction hangup;
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A reader that went away is an error of write(), told like any other.
  std::signal(SIGPIPE, SIG_IGN);

  try {
    std::thread([signals, on_signal = std::move(on_signal)] {
      int signal = 0;
      while (sigwait(&signals, &signal) != 0) {
      }
      termination_signal = signal;
      on_signal();
    }).detach();
  } catch (const std::system_error& error) {
    throw Fault(Exit::kSystem, "thread", std::string("start the signal thread: ") + error.what());
  }
}

}  // namespace edgekit
