// The plan: what this launch does (edgekit/schema/plan.py is the contract).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace edgekit {

enum class ElementType { kFloat32, kFloat16 };

// How an ONNX graph is fed; see OnnxInterface in edgekit/schema/bundle.py.
struct OnnxInterface {
  std::string tokens;
  std::string seqlens_k;
  std::string total_sequence_length;
  std::vector<std::string> past;
  std::vector<std::string> present;
  std::vector<std::vector<std::int64_t>> cache_shape;  // each [1, kv_heads, context, head_dim]
  ElementType cache_type = ElementType::kFloat32;
  std::string logits;
  ElementType logits_type = ElementType::kFloat32;
  // The graph makes logits of every position, [1, n, vocab]; the last one's are used.
  bool all_logits = false;
};

struct Artefact {
  std::string runtime;
  std::string model_path;
  std::string library_path;
  OnnxInterface interface;
  std::int64_t context_length = 0;
  std::int64_t vocab = 0;
  // Session options of the runtime's own, passed on as they stand.
  std::vector<std::pair<std::string, std::string>> session_config;
  // Libraries with further operators or kernels, registered before the model is loaded.
  std::vector<std::string> kernel_libraries;
  // The probe's own kernels for products take the place of the runtime's, where there are any (ExecuTorch).
  bool kernels = true;
  // Weights that a token reads move into huge pages once the model is loaded, where there is memory for that.
  bool huge_pages = true;
  // Where the times of single operators go; empty: they are not taken. Not in the plan: the command line says it.
  std::string profile_path;

  // Whether the runtime keeps memory for what it computes instead of giving it back.
  bool uses_arena() const {
    for (const auto& [key, value] : session_config)
      if (key == "session.enable_cpu_mem_arena" && value == "0") return false;
    return true;
  }
};

struct Trial {
  enum class Kind { kPrefill, kDecode };

  std::int64_t id = 0;
  Kind kind = Kind::kPrefill;
  std::int64_t tokens = 0;
  std::int64_t depth = 0;
  // A decode that is repeated until this time has passed: the cache is rewound to `depth` each time.
  std::optional<double> seconds;
};

struct Golden {
  std::vector<std::int64_t> prompt;
  std::vector<std::int64_t> tokens;
  std::vector<std::int64_t> logit_ids;
};

struct Plan {
  Artefact artefact;
  int threads = 1;
  std::optional<std::vector<int>> affinity;
  int loads = 1;
  std::vector<Trial> trials;
  std::optional<Golden> golden;
  std::uint64_t seed = 0;
  // Samples per second; 0 is none.
  double memory_hz = 0;
  double proportional_hz = 0;
  double conditions_hz = 0;
  double power_hz = 0;
  // Where the kernel shows the machine's sensors.
  std::string sysfs = "/sys";

  // Positions of the cache that this plan uses: its longest trial or the golden check.
  std::int64_t positions() const;
};

// Reads and checks a plan. Unknown keys are ignored, so that an older probe serves a newer host's additions.
// Throws Fault (plan, too_long, unsupported).
Plan read_plan(const std::string& path);

}  // namespace edgekit
