// What the trial loop needs of a runtime. One implementation per runtime; the loop, the golden check and the
// events know none of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "footprint.h"
#include "plan.h"

namespace edgekit {

class Engine {
 public:
  virtual ~Engine() = default;

  virtual std::string version() const = 0;

  // Opens the artefact and makes everything that runs need; `positions` is how far the cache will be filled.
  // Called again after unload(). Throws Fault.
  virtual void load(const Artefact& artefact, int threads, std::int64_t positions) = 0;
  virtual void unload() = 0;

  // Of the plan's kernel libraries, what the loaded artefact really runs on; as the libraries name themselves.
  virtual std::vector<std::string> kernels() const { return {}; }

  // Bytes of the loaded artefact that lie in huge pages because the engine put them there.
  virtual std::int64_t huge_bytes() const { return 0; }

  // Leaves the first `positions` tokens in the cache, at most as many as there are; what comes next takes the place
  // of the others.
  virtual void rewind(std::int64_t positions) = 0;
  // What it knows of its own memory. Not called inside a timed region.
  virtual EngineMemory memory() const { return {}; }

  // Makes the pages of the cache's first `positions` exist, so that no timed region pays for them. The cache is empty.
  virtual void reserve(std::int64_t positions) = 0;

  // Empties the cache.
  void reset() { rewind(0); }

  // Makes what a prefill of `count` tokens needs and returns where they are to be written, so that prefill()
  // itself allocates nothing.
  virtual std::int64_t* prepare_prefill(std::int64_t count) = 0;
  // One forward pass over the prepared tokens, appended to the cache.
  virtual void prefill() = 0;

  // One forward pass over one token, appended to the cache. Allocates nothing of its own.
  virtual void step(std::int64_t token) = 0;

  // Forward passes since load(): what an operator profile numbers its passes by.
  std::int64_t passes() const { return passes_; }

  // Writes the times of all operators since load() to the artefact's profile_path and ends their recording; returns
  // the name of the format. Throws Fault (profile).
  virtual const char* write_profile() = 0;

  // Logits of the last position of the last pass, one per vocabulary entry.
  virtual float logit(std::int64_t id) const = 0;

  // Makes a pass under way fail soon. Called from another thread.
  virtual void cancel() = 0;

 protected:
  std::int64_t passes_ = 0;
};

// The engine for the plan's runtime, its library loaded. Throws Fault (runtime).
std::unique_ptr<Engine> make_engine(const Artefact& artefact);

}  // namespace edgekit
