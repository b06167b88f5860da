#include "plan.h"

#include <chrono>
#include <cstring>

namespace dovetail {

void Plan::add(KernelFunction function, const void* arguments, size_t size, bool barrier) {
  const auto* bytes = static_cast<const unsigned char*>(arguments);
  steps_.push_back({function, std::vector<unsigned char>(bytes, bytes + size), barrier});
  prepared_threads_ = 0;
}

void Plan::bind(size_t offset, int slot) {
  uintptr_t base;
  std::memcpy(&base, steps_.back().arguments.data() + offset, sizeof base);
  bindings_.push_back({steps_.size() - 1, offset, slot, base});
}

void Plan::reserve_scratch(size_t floats) {
  if (floats > scratch_floats_) scratch_floats_ = floats;
  prepared_threads_ = 0;
}

void Plan::prepare(int threads) {
  if (prepared_threads_ == threads) return;
  claims_.reset(new Claim[steps_.size() * threads + 1]);
  scratch_.assign(threads, std::vector<float>(scratch_floats_ + 16));
  prepared_threads_ = threads;
}

void Plan::run(Pool& pool, const std::vector<uintptr_t>& slots, int64_t* nanoseconds) {
  prepare(pool.threads());
  for (const auto& binding : bindings_) {
    const uintptr_t address = slots.at(binding.slot) + binding.base;
    std::memcpy(steps_[binding.step].arguments.data() + binding.offset, &address, sizeof address);
  }
  for (size_t i = 0; i < steps_.size() * pool.threads(); ++i) claims_[i].next.store(0, std::memory_order_relaxed);
  Run run{this, &pool, nanoseconds};
  pool.run(&Plan::execute, &run);
}

void Plan::execute(void* context, int thread) {
  const Run& run = *static_cast<Run*>(context);
  Plan& plan = *run.plan;
  const int threads = run.pool->threads();
  const uintptr_t scratch = reinterpret_cast<uintptr_t>(plan.scratch_[thread].data());
  Worker worker{thread, threads, nullptr, reinterpret_cast<float*>((scratch + 63) / 64 * 64)};
  auto before = std::chrono::steady_clock::now();
  for (size_t i = 0; i < plan.steps_.size(); ++i) {
    const Step& step = plan.steps_[i];
    if (step.barrier || run.nanoseconds) run.pool->barrier();
    worker.claims = &plan.claims_[i * threads];
    step.function(step.arguments.data(), worker);
    if (run.nanoseconds) {
      run.pool->barrier();
      if (thread == 0) {
        const auto now = std::chrono::steady_clock::now();
        run.nanoseconds[i] = std::chrono::duration_cast<std::chrono::nanoseconds>(now - before).count();
        before = now;
      }
    }
  }
}

}  // namespace dovetail
