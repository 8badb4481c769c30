// ExecuTorch through its low-level C++ API, linked against the libraries of its own package.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../src/engine.h"

namespace edgekit {

class ExecutorchModel;

class ExecutorchEngine : public Engine {
 public:
  ExecutorchEngine();
  ~ExecutorchEngine() override;

  std::string version() const override;
  void load(const Artefact& artefact, int threads, std::int64_t positions) override;
  void unload() override;
  std::vector<std::string> kernels() const override;
  std::int64_t huge_bytes() const override;
  EngineMemory memory() const override;
  void reserve(std::int64_t positions) override;
  void rewind(std::int64_t positions) override;
  std::int64_t* prepare_prefill(std::int64_t count) override;
  void prefill() override;
  void step(std::int64_t token) override;
  const char* write_profile() override;
  float logit(std::int64_t id) const override;
  // ExecuTorch cannot stop inside a pass: the next pass fails instead, and passes are short.
  void cancel() override { cancelled_ = true; }

 private:
  std::unique_ptr<ExecutorchModel> model_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace edgekit
