// A compiled network: kernels with their arguments, in order. Run by all threads of a pool.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernel.h"
#include "pool.h"

namespace dovetail {

struct Step {
  KernelFunction function;
  std::vector<unsigned char> arguments;
  bool barrier;  // all work of the steps before must be finished
  bool serial;   // so little work that thread 0 does it alone
  struct Binding {
    size_t offset;
    int slot;
  };
  std::vector<Binding> bindings;  // pointers that are relative to the caller's arrays
};

class Plan {
 public:
  Plan();
  // Appends a step. `arguments` is copied.
  void add(KernelFunction function, const void* arguments, size_t size, bool barrier, bool serial);
  // The pointer field at `offset` of the last step is relative (in bytes) to slots[slot] of each run.
  void bind(size_t offset, int slot);
  // Floats of private scratch that each thread needs.
  void reserve_scratch(size_t floats);
  size_t size() const;

  // `slots` are addresses of the caller's inputs and outputs. With `nanoseconds`, every step is timed on its own.
  void run(Pool& pool, std::vector<uintptr_t> slots, int64_t* nanoseconds = nullptr);

 private:
  struct State;
  struct Run;
  std::shared_ptr<State> state_;  // shared with workers that come late
};

}  // namespace dovetail
