// A compiled network: kernels with their arguments, in order. Run by all threads of a pool.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernel.h"
#include "pool.h"

namespace dovetail {

struct Step {
  const IsaTable* isa;
  size_t kernel;  // its place in the table
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
  // Appends a step that calls kernel number `kernel` of the table. `arguments` is copied.
  void add(const IsaTable& isa, size_t kernel, const void* arguments, size_t size, bool barrier, bool serial);
  // The pointer field at `offset` of the last step is relative (in bytes) to slots[slot] of each run.
  void bind(size_t offset, int slot);
  // Floats of private scratch that each thread needs.
  void reserve_scratch(size_t floats);
  size_t size() const;
  // What each step calls, as `dovetail_<op>_<format>_<values>__<isa>`: read from the table that its function is from.
  std::vector<std::string> kernels() const;

  // Calls every step as a thread that comes when the run is over, with pointers that lead nowhere: a kernel that reads
  // through them ends the process. For tests.
  void arrive_late() const;

  // `slots` are addresses of the caller's inputs and outputs. With `nanoseconds`, every step is timed on its own.
  // Callers take turns; a plan is run on one pool only. Nothing is allocated once a few runs have been made.
  void run(Pool& pool, const std::vector<uintptr_t>& slots, int64_t* nanoseconds = nullptr);

 private:
  struct State;
  struct Run;
  std::shared_ptr<Run> idle_run(int threads);

  std::shared_ptr<State> state_;  // shared with workers that come late
  std::vector<std::shared_ptr<Run>> runs_;
};

}  // namespace dovetail
