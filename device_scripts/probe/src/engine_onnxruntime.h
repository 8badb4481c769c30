// onnxruntime through its C ABI, loaded at run time from the path the plan names.
#pragma once

#include <atomic>
#include <memory>
#include <cstdint>
#include <string>
#include <vector>

#include "engine.h"
#include "fault.h"
#include "ort_abi.h"

namespace edgekit {

// Owns one object of the runtime and gives it back through the table.
template <typename T, void (*Release)(const ort::Api&, T*)>
class Owned {
 public:
  explicit Owned(const ort::Api& api) : api_(&api) {}
  ~Owned() { reset(); }
  Owned(Owned&& other) noexcept : api_(other.api_), object_(other.object_) { other.object_ = nullptr; }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Owned& operator=(Owned&&) = delete;

  T* get() const { return object_; }
  // For a call that creates the object.
  T** out() {
    reset();
    return &object_;
  }
  void reset() {
    if (object_) Release(*api_, object_);
    object_ = nullptr;
  }

 private:
  const ort::Api* api_;
  T* object_ = nullptr;
};

inline void release(const ort::Api& api, ort::Env* object) { api.release_env(object); }
inline void release(const ort::Api& api, ort::MemoryInfo* object) { api.release_memory_info(object); }
inline void release(const ort::Api& api, ort::Session* object) { api.release_session(object); }
inline void release(const ort::Api& api, ort::Value* object) { api.release_value(object); }
inline void release(const ort::Api& api, ort::RunOptions* object) { api.release_run_options(object); }
inline void release(const ort::Api& api, ort::SessionOptions* object) { api.release_session_options(object); }
inline void release(const ort::Api& api, ort::IoBinding* object) { api.release_io_binding(object); }
inline void release(const ort::Api& api, ort::Allocator* object) { api.release_allocator(object); }
inline void release(const ort::Api& api, ort::KeyValuePairs* object) { api.release_key_value_pairs(object); }

template <typename T>
using OrtOwned = Owned<T, release>;

// The loaded library. It stays loaded until the process ends: its threads and thread-local state outlive sessions.
class OrtLibrary {
 public:
  // Throws Fault (runtime).
  explicit OrtLibrary(const std::string& path);

  const ort::Api& api() const { return api_; }
  const std::string& version() const { return version_; }

 private:
  std::string version_;
  ort::Api api_;
};

// Anonymous zeroed memory, aligned to pages, whose pages exist once they are touched.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer& operator=(Buffer&&) = delete;

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  // Its pages exist no more; they are zero once they are touched again.
  void forget() const;
  // Makes the pages of [offset, offset + bytes) exist, so that no timed region pays for it.
  void touch(std::size_t offset, std::size_t bytes) const;

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Everything that lives as long as one loaded model.
class OrtModel {
 public:
  // Throws Fault (model, memory).
  OrtModel(const OrtLibrary& library, const ort::Env* env, const Artefact& artefact, int threads,
           std::int64_t positions);

  std::int64_t* tokens() const { return static_cast<std::int64_t*>(tokens_.data()); }
  // Binds the first `count` tokens as the graph's input for prefill.
  void prepare_prefill(std::int64_t count);
  void run_prefill();
  void run_step(std::int64_t token);
  void rewind(std::int64_t positions) { past_ = positions; }
  void reserve(std::int64_t positions);
  EngineMemory memory() const;
  float logit(std::int64_t id) const;
  // What the kernel libraries say they run of this model.
  std::vector<std::string> kernels() const;
  std::int64_t huge_bytes() const { return huge_bytes_; }
  // Passes that loading took.
  std::int64_t passes() const { return settling_passes_; }
  void cancel() const;
  void write_profile() const;

  // For the bare loop that the probe's overhead is measured against.
  const ort::Api& api() const { return api_; }
  ort::Session* session() const { return session_.get(); }

 private:
  // One set of inputs and outputs: step and prefill differ in the token tensor only.
  struct Pass {
    explicit Pass(const ort::Api& api) : tokens(api), logits(api), binding(api) {}
    OrtOwned<ort::Value> tokens;
    OrtOwned<ort::Value> logits;
    OrtOwned<ort::IoBinding> binding;
  };

  void create_session(const ort::Env* env, int threads);
  void create_cache();
  void create_tensor(OrtOwned<ort::Value>& value, void* data, std::size_t bytes, const std::vector<std::int64_t>& shape,
                     ort::Element element) const;
  // One pass shows which pages of the weights a token reads: those move into huge pages.
  void settle();
  void bind(Pass& pass, std::int64_t* tokens, std::int64_t count);
  void run(const Pass& pass, std::int64_t count);
  // Throws Fault when the runtime reports an error.
  void check(ort::Status* status, Exit exit, const char* code, const std::string& attempted) const;

  const ort::Api& api_;
  const Artefact artefact_;
  OrtOwned<ort::MemoryInfo> memory_;
  OrtOwned<ort::RunOptions> run_options_;
  Buffer tokens_;
  Buffer logits_;
  std::int64_t step_token_ = 0;
  std::int32_t seqlens_k_ = 0;
  std::int32_t total_ = 0;
  std::int64_t past_ = 0;
  std::int64_t settling_passes_ = 0;
  // Of the files' pages alone, and of all.
  std::int64_t copied_bytes_ = 0;
  std::int64_t huge_bytes_ = 0;
  // Place of the last pass's last position among the logits.
  std::int64_t last_ = 0;
  std::vector<Buffer> cache_;
  // Positions whose pages exist.
  std::int64_t reserved_ = 0;
  // The session is declared after the memory it may hold and before what is made from it.
  OrtOwned<ort::Session> session_;
  OrtOwned<ort::Value> seqlens_value_;
  OrtOwned<ort::Value> total_value_;
  std::vector<OrtOwned<ort::Value>> cache_values_;
  Pass step_;
  Pass prefill_;
  std::int64_t prefill_count_ = 0;
};

class OnnxRuntimeEngine : public Engine {
 public:
  // Throws Fault (runtime).
  explicit OnnxRuntimeEngine(const Artefact& artefact);

  std::string version() const override { return library_.version(); }
  void load(const Artefact& artefact, int threads, std::int64_t positions) override;
  void unload() override;
  std::vector<std::string> kernels() const override { return model_->kernels(); }
  std::int64_t huge_bytes() const override { return model_ ? model_->huge_bytes() : 0; }
  EngineMemory memory() const override { return model_ ? model_->memory() : EngineMemory{}; }
  void reserve(std::int64_t positions) override { model_->reserve(positions); }
  void rewind(std::int64_t positions) override { model_->rewind(positions); }
  std::int64_t* prepare_prefill(std::int64_t count) override;
  void prefill() override {
    ++passes_;
    model_->run_prefill();
  }
  void step(std::int64_t token) override {
    ++passes_;
    model_->run_step(token);
  }
  const char* write_profile() override;
  float logit(std::int64_t id) const override { return model_->logit(id); }
  void cancel() override;
  const OrtModel& model() const { return *model_; }

 private:
  OrtLibrary library_;
  OrtOwned<ort::Env> env_;
  std::unique_ptr<OrtModel> model_;
  // What another thread may cancel: set only once the model is complete.
  std::atomic<const OrtModel*> running_{nullptr};
};

}  // namespace edgekit
