// The golden check and the timed trials, on any engine.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "engine.h"
#include "events.h"
#include "plan.h"
#include "usage.h"

namespace edgekit {

struct GoldenAnswer {
  std::vector<std::int64_t> tokens;
  std::vector<std::vector<float>> logits;
};

// Feeds the golden prompt and then the golden tokens (not the ones found here, so that one difference stays one), and
// returns the likeliest token and the asked-for logits of each step. Throws Fault when a logit is not a number.
GoldenAnswer run_golden(Engine& engine, const Golden& golden, std::int64_t vocab);

// Runs single trials. Everything a timed region needs is made before it.
class TrialRunner {
 public:
  // `helpers` are threads of the probe that do not compute.
  TrialRunner(Engine& engine, const Plan& plan, std::set<int> helpers);

  // Times one trial. The result is valid until the next call. Throws Fault, or Terminated between tokens.
  const TrialTimes& run(const Trial& trial);
  // Times the same steps once more, on the same depth, without a pause to fill the cache again.
  const TrialTimes& run_again(const Trial& trial);

 private:
  void prepare(const Trial& trial);
  const TrialTimes& time(const Trial& trial);
  void time_prefill();
  void time_decode(const Trial& trial);

  Engine& engine_;
  // As llama-bench does: the tokens are random and choosing one costs no time, so neither the text nor a sampler is
  // part of the figure.
  std::vector<std::int64_t> random_;
  UsageMeter meter_;
  TrialTimes times_;
};

}  // namespace edgekit
