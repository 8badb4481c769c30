#include "engine_onnxruntime.h"

#include <dlfcn.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fault.h"
#include "huge_pages.h"

namespace edgekit {
namespace {

std::size_t bytes_of(ElementType type) { return type == ElementType::kFloat16 ? 2 : 4; }

ort::Element element_of(ElementType type) {
  return type == ElementType::kFloat16 ? ort::Element::kFloat16 : ort::Element::kFloat;
}

float half_to_float(std::uint16_t half) {
  const int exponent = (half >> 10) & 0x1F;
  const int mantissa = half & 0x3FF;
  float magnitude;
  if (exponent == 31) magnitude = mantissa ? NAN : INFINITY;
  else if (exponent == 0) magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  else magnitude = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

// The address sanitizer aside, there is no reason to ever unload the library.
const ort::ApiBase* open_library(const std::string& path) {
  // 1.32 reports to its maker from threads of its own, and for that keeps a database in the user's cache and a file
  // beside our folder. A measurement sends nothing and leaves nothing behind.
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw Fault(Exit::kRuntime, "runtime", std::string("load the runtime library: ") + dlerror());
  using GetApiBase = const ort::ApiBase* (*)();
  const auto get = reinterpret_cast<GetApiBase>(dlsym(handle, "OrtGetApiBase"));
  if (!get) throw Fault(Exit::kRuntime, "runtime", "load the runtime library: " + path + " is not onnxruntime");
  return get();
}

// The release's minor number; "1.23.2" gives 23.
std::uint32_t minor_of(const std::string& version) {
  const std::size_t dot = version.find('.');
  return dot == std::string::npos ? 0 : static_cast<std::uint32_t>(std::atoi(version.c_str() + dot + 1));
}

ort::Api open_api(const std::string& path) {
  const ort::ApiBase* base = open_library(path);
  const std::string version = base->version();
  const ort::Table table = base->get_api(ort::kApiVersion);
  if (!table)
    throw Fault(Exit::kRuntime, "runtime",
                "load the runtime library: onnxruntime " + version + " is older than 1." +
                    std::to_string(ort::kApiVersion));
  // Asking an older one for more than it has makes it complain on standard error.
  const bool tells = minor_of(version) >= ort::kStatsApiVersion;
  return ort::Api(table, tells ? base->get_api(ort::kStatsApiVersion) : nullptr);
}

}  // namespace

OrtLibrary::OrtLibrary(const std::string& path) : version_(open_library(path)->version()), api_(open_api(path)) {}

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw Fault(Exit::kSystem, "memory", "reserve " + std::to_string(bytes) + " bytes: " + std::strerror(errno));
  }
}

Buffer::~Buffer() {
  if (data_) munmap(data_, bytes_);
}

void Buffer::forget() const { madvise(data_, bytes_, MADV_DONTNEED); }

void Buffer::touch(std::size_t offset, std::size_t bytes) const {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  auto* base = static_cast<volatile unsigned char*>(data_);
  for (std::size_t at = offset; at < offset + bytes; at += page) base[at] = 0;
  if (bytes > 0) base[offset + bytes - 1] = 0;
}

OrtModel::OrtModel(const OrtLibrary& library, const ort::Env* env, const Artefact& artefact, int threads,
                   std::int64_t positions)
    : api_(library.api()),
      artefact_(artefact),
      memory_(api_),
      run_options_(api_),
      tokens_(static_cast<std::size_t>(positions) * sizeof(std::int64_t)),
      logits_(static_cast<std::size_t>(artefact.interface.all_logits ? positions : 1) *
              static_cast<std::size_t>(artefact.vocab) * bytes_of(artefact.interface.logits_type)),
      session_(api_),
      seqlens_value_(api_),
      total_value_(api_),
      step_(api_),
      prefill_(api_) {
  const auto model = [this](ort::Status* status, const char* attempted) {
    check(status, Exit::kModel, "model", attempted);
  };
  model(api_.create_cpu_memory_info(ort::AllocatorType::kDevice, ort::MemoryType::kDefault, memory_.out()),
        "describe the CPU's memory");
  model(api_.create_run_options(run_options_.out()), "create run options");
  create_session(env, threads);
  create_tensor(seqlens_value_, &seqlens_k_, sizeof seqlens_k_, {1}, ort::Element::kInt32);
  create_tensor(total_value_, &total_, sizeof total_, {}, ort::Element::kInt32);
  logits_.touch(0, logits_.bytes());
  tokens_.touch(0, tokens_.bytes());
  create_cache();
  bind(step_, &step_token_, 1);
  if (artefact_.huge_pages && worth_huge_pages(artefact_.model_path)) settle();
}

void OrtModel::settle() {
  // What the pass needs besides is given back: memory after loading is what it would be without it.
  OrtOwned<ort::RunOptions> options(api_);
  const auto run = [this](ort::Status* status) {
    check(status, Exit::kRun, "run", "run the model over one token");
  };
  run(api_.create_run_options(options.out()));
  if (artefact_.uses_arena())
    run(api_.add_run_config_entry(options.get(), "memory.enable_memory_arena_shrinkage", "cpu:0"));
  seqlens_k_ = 0;
  total_ = 1;
  run(api_.run_with_binding(session_.get(), options.get(), step_.binding.get()));
  for (const Buffer& buffer : cache_) buffer.forget();
  settling_passes_ = 1;
  // What the runtime keeps as it lies in the file first, then what it has packed anew.
  copied_bytes_ = copy_into_huge_pages(artefact_.model_path);
  huge_bytes_ = std::max(copied_bytes_, use_huge_pages());
}

void OrtModel::check(ort::Status* status, Exit exit, const char* code, const std::string& attempted) const {
  if (!status) return;
  const std::string message = api_.get_error_message(status);
  api_.release_status(status);
  throw Fault(exit, code, attempted + ": " + message);
}

void OrtModel::create_session(const ort::Env* env, int threads) {
  const std::string attempted = "load " + artefact_.model_path;
  const auto model = [&](ort::Status* status) { check(status, Exit::kModel, "model", attempted); };
  OrtOwned<ort::SessionOptions> options(api_);
  model(api_.create_session_options(options.out()));
  // One decoder, one pass at a time: the threads of an operator are all the parallelism there is.
  model(api_.set_session_execution_mode(options.get(), ort::ExecutionMode::kSequential));
  model(api_.set_intra_op_num_threads(options.get(), threads));
  model(api_.set_inter_op_num_threads(options.get(), 1));
  model(api_.set_session_graph_optimization_level(options.get(), ort::OptimizationLevel::kAll));
  model(api_.set_session_log_severity_level(options.get(), static_cast<int>(ort::LoggingLevel::kError)));
  for (const auto& [key, value] : artefact_.session_config) {
    // These two have functions of their own in the runtime; their keys are the runtime's.
    if (key == "session.enable_cpu_mem_arena") {
      if (value == "0") model(api_.disable_cpu_mem_arena(options.get()));
    } else if (key == "session.enable_mem_pattern") {
      if (value == "0") model(api_.disable_mem_pattern(options.get()));
    } else {
      model(api_.add_session_config_entry(options.get(), key.c_str(), value.c_str()));
    }
  }
  for (const std::string& path : artefact_.kernel_libraries)
    check(api_.register_custom_ops_library(options.get(), path.c_str()), Exit::kRuntime, "runtime",
          "load the kernel library " + path);
  if (!artefact_.profile_path.empty())
    model(api_.enable_profiling(options.get(), artefact_.profile_path.c_str()));
  model(api_.create_session(env, artefact_.model_path.c_str(), options.get(), session_.out()));
}

void OrtModel::create_tensor(OrtOwned<ort::Value>& value, void* data, std::size_t bytes,
                             const std::vector<std::int64_t>& shape, ort::Element element) const {
  check(api_.create_tensor_with_data(memory_.get(), data, bytes, shape.data(), shape.size(), element, value.out()),
        Exit::kModel, "model", "create a tensor");
}

void OrtModel::create_cache() {
  const OnnxInterface& interface = artefact_.interface;
  for (const auto& shape : interface.cache_shape) {
    std::size_t bytes = bytes_of(interface.cache_type);
    for (const std::int64_t dim : shape) bytes *= static_cast<std::size_t>(dim);
    const Buffer& buffer = cache_.emplace_back(bytes);
    OrtOwned<ort::Value>& value = cache_values_.emplace_back(api_);
    create_tensor(value, buffer.data(), buffer.bytes(), shape, element_of(interface.cache_type));
  }
}

// Only what is filled becomes resident; the rest of the context stays a promise.
void OrtModel::reserve(std::int64_t positions) {
  if (positions <= reserved_) return;
  for (std::size_t i = 0; i < cache_.size(); ++i) {
    const auto& shape = artefact_.interface.cache_shape[i];
    const std::size_t row = static_cast<std::size_t>(shape[3]) * bytes_of(artefact_.interface.cache_type);
    const std::size_t begin = static_cast<std::size_t>(reserved_) * row;
    const std::size_t end = static_cast<std::size_t>(std::min(positions, shape[2])) * row;
    for (std::size_t head = 0; head < static_cast<std::size_t>(shape[1]); ++head)
      cache_[i].touch(head * static_cast<std::size_t>(shape[2]) * row + begin, end - begin);
  }
  reserved_ = positions;
}

EngineMemory OrtModel::memory() const {
  EngineMemory out;
  for (const Buffer& buffer : cache_) out.cache.push_back({buffer.data(), buffer.bytes()});
  for (const Buffer* buffer : {&tokens_, &logits_}) out.buffers.push_back({buffer->data(), buffer->bytes()});
  if (!api_.allocator_get_stats) return out;
  OrtOwned<ort::Allocator> allocator(api_);
  OrtOwned<ort::KeyValuePairs> stats(api_);
  const auto failed = [this](ort::Status* status) {
    if (status) api_.release_status(status);
    return status != nullptr;
  };
  if (failed(api_.create_allocator(session_.get(), memory_.get(), allocator.out())) ||
      failed(api_.allocator_get_stats(allocator.get(), stats.out())))
    return out;
  const auto number = [&](const char* key) -> std::optional<std::int64_t> {
    const char* text = api_.get_key_value(stats.get(), key);
    char* end = nullptr;
    const std::int64_t value = text ? std::strtoll(text, &end, 10) : 0;
    return text && end != text && *end == '\0' ? std::optional(value) : std::nullopt;
  };
  out.allocated = number("InUse");
  // They were the file's: the allocator knows nothing of the copies.
  if (out.allocated) *out.allocated += copied_bytes_;
  out.reserved = number("TotalAllocated");
  if (out.reserved) *out.reserved += copied_bytes_;
  return out;
}

void OrtModel::bind(Pass& pass, std::int64_t* tokens, std::int64_t count) {
  const OnnxInterface& interface = artefact_.interface;
  create_tensor(pass.tokens, tokens, static_cast<std::size_t>(count) * sizeof *tokens, {1, count},
                ort::Element::kInt64);
  const std::int64_t rows = interface.all_logits ? count : 1;
  create_tensor(pass.logits, logits_.data(),
                static_cast<std::size_t>(rows * artefact_.vocab) * bytes_of(interface.logits_type),
                {1, rows, artefact_.vocab}, element_of(interface.logits_type));
  check(api_.create_io_binding(session_.get(), pass.binding.out()), Exit::kModel, "model", "create a binding");
  const auto input = [&](const std::string& name, const OrtOwned<ort::Value>& value) {
    check(api_.bind_input(pass.binding.get(), name.c_str(), value.get()), Exit::kModel, "model", "bind input " + name);
  };
  const auto output = [&](const std::string& name, const OrtOwned<ort::Value>& value) {
    check(api_.bind_output(pass.binding.get(), name.c_str(), value.get()), Exit::kModel, "model",
          "bind output " + name);
  };
  input(interface.tokens, pass.tokens);
  input(interface.seqlens_k, seqlens_value_);
  input(interface.total_sequence_length, total_value_);
  output(interface.logits, pass.logits);
  // Past and present are one buffer: the attention operator then appends in place instead of copying the cache.
  for (std::size_t i = 0; i < cache_values_.size(); ++i) {
    input(interface.past[i], cache_values_[i]);
    output(interface.present[i], cache_values_[i]);
  }
}

void OrtModel::prepare_prefill(std::int64_t count) {
  if (count != prefill_count_) bind(prefill_, tokens(), count);
  prefill_count_ = count;
}

// The hot path: two stores and one call; strings are made only for a failure.
void OrtModel::run(const Pass& pass, std::int64_t count) {
  seqlens_k_ = static_cast<std::int32_t>(past_ + count - 1);
  total_ = static_cast<std::int32_t>(past_ + count);
  ort::Status* status = api_.run_with_binding(session_.get(), run_options_.get(), pass.binding.get());
  if (status) check(status, Exit::kRun, "run", "run the model over " + std::to_string(count) + " tokens");
  past_ += count;
  if (artefact_.interface.all_logits) last_ = count - 1;
}

void OrtModel::run_prefill() { run(prefill_, prefill_count_); }

void OrtModel::run_step(std::int64_t token) {
  step_token_ = token;
  run(step_, 1);
}

float OrtModel::logit(std::int64_t id) const {
  id += last_ * artefact_.vocab;
  if (artefact_.interface.logits_type == ElementType::kFloat16)
    return half_to_float(static_cast<const std::uint16_t*>(logits_.data())[id]);
  return static_cast<const float*>(logits_.data())[id];
}

std::vector<std::string> OrtModel::kernels() const {
  std::vector<std::string> found;
  for (const std::string& path : artefact_.kernel_libraries) {
    // The runtime has loaded it; this only asks for the same handle. Others than our own need not answer.
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (!handle) continue;
    using InUse = const char* (*)();
    const auto in_use = reinterpret_cast<InUse>(dlsym(handle, "EdgekitKernelsInUse"));
    if (in_use && *in_use()) found.emplace_back(in_use());
    dlclose(handle);
  }
  return found;
}

void OrtModel::cancel() const {
  // Nothing more can be done about a failure here: the flag between tokens still ends the trial.
  if (ort::Status* status = api_.run_options_set_terminate(run_options_.get())) api_.release_status(status);
}

void OrtModel::write_profile() const {
  const auto profile = [this](ort::Status* status) {
    check(status, Exit::kRun, "profile", "write the operators' times to " + artefact_.profile_path);
  };
  ort::Allocator* allocator = nullptr;
  char* made = nullptr;
  profile(api_.get_allocator_with_default_options(&allocator));
  profile(api_.session_end_profiling(session_.get(), allocator, &made));
  const std::string file = made ? made : "";
  profile(api_.allocator_free(allocator, made));
  // The runtime adds the date to the name.
  if (std::rename(file.c_str(), artefact_.profile_path.c_str()) != 0)
    throw Fault(Exit::kRun, "profile", "rename " + file + ": " + std::strerror(errno));
}

OnnxRuntimeEngine::OnnxRuntimeEngine(const Artefact& artefact)
    : library_(artefact.library_path), env_(library_.api()) {
  if (ort::Status* status =
          library_.api().create_env(ort::LoggingLevel::kError, "edgekit-probe", env_.out())) {
    const std::string message = library_.api().get_error_message(status);
    library_.api().release_status(status);
    throw Fault(Exit::kRuntime, "runtime", "start onnxruntime: " + message);
  }
}

void OnnxRuntimeEngine::load(const Artefact& artefact, int threads, std::int64_t positions) {
  model_ = std::make_unique<OrtModel>(library_, env_.get(), artefact, threads, positions);
  running_ = model_.get();
  passes_ = model_->passes();
}

const char* OnnxRuntimeEngine::write_profile() {
  model_->write_profile();
  return "onnxruntime";
}

void OnnxRuntimeEngine::unload() {
  running_ = nullptr;
  model_.reset();
#ifdef __GLIBC__
  // What one load left in the allocator must not count as the next one's memory.
  malloc_trim(0);
#endif
}

std::int64_t* OnnxRuntimeEngine::prepare_prefill(std::int64_t count) {
  model_->prepare_prefill(count);
  return model_->tokens();
}

void OnnxRuntimeEngine::cancel() {
  if (const OrtModel* model = running_) model->cancel();
}

std::unique_ptr<Engine> make_engine(const Artefact& artefact) { return std::make_unique<OnnxRuntimeEngine>(artefact); }

}  // namespace edgekit
