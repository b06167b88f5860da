// A small thread pool for networks whose layers take microseconds.
//
// Workers wait for the next run by spinning for a few tens of microseconds and sleep after that; between the steps of a
// run they meet at a barrier that does the same. The caller is thread 0.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace dovetail {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Runs task(context, thread) on every thread and returns when all are done.
  void run(void (*task)(void* context, int thread), void* context);

  // All threads of the running task meet; what was written before is seen after.
  void barrier();

 private:
  void work(int thread);
  // Returns once `word` differs from `old`.
  void wait(const std::atomic<uint32_t>& word, uint32_t old);
  void wake();

  const int threads_;
  std::vector<std::thread> workers_;
  void (*task_)(void*, int) = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> start_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable awake_;
};

}  // namespace dovetail
