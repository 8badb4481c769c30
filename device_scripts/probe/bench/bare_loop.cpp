// bare_loop PLAN.json ROUNDS
//
// What does the probe cost? In one process and around one session, the plan's first decode trial is done in turn by the
// probe's own trial loop, with its samplers running, and by the loop below: two integers, one token, one call,
// and the clock read twice in all. Prints one JSON object a round: {"probe_ns": ..., "bare_ns": ...}.
// Everything but the loop itself is the probe's code; benchmarks/probe_overhead.py builds and runs it.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "../src/clock.h"
#include "../src/engine_onnxruntime.h"
#include "../src/fault.h"
#include "../src/plan.h"
#include "../src/samplers.h"
#include "../src/trials.h"

namespace {

using edgekit::Fault;
namespace ort = edgekit::ort;

class BareLoop {
 public:
  BareLoop(const edgekit::OnnxRuntimeEngine& engine, const edgekit::Plan& plan, const edgekit::Trial& trial)
      : api_(engine.model().api()), session_(engine.model().session()), trial_(trial) {
    const edgekit::OnnxInterface& interface = plan.artefact.interface;
    const std::size_t cache_width = interface.cache_type == edgekit::ElementType::kFloat16 ? 2 : 4;
    const std::size_t logits_width = interface.logits_type == edgekit::ElementType::kFloat16 ? 2 : 4;
    check(api_.create_cpu_memory_info(ort::AllocatorType::kDevice, ort::MemoryType::kDefault, &memory_));
    check(api_.create_run_options(&options_));
    check(api_.create_io_binding(session_, &binding_));
    in(interface.tokens, tensor(&token_, sizeof token_, {1, 1}, ort::Element::kInt64));
    in(interface.seqlens_k, tensor(&seqlens_k_, sizeof seqlens_k_, {1}, ort::Element::kInt32));
    in(interface.total_sequence_length, tensor(&total_, sizeof total_, {}, ort::Element::kInt32));
    out(interface.logits, tensor(memory(static_cast<std::size_t>(plan.artefact.vocab) * logits_width),
                                 static_cast<std::size_t>(plan.artefact.vocab) * logits_width,
                                 {1, 1, plan.artefact.vocab}, logits_width == 2 ? ort::Element::kFloat16
                                                                                : ort::Element::kFloat));
    for (std::size_t i = 0; i < interface.past.size(); ++i) {
      std::size_t bytes = cache_width;
      for (const std::int64_t dim : interface.cache_shape[i]) bytes *= static_cast<std::size_t>(dim);
      ort::Value* cache = tensor(memory(bytes), bytes, interface.cache_shape[i],
                                 cache_width == 2 ? ort::Element::kFloat16 : ort::Element::kFloat);
      in(interface.past[i], cache);
      out(interface.present[i], cache);
    }
  }

  std::int64_t run() {
    std::int32_t past = 0;
    for (; past < trial_.depth; ++past) step(past);
    const std::int64_t start = edgekit::now_ns();
    for (std::int64_t i = 0; i < trial_.tokens; ++i) step(past++);
    return edgekit::now_ns() - start;
  }

 private:
  static void check(ort::Status* status) {
    if (status) throw Fault(edgekit::Exit::kRun, "run", "the bare loop failed");
  }

  void step(std::int32_t past) {
    token_ = past;
    seqlens_k_ = past;
    total_ = past + 1;
    check(api_.run_with_binding(session_, options_, binding_));
  }

  void* memory(std::size_t bytes) {
    const edgekit::Buffer& buffer = buffers_.emplace_back(bytes);
    buffer.touch(0, bytes);
    return buffer.data();
  }

  ort::Value* tensor(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape, ort::Element element) {
    ort::Value* value = nullptr;
    check(api_.create_tensor_with_data(memory_, data, bytes, shape.data(), shape.size(), element, &value));
    return value;
  }

  void in(const std::string& name, ort::Value* value) { check(api_.bind_input(binding_, name.c_str(), value)); }
  void out(const std::string& name, ort::Value* value) { check(api_.bind_output(binding_, name.c_str(), value)); }

  const ort::Api& api_;
  ort::Session* session_;
  const edgekit::Trial trial_;
  ort::MemoryInfo* memory_ = nullptr;
  ort::RunOptions* options_ = nullptr;
  ort::IoBinding* binding_ = nullptr;
  std::vector<edgekit::Buffer> buffers_;
  std::int64_t token_ = 0;
  std::int32_t seqlens_k_ = 0;
  std::int32_t total_ = 0;
};

int run(const std::string& plan_path, int rounds) {
  const edgekit::Plan plan = edgekit::read_plan(plan_path);
  const edgekit::Trial* decode = nullptr;
  for (const edgekit::Trial& trial : plan.trials)
    if (!decode && trial.kind == edgekit::Trial::Kind::kDecode) decode = &trial;
  if (!decode) throw Fault(edgekit::Exit::kPlan, "plan", "the plan has no decode trial");

  edgekit::OnnxRuntimeEngine engine(plan.artefact);
  engine.load(plan.artefact, plan.threads, plan.positions());
  edgekit::TrialRunner runner(engine, plan, {});
  BareLoop bare(engine, plan, *decode);

  const auto with_probe = [&] {
    const edgekit::Samplers samplers(plan);
    const edgekit::TrialTimes& times = runner.run(*decode);
    return times.end_ns - times.start_ns;
  };
  with_probe();
  bare.run();
  for (int round = 0; round < rounds; ++round) {
    std::int64_t probe_ns;
    std::int64_t bare_ns;
    // Whoever goes second finds what the first left in the caches: they take turns.
    if (round % 2) {
      bare_ns = bare.run();
      probe_ns = with_probe();
    } else {
      probe_ns = with_probe();
      bare_ns = bare.run();
    }
    std::printf("{\"probe_ns\": %lld, \"bare_ns\": %lld}\n", static_cast<long long>(probe_ns),
                static_cast<long long>(bare_ns));
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || std::atoi(argv[2]) < 1) {
    std::fputs("usage: bare_loop PLAN.json ROUNDS\n", stderr);
    return 2;
  }
  try {
    const int code = run(argv[1], std::atoi(argv[2]));
    std::_Exit(code);
  } catch (const Fault& fault) {
    std::fprintf(stderr, "bare_loop: %s\n", fault.what());
    return static_cast<int>(fault.exit());
  }
}
