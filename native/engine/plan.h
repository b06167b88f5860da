// A compiled network: kernels with their arguments, in order. Run by all threads of a pool, without allocation.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernel.h"
#include "pool.h"

namespace dovetail {

class Plan {
 public:
  // Appends a step. `arguments` is copied. Where `barrier` is false the step may run beside the ones before it.
  void add(KernelFunction function, const void* arguments, size_t size, bool barrier);
  // The pointer field at `offset` of the last step becomes slots[slot] + its present value (in bytes) at each run.
  void bind(size_t offset, int slot);
  // Floats of private scratch that each thread needs.
  void reserve_scratch(size_t floats);
  size_t size() const { return steps_.size(); }

  // `slots` are addresses of the caller's inputs and outputs. With `nanoseconds`, every step is timed on its own.
  void run(Pool& pool, const std::vector<uintptr_t>& slots, int64_t* nanoseconds = nullptr);

 private:
  struct Step {
    KernelFunction function;
    std::vector<unsigned char> arguments;
    bool barrier;
  };
  struct Binding {
    size_t step, offset;
    int slot;
    uintptr_t base;
  };
  struct Run {
    Plan* plan;
    Pool* pool;
    int64_t* nanoseconds;
  };
  void prepare(int threads);
  static void execute(void* context, int thread);

  std::vector<Step> steps_;
  std::vector<Binding> bindings_;
  size_t scratch_floats_ = 0;
  int prepared_threads_ = 0;
  std::unique_ptr<Claim[]> claims_;                 // steps x threads
  std::vector<std::vector<float>> scratch_;         // per thread
};

}  // namespace dovetail
