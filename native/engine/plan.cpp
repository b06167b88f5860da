#include "plan.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "guard.h"

namespace dovetail {

namespace {

// Zeroed floats that begin at a cache line. Many of them lie in large pages where the system gives those: tensors in scratch
// are planes, and neighbouring channels a page apart.
class Scratch {
 public:
  explicit Scratch(size_t floats) : floats_(floats) {
    const size_t bytes = (floats + 16) * sizeof(float), align = bytes < kMany ? 64 : kPage;
    bytes_ = (bytes + align - 1) / align * align;
    memory_.reset(static_cast<float*>(std::aligned_alloc(align, bytes_)));
    if (!memory_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (align == kPage) madvise(memory_.get(), bytes_, MADV_HUGEPAGE);
#endif
    std::memset(memory_.get(), 0, bytes);
    guard(memory_.get() + floats_, bytes_ - floats_ * sizeof(float));
  }
  float* data() const { return memory_.get(); }

 private:
  static constexpr size_t kPage = size_t{1} << 21, kMany = size_t{1} << 17;
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  size_t floats_, bytes_;
  std::unique_ptr<float, Free> memory_;
};

}  // namespace

struct Plan::State {
  std::vector<Step> steps;
  size_t scratch_floats = 0;
  // For `threads` threads:
  int threads = 0;
  std::unique_ptr<Claim[]> claims;       // steps x threads
  std::unique_ptr<Progress[]> progress;  // steps
  std::vector<Scratch> scratch;
  std::atomic<size_t> timed{0};  // steps whose time has begun to count

  void prepare(int count) {
    if (threads == count) return;
    if (threads != 0) throw std::invalid_argument("a plan runs on pools of one size");
    claims.reset(new Claim[steps.size() * count + 1]);
    progress.reset(new Progress[steps.size() + 1]);
    scratch.clear();
    for (int i = 0; i < count; ++i) scratch.emplace_back(scratch_floats);
    threads = count;
  }

  void open(uint32_t run) {
    timed.store(0, std::memory_order_relaxed);
    for (size_t i = 0; i < steps.size(); ++i) progress[i].done.store(0, std::memory_order_relaxed);
    for (size_t i = 0; i < steps.size() * threads; ++i)
      claims[i].next.store(uint64_t{run} << 32, std::memory_order_relaxed);
  }
};

namespace {

#define DOVETAIL_FITS(Args, kernel, FIELDS) static_assert(sizeof(Args) <= kMostArguments, "raise kMostArguments");
DOVETAIL_KERNELS(DOVETAIL_FITS)
#undef DOVETAIL_FITS

// Arguments whose bound pointers have become absolute; the original where nothing is bound.
const void* bound(const Step& step, const std::vector<uintptr_t>& slots, unsigned char* copy) {
  if (step.bindings.empty()) return step.arguments.data();
  std::memcpy(copy, step.arguments.data(), step.arguments.size());
  for (const auto& binding : step.bindings) {
    uintptr_t address;
    std::memcpy(&address, copy + binding.offset, sizeof address);
    address += slots[binding.slot];
    std::memcpy(copy + binding.offset, &address, sizeof address);
  }
  return copy;
}

int64_t now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

}  // namespace

struct Plan::Run final : Task {
  std::shared_ptr<State> state;
  std::vector<uintptr_t> slots;
  int64_t* nanoseconds = nullptr;

  void open(uint32_t run) override { state->open(run); }

  void work(int thread, const std::atomic<uint32_t>& runs, uint32_t run) override {
    State& s = *state;
    Worker worker;
    worker.thread = thread, worker.threads = s.threads, worker.run = run;
    worker.scratch = s.scratch[thread].data();
    alignas(16) unsigned char copy[kMostArguments];
    thread_local std::vector<int64_t> units;
    if (units.size() < s.steps.size()) units.resize(s.steps.size());
    size_t open = 0;  // first step that may not be finished
    for (size_t i = 0; i < s.steps.size(); ++i) {
      if ((s.steps[i].barrier || nanoseconds) && !finish(open, i, units, runs, run)) return;
      if (nanoseconds && !begin_timing(i, thread, runs, run)) return;
      units[i] = perform(s.steps[i], i, worker, copy);
      if (nanoseconds && thread == 0) {
        finish(open, i + 1, units, runs, run);
        nanoseconds[i] += now();
      }
    }
    if (thread == 0) finish(open, s.steps.size(), units, runs, run);
  }

  // Reads the clock before any thread starts on step i: one that started earlier would make it look too short, and the
  // least of many times would be that one. False if the run is over meanwhile.
  bool begin_timing(size_t i, int thread, const std::atomic<uint32_t>& runs, uint32_t run) const {
    if (thread == 0) {
      nanoseconds[i] = -now();
      state->timed.store(i + 1, std::memory_order_release);
      return true;
    }
    int spins = 0;
    while (state->timed.load(std::memory_order_acquire) <= i) {
      if (runs.load(std::memory_order_relaxed) != run) return false;
      relax(spins);
    }
    return true;
  }

  // This thread's part of a step; returns the units that the step has.
  int64_t perform(const Step& step, size_t i, Worker& worker, unsigned char* copy) const {
    State& s = *state;
    if (step.serial && worker.thread != 0) return 1;
    worker.threads = step.serial ? 1 : s.threads;
    worker.claims = &s.claims[i * s.threads], worker.progress = &s.progress[i];
    step.function(bound(step, slots, copy), worker);
    if (!step.serial) return worker.units;
    s.progress[i].done.store(1, std::memory_order_release);
    return 1;
  }

  // Waits until all work of steps [open, end) is finished; false if the run is over meanwhile.
  bool finish(size_t& open, size_t end, const std::vector<int64_t>& units, const std::atomic<uint32_t>& runs, uint32_t run) const {
    if (state->threads > 1) {
      int spins = 0;
      for (; open < end; ++open)
        while (state->progress[open].done.load(std::memory_order_acquire) != units[open]) {
          if (runs.load(std::memory_order_relaxed) != run) return false;
          relax(spins);
        }
    }
    open = end;
    return true;
  }
};

Plan::Plan() : state_(std::make_shared<State>()) {}

void Plan::add(const IsaTable& isa, size_t kernel, const void* arguments, size_t size, bool barrier, bool serial) {
  const auto* bytes = static_cast<const unsigned char*>(arguments);
  const std::vector<unsigned char> copy(bytes, bytes + size);
  state_->steps.push_back({&isa, kernel, isa.functions[kernel], copy, barrier, serial, {}});
  state_->threads = 0;
}

void Plan::bind(size_t offset, int slot) { state_->steps.back().bindings.push_back({offset, slot}); }

void Plan::reserve_scratch(size_t floats) {
  if (floats > state_->scratch_floats) state_->scratch_floats = floats;
  state_->threads = 0;
}

size_t Plan::size() const { return state_->steps.size(); }

std::vector<std::string> Plan::kernels() const {
  size_t count;
  const KernelInfo* infos = kernel_infos(&count);
  std::vector<std::string> names;
  for (const Step& step : state_->steps) names.push_back(std::string(infos[step.kernel].name) + "__" + step.isa->name);
  return names;
}

void Plan::arrive_late() const {
  size_t count;
  const KernelInfo* infos = kernel_infos(&count);
  const Scratch scratch(state_->scratch_floats);
  for (const Step& step : state_->steps) {
    alignas(16) unsigned char nowhere[kMostArguments];
    std::memcpy(nowhere, step.arguments.data(), step.arguments.size());
    const KernelInfo& info = infos[step.kernel];
    for (size_t i = 0; i < info.field_count; ++i)
      if (info.fields[i].kind == FieldKind::pointer) std::memset(nowhere + info.fields[i].offset, 0, sizeof(uintptr_t));
    Claim claims[2];  // of run 0
    Progress progress;
    Worker worker;
    worker.thread = 1, worker.threads = 2, worker.run = 1;
    worker.claims = claims, worker.progress = &progress, worker.scratch = scratch.data();
    step.function(nowhere, worker);
  }
}

// A Run that nobody but this plan holds. The pool keeps the latest one and a late worker may still read it or one before
// (it takes no work of another run, but it reads), so runs are used in turn: two, and one more for each latecomer.
std::shared_ptr<Plan::Run> Plan::idle_run(int threads) {
  state_->prepare(threads);
  for (const auto& run : runs_)
    if (run.use_count() == 1) {
      std::atomic_thread_fence(std::memory_order_acquire);  // what the last holder read comes before what is written now
      return run;
    }
  runs_.push_back(std::make_shared<Run>());
  runs_.back()->state = state_;
  return runs_.back();
}

void Plan::run(Pool& pool, const std::vector<uintptr_t>& slots, int64_t* nanoseconds) {
  const auto turn = pool.turn();
  const std::shared_ptr<Run> run = idle_run(pool.threads());
  run->slots.assign(slots.begin(), slots.end());
  run->nanoseconds = nanoseconds;
  pool.run(run);
}

}  // namespace dovetail
