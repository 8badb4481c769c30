#include "trials.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "audit.h"
#include "clock.h"
#include "fault.h"
#include "termination.h"

namespace edgekit {
namespace {

void prefill_untimed(Engine& engine, const std::int64_t* tokens, std::int64_t count) {
  std::copy_n(tokens, count, engine.prepare_prefill(count));
  engine.prefill();
  stop_if_asked();
}

std::int64_t likeliest(const Engine& engine, std::int64_t vocab, std::size_t step) {
  std::int64_t best = 0;
  for (std::int64_t id = 0; id < vocab; ++id) {
    const float logit = engine.logit(id);
    if (!std::isfinite(logit))
      throw Fault(Exit::kRun, "not_finite",
                  "the golden check: the logit of token " + std::to_string(id) + " at step " + std::to_string(step) +
                      " is not a number");
    if (logit > engine.logit(best)) best = id;
  }
  return best;
}

// SplitMix64: the same tokens from the same seed whatever the standard library. (<random>, linked statically, would
// also pull in a function that only recent C libraries have.)
std::uint64_t split_mix(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

GoldenAnswer run_golden(Engine& engine, const Golden& golden, std::int64_t vocab) {
  GoldenAnswer answer;
  engine.reset();
  engine.reserve(static_cast<std::int64_t>(golden.prompt.size() + golden.tokens.size()) - 1);
  for (std::size_t step = 0; step < golden.tokens.size(); ++step) {
    if (step == 0) prefill_untimed(engine, golden.prompt.data(), static_cast<std::int64_t>(golden.prompt.size()));
    else engine.step(golden.tokens[step - 1]);
    stop_if_asked();
    answer.tokens.push_back(likeliest(engine, vocab, step));
    std::vector<float>& row = answer.logits.emplace_back();
    for (const std::int64_t id : golden.logit_ids) row.push_back(engine.logit(id));
  }
  return answer;
}

TrialRunner::TrialRunner(Engine& engine, const Plan& plan, std::set<int> helpers)
    : engine_(engine), meter_(std::move(helpers)) {
  const auto positions = static_cast<std::size_t>(plan.positions());
  random_.resize(positions);
  std::uint64_t state = plan.seed;
  for (std::int64_t& token : random_)
    token = static_cast<std::int64_t>(split_mix(state) % static_cast<std::uint64_t>(plan.artefact.vocab));
  times_.token_ns.reserve(positions);
}

void TrialRunner::prepare(const Trial& trial) {
  engine_.reset();
  engine_.reserve(trial.depth + trial.tokens);
  if (trial.depth > 0) prefill_untimed(engine_, random_.data(), trial.depth);
  if (trial.kind == Trial::Kind::kPrefill)
    std::copy_n(random_.data() + trial.depth, trial.tokens, engine_.prepare_prefill(trial.tokens));
  const std::size_t ends = trial.kind == Trial::Kind::kPrefill ? 1 : static_cast<std::size_t>(trial.tokens);
  // The zeros also touch the memory the times go to.
  times_.token_ns.assign(ends, 0);
  times_.trial = trial.id;
  times_.part.reset();
  if (trial.seconds) times_.part = 0;
}

void TrialRunner::time_prefill() {
  times_.start_ns = now_ns();
  engine_.prefill();
  times_.token_ns[0] = now_ns();
}

void TrialRunner::time_decode(const Trial& trial) {
  const std::int64_t* tokens = random_.data() + trial.depth;
  std::int64_t* ends = times_.token_ns.data();
  times_.start_ns = now_ns();
  for (std::int64_t i = 0; i < trial.tokens; ++i) {
    engine_.step(tokens[i]);
    ends[i] = now_ns();
    meter_.seen().note();
    stop_if_asked();
  }
}

const TrialTimes& TrialRunner::run(const Trial& trial) {
  prepare(trial);
  return time(trial);
}

const TrialTimes& TrialRunner::run_again(const Trial& trial) {
  engine_.rewind(trial.depth);
  ++*times_.part;
  return time(trial);
}

const TrialTimes& TrialRunner::time(const Trial& trial) {
  const std::int64_t before = engine_.passes();
  meter_.begin();
  timed_region_begins();
  if (trial.kind == Trial::Kind::kPrefill) time_prefill();
  else time_decode(trial);
  timed_region_ended(trial.id);
  times_.use = meter_.end();
  times_.end_ns = times_.token_ns.back();
  times_.passes = engine_.passes() - before;
  return times_;
}

}  // namespace edgekit
