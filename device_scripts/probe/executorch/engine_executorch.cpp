#include "engine_executorch.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include "../src/fault.h"
#include "../src/huge_pages.h"
#include "cache_tensors.h"
#include "own_products.h"
#include "paged_file.h"
#include "threadpool.h"

namespace edgekit {
namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::extension::MallocMemoryAllocator;

constexpr const char* kMethod = "forward";

std::string named(et::Error error) { return std::string(et::to_string(error)); }

[[noreturn]] void fail_model(const std::string& what) { throw Fault(Exit::kModel, "model", what); }

template <typename T>
T checked(et::Result<T> result, const std::string& attempted) {
  if (!result.ok()) fail_model(attempted + ": ExecuTorch says " + named(result.error()));
  return std::move(result.get());
}

// A file that does not begin like a program, or is shorter than it says, would be read beyond its end.
void check_file(const std::string& path) {
  struct stat info;
  std::FILE* file = stat(path.c_str(), &info) == 0 ? std::fopen(path.c_str(), "rb") : nullptr;
  if (!file) fail_model("open " + path + ": " + std::strerror(errno));
  unsigned char head[64] = {};
  const std::size_t got = std::fread(head, 1, sizeof head, file);
  std::fclose(file);
  if (got < sizeof head)
    fail_model(path + " is no ExecuTorch program: it has " + std::to_string(got) + " bytes, as if it were cut short");
  if (std::memcmp(head + 4, "ET12", 4) != 0) {
    const std::string name(reinterpret_cast<const char*>(head) + 4, 4);
    const bool other = name.compare(0, 2, "ET") == 0 && std::isdigit(head[6]) && std::isdigit(head[7]);
    fail_model(path + " is no ExecuTorch program of a version this probe reads (ET12)" +
               (other ? ": it says " + name : ""));
  }
  if (std::memcmp(head + 8, "eh00", 4) == 0) {
    const auto number = [&](int at) {
      std::uint64_t value = 0;
      for (int i = 7; i >= 0; --i) value = value << 8 | head[at + i];
      return value;
    };
    std::uint32_t length = 0;
    for (int i = 3; i >= 0; --i) length = length << 8 | head[12 + i];
    const std::uint64_t program = number(16), base = number(24);
    const std::uint64_t data = length >= 32 ? number(32) : 0;
    const auto size = static_cast<std::uint64_t>(info.st_size);
    if (program > size || base > size || data > size - base)
      fail_model(path + " is cut short: it has " + std::to_string(size) + " bytes, and says it has " +
                 std::to_string(base + data));
  }
}

// Names of operators that ExecuTorch looked for in vain, as its log tells them one by one.
std::string& missing_operators() {
  static std::string names;
  return names;
}

// ExecuTorch logs each load of a delegate, and more: only what went wrong belongs on the probe's standard error.
void tell_faults(et_timestamp_t, et_pal_log_level_t level, const char* file, const char*, std::size_t line,
                 const char* message, std::size_t) {
  if (std::strncmp(message, "Missing operator: ", 18) == 0) {
    const char* name = std::strchr(message, ']');
    std::string& names = missing_operators();
    names += (names.empty() ? "" : ", ") + std::string(name ? name + 2 : message + 18);
  }
  // What follows a kernel that failed: numbers of types.
  if (std::strncmp(message, "arg ", 4) == 0) return;
  if (level == kError || level == kFatal) std::fprintf(stderr, "ExecuTorch: %s (%s:%zu)\n", message, file, line);
}

}  // namespace

// Everything that lives as long as one loaded model.
class ExecutorchModel {
 public:
  ExecutorchModel(const Artefact& artefact, int threads)
      : artefact_(artefact),
        file_((check_file(artefact.model_path), artefact.model_path.c_str())),
        program_(checked(et::Program::load(&file_, et::Program::Verification::InternalConsistency),
                         "read " + artefact.model_path)) {
    namespace pool = executorch::extension::threadpool;
    auto* shared = pool::get_threadpool();
    if (!shared || !shared->_unsafe_reset_threadpool(static_cast<std::uint32_t>(threads)))
      throw Fault(Exit::kSystem, "thread", "set ExecuTorch's thread pool to " + std::to_string(threads) + " threads");
    const et::MethodMeta meta = checked(program_.method_meta(kMethod), "find the method forward");
    if (meta.num_inputs() != 2 || meta.num_outputs() != 1)
      fail_model("the program has " + std::to_string(meta.num_inputs()) + " inputs and " +
                 std::to_string(meta.num_outputs()) + " outputs, not tokens, positions and logits");
    const et::TensorInfo tokens = checked(meta.input_tensor_meta(0), "read the shape of its tokens");
    if (tokens.sizes().size() != 2 || tokens.sizes()[1] < 1) fail_model("the program's tokens are not [1, n]");
    pass_tokens_ = tokens.sizes()[1];
    for (std::size_t i = 0; i < meta.num_memory_planned_buffers(); ++i) {
      const auto size =
          static_cast<std::size_t>(checked(meta.memory_planned_buffer_size(i), "read the planned memory"));
      // Zeroed pages exist once they are touched, so a cache that is not filled costs nothing.
      planned_.emplace_back(static_cast<std::uint8_t*>(std::calloc(size + kAlign, 1)), &std::free);
      if (!planned_.back()) throw Fault(Exit::kSystem, "memory", "out of memory for the planned " + std::to_string(size) + " bytes");
      auto* start = planned_.back().get();
      start += kAlign - reinterpret_cast<std::uintptr_t>(start) % kAlign;
      spans_.emplace_back(start, size);
    }
    planned_memory_.emplace(et::Span<et::Span<std::uint8_t>>(spans_.data(), spans_.size()));
    manager_.emplace(&method_memory_, &*planned_memory_, &temporary_memory_);
    if (!artefact.profile_path.empty()) tracer_.emplace();
    missing_operators().clear();
    allow_own_products(artefact.kernels);
    auto method = [&] {
      const LettingGo packed(file_);
      return program_.load_method(kMethod, &*manager_, tracer_ ? &*tracer_ : nullptr);
    }();
    if (!missing_operators().empty())
      fail_model(artefact.model_path + " calls operators that the probe lacks: " + missing_operators());
    method_.emplace(checked(std::move(method), "load " + artefact.model_path + " (a delegate's data may be damaged)"));
    if (artefact.huge_pages) huge_bytes_ = use_huge_pages();
    file_.let_go();
    tokens_.resize(static_cast<std::size_t>(artefact.context_length));
    positions_.resize(tokens_.size());
    const auto context = static_cast<TensorSize>(artefact.context_length);
    token_sizes_[0] = 1;
    token_sizes_[1] = context;
    position_sizes_[0] = context;
    tokens_tensor_.emplace(ScalarType::Long, 2, token_sizes_, tokens_.data(), token_order_, token_strides_,
                           executorch::aten::TensorShapeDynamism::DYNAMIC_BOUND);
    positions_tensor_.emplace(ScalarType::Long, 1, position_sizes_, positions_.data(), position_order_,
                              position_strides_, executorch::aten::TensorShapeDynamism::DYNAMIC_BOUND);
  }

  std::int64_t huge_bytes() const { return huge_bytes_; }

  std::int64_t* prepare(std::int64_t count) {
    prepared_ = count;
    return tokens_.data();
  }

  // Each returns how many passes it took, and begins none once it is cancelled.
  std::int64_t run_prepared(const std::atomic<bool>& cancelled) { return run(prepared_, cancelled); }

  std::int64_t step(std::int64_t token, const std::atomic<bool>& cancelled) {
    tokens_[0] = token;
    return run(1, cancelled);
  }

  void rewind(std::int64_t positions) { past_ = positions; }

  float logit(std::int64_t id) const { return logits_[id]; }

  void write_profile() {
    const executorch::etdump::ETDumpResult dump = tracer_->get_etdump_data();
    const std::unique_ptr<void, void (*)(void*)> held(dump.buf, &std::free);
    const auto failed = [this](const char* why) {
      return Fault(Exit::kRun, "profile", "write the operators' times to " + artefact_.profile_path + ": " + why);
    };
    if (!dump.buf) throw failed("ExecuTorch recorded none");
    std::FILE* file = std::fopen(artefact_.profile_path.c_str(), "wb");
    if (!file) throw failed(std::strerror(errno));
    const bool written = std::fwrite(dump.buf, 1, dump.size, file) == dump.size;
    if (std::fclose(file) != 0 || !written) throw failed(std::strerror(errno));
  }

  // The cache lies between the other planned tensors: they are what of the planned memory it leaves over.
  EngineMemory memory() const {
    EngineMemory out;
    for (const CacheTensor& tensor : cache_tensors())
      out.cache.push_back({tensor.begin, tensor.row_bytes * tensor.positions});
    std::sort(out.cache.begin(), out.cache.end(),
              [](const MemoryRange& a, const MemoryRange& b) { return a.begin < b.begin; });
    for (const et::Span<std::uint8_t>& span : spans_) {
      const std::uint8_t* at = span.data();
      const std::uint8_t* const end = at + span.size();
      for (const MemoryRange& tensor : out.cache) {
        const auto* begin = static_cast<const std::uint8_t*>(tensor.begin);
        if (begin < at || begin >= end) continue;
        out.buffers.push_back({at, static_cast<std::size_t>(begin - at)});
        at = begin + tensor.bytes;
      }
      if (at < end) out.buffers.push_back({at, static_cast<std::size_t>(end - at)});
    }
    return out;
  }

  // Known from the first pass on; that one makes its pages itself.
  void reserve(std::int64_t positions) const {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    for (const CacheTensor& tensor : cache_tensors()) {
      auto* bytes = static_cast<volatile unsigned char*>(tensor.begin);
      const std::size_t end = std::min(static_cast<std::size_t>(positions), tensor.positions) * tensor.row_bytes;
      for (std::size_t at = 0; at < end; at += page) bytes[at] = bytes[at];
      if (end > 0) bytes[end - 1] = bytes[end - 1];
    }
  }

 private:
  using TensorSize = executorch::aten::SizesType;
  static constexpr std::size_t kAlign = 64;

  // In as few passes as the program allows, as even as they can be: a new length is planned anew.
  std::int64_t run(std::int64_t count, const std::atomic<bool>& cancelled) {
    const std::int64_t passes = (count + pass_tokens_ - 1) / pass_tokens_;
    for (std::int64_t pass = 0, done = 0; pass < passes; ++pass) {
      if (cancelled) throw Fault(Exit::kRun, "run", "cancelled");
      const std::int64_t now = (count - done + passes - pass - 1) / (passes - pass);
      tokens_tensor_->set_data(tokens_.data() + done);
      run_pass(now);
      done += now;
    }
    return passes;
  }

  void run_pass(std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) positions_[static_cast<std::size_t>(i)] = past_ + i;
    const TensorSize token_sizes[] = {1, static_cast<TensorSize>(count)};
    const TensorSize position_sizes[] = {static_cast<TensorSize>(count)};
    Tensor tokens(&*tokens_tensor_), positions(&*positions_tensor_);
    check(et::resize_tensor(tokens, {token_sizes, 2}), "set the prompt's length");
    check(et::resize_tensor(positions, {position_sizes, 1}), "set the prompt's length");
    check(method_->set_input(et::EValue(tokens), 0), "set the tokens");
    check(method_->set_input(et::EValue(positions), 1), "set the positions");
    check(method_->execute(), "run the model");
    const et::EValue& output = method_->get_output(0);
    if (!output.isTensor() || output.toTensor().scalar_type() != ScalarType::Float ||
        output.toTensor().numel() != artefact_.vocab)
      throw Fault(Exit::kRun, "run", "the program's output is not one row of " + std::to_string(artefact_.vocab) + " logits");
    logits_ = output.toTensor().const_data_ptr<float>();
    past_ += count;
    if (!context_known_) check_context();
  }

  // The program does not say how much fits in its cache; its first pass shows it. A short convolution keeps fewer rows.
  void check_context() {
    std::size_t held = 0;
    for (const CacheTensor& tensor : cache_tensors()) held = std::max(held, tensor.positions);
    if (held > 0 && held < static_cast<std::size_t>(artefact_.context_length))
      fail_model(artefact_.model_path + " has a cache of " + std::to_string(held) +
                 " positions, and its bundle says it has " + std::to_string(artefact_.context_length));
    context_known_ = true;
  }

  static void check(et::Error error, const char* attempted) {
    if (error != et::Error::Ok) throw Fault(Exit::kRun, "run", std::string(attempted) + ": ExecuTorch says " + named(error));
  }

  const Artefact artefact_;
  PagedFile file_;
  et::Program program_;
  MallocMemoryAllocator method_memory_;
  MallocMemoryAllocator temporary_memory_;
  std::vector<std::unique_ptr<std::uint8_t, void (*)(void*)>> planned_;
  std::vector<et::Span<std::uint8_t>> spans_;
  std::optional<et::HierarchicalAllocator> planned_memory_;
  std::optional<et::MemoryManager> manager_;
  std::optional<executorch::etdump::ETDumpGen> tracer_;
  std::optional<et::Method> method_;
  std::vector<std::int64_t> tokens_;
  std::vector<std::int64_t> positions_;
  TensorSize token_sizes_[2] = {};
  TensorSize position_sizes_[1] = {};
  executorch::aten::DimOrderType token_order_[2] = {0, 1};
  executorch::aten::DimOrderType position_order_[1] = {0};
  executorch::aten::StridesType token_strides_[2] = {1, 1};
  executorch::aten::StridesType position_strides_[1] = {1};
  std::optional<TensorImpl> tokens_tensor_;
  std::optional<TensorImpl> positions_tensor_;
  std::int64_t huge_bytes_ = 0;
  std::int64_t pass_tokens_ = 0;
  std::int64_t prepared_ = 0;
  std::int64_t past_ = 0;
  bool context_known_ = false;
  const float* logits_ = nullptr;
};

ExecutorchEngine::ExecutorchEngine() {
  et::register_pal(et::PalImpl::create(&tell_faults, __FILE__));
  et::runtime_init();
}
ExecutorchEngine::~ExecutorchEngine() = default;

std::string ExecutorchEngine::version() const { return EDGEKIT_EXECUTORCH_VERSION; }

void ExecutorchEngine::load(const Artefact& artefact, int threads, std::int64_t positions) {
  if (positions > artefact.context_length)
    throw Fault(Exit::kPlan, "too_long", "the plan needs " + std::to_string(positions) + " positions");
  model_ = std::make_unique<ExecutorchModel>(artefact, threads);
  passes_ = 0;
}

void ExecutorchEngine::unload() {
  model_.reset();
  cache_tensors().clear();
}
std::vector<std::string> ExecutorchEngine::kernels() const {
  const char* found = own_products_in_use();
  return found ? std::vector<std::string>{found} : std::vector<std::string>{};
}
std::int64_t ExecutorchEngine::huge_bytes() const { return model_ ? model_->huge_bytes() : 0; }
EngineMemory ExecutorchEngine::memory() const { return model_ ? model_->memory() : EngineMemory{}; }
void ExecutorchEngine::reserve(std::int64_t positions) { model_->reserve(positions); }
void ExecutorchEngine::rewind(std::int64_t positions) { model_->rewind(positions); }
std::int64_t* ExecutorchEngine::prepare_prefill(std::int64_t count) { return model_->prepare(count); }

void ExecutorchEngine::prefill() {
  passes_ += model_->run_prepared(cancelled_);
}

void ExecutorchEngine::step(std::int64_t token) {
  passes_ += model_->step(token, cancelled_);
}

const char* ExecutorchEngine::write_profile() {
  model_->write_profile();
  return "etdump";
}

float ExecutorchEngine::logit(std::int64_t id) const { return model_->logit(id); }

std::unique_ptr<Engine> make_engine(const Artefact&) { return std::make_unique<ExecutorchEngine>(); }

}  // namespace edgekit
