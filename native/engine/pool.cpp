#include "pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dovetail {
namespace {

constexpr std::chrono::microseconds kSpin{30};

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads) {
  for (int thread = 1; thread < threads_; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

Pool::~Pool() {
  stop_ = true;
  start_.fetch_add(1);
  wake();
  for (auto& worker : workers_) worker.join();
}

void Pool::run(void (*task)(void*, int), void* context) {
  if (threads_ > 1) {
    task_ = task;
    context_ = context;
    start_.fetch_add(1);
    wake();
  }
  task(context, 0);
  barrier();
}

void Pool::work(int thread) {
  for (uint32_t seen = 0;; ++seen) {
    wait(start_, seen);
    if (stop_) return;
    task_(context_, thread);
    barrier();
  }
}

void Pool::barrier() {
  if (threads_ == 1) return;
  const uint32_t phase = phase_.load();
  if (arrived_.fetch_add(1) + 1 == threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1);
    wake();
  } else {
    wait(phase_, phase);
  }
}

void Pool::wait(const std::atomic<uint32_t>& word, uint32_t old) {
  for (int i = 0; i < 64; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    pause();
  }
  const auto limit = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (word.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < limit);
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1);
  awake_.wait(lock, [&] { return word.load() != old; });
  sleepers_.fetch_sub(1);
}

// `word` has changed before this looks for sleepers, and a sleeper counts itself before it looks at `word` (both
// sequentially consistent), so none is missed.
void Pool::wake() {
  if (sleepers_.load() == 0) return;
  { std::lock_guard<std::mutex> lock(mutex_); }
  awake_.notify_all();
}

}  // namespace dovetail
