#include "pool.h"

#include <unistd.h>

#include <chrono>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dovetail {
namespace {

constexpr std::chrono::microseconds kSpin{50};

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

void relax(int& spins) {
  pause();
  if (++spins % 2048 == 0) std::this_thread::yield();
}

Pool::Pool(int threads)
    : threads_(threads < 1 ? 1 : threads), process_(getpid()), turns_(new Turns(process_)), bed_(std::make_unique<Bed>()) {
  try {
    for (int thread = 1; thread < threads_; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

bool Pool::here() const { return getpid() == process_; }

void Pool::stop() {
  const Turns* turns = turns_.load();
  if (turns->process == getpid()) delete turns;
  if (!here()) {  // the workers stayed in the parent: joining them, or destroying what they wait for, hangs
    new std::vector<std::thread>(std::move(workers_));
    bed_.release();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(bed_->mutex);
    bed_->stop = true;
    bed_->task.reset();
    run_.fetch_add(1);
  }
  bed_->awake.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
}

std::unique_lock<std::mutex> Pool::turn() {
  Turns* turns = turns_.load();
  if (const int process = getpid(); turns->process != process) {  // perhaps locked, by a thread that is not here
    auto own = std::make_unique<Turns>(process);
    if (turns_.compare_exchange_strong(turns, own.get())) turns = own.release();
  }
  return std::unique_lock<std::mutex>(turns->mutex);
}

void Pool::run(const std::shared_ptr<Task>& task) {
  const uint32_t run = run_.load(std::memory_order_relaxed) + 1;
  task->open(run);
  if (threads_ > 1 && here()) {
    {
      std::lock_guard<std::mutex> lock(bed_->mutex);
      bed_->task = task;
    }
    run_.store(run);
    // A sleeper counts itself before it looks at run_, which has changed before this looks for sleepers.
    if (sleepers_.load() > 0) {
      { std::lock_guard<std::mutex> lock(bed_->mutex); }
      bed_->awake.notify_all();
    }
  } else {
    run_.store(run);
  }
  task->work(0, run_, run);
}

void Pool::serve(int thread) {
  for (uint32_t seen = 0;;) {
    wait_for_run_after(seen);
    std::shared_ptr<Task> task;
    {
      std::lock_guard<std::mutex> lock(bed_->mutex);
      if (bed_->stop) return;  // as stop() counts as a run, too, which nobody would announce once it is `seen`
      task = bed_->task;
      seen = run_.load();  // the task is of this run or of a later one that is about to be announced
    }
    if (task) task->work(thread, run_, seen);
  }
}

void Pool::wait_for_run_after(uint32_t seen) {
  const auto limit = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (run_.load(std::memory_order_acquire) != seen) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < limit);
  std::unique_lock<std::mutex> lock(bed_->mutex);
  sleepers_.fetch_add(1);
  bed_->awake.wait(lock, [&] { return run_.load() != seen; });
  sleepers_.fetch_sub(1);
}

}  // namespace dovetail
