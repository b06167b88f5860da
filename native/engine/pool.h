// A small thread pool for networks whose layers take microseconds, on machines that may be busy with something else.
//
// The caller is thread 0. It never waits for a worker to *arrive*, only for pieces of work that a worker has *taken*: a
// worker that the system has put aside delays nobody unless it holds a piece, and pieces are small. A worker that comes
// late finds the work done, and joins the next run. Between runs workers spin for a few tens of microseconds, then sleep.
//
// A forked child has no workers, and whatever its parent's threads held at that moment is held for ever: there the caller
// does all the work, and touches nothing that a vanished thread may have locked.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace dovetail {

// What the threads of one run share. It lives until the last late worker has left it.
struct Task {
  virtual ~Task() = default;
  // Called before any thread works on it, with the number of the run.
  virtual void open(uint32_t run) = 0;
  // Work as thread `thread` until nothing is left to take in run `run`; it is over once `runs` has another value.
  virtual void work(int thread, const std::atomic<uint32_t>& runs, uint32_t run) = 0;
};

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }
  // Whether the workers are in this process.
  bool here() const;

  // Callers take turns: what they hold from before they make a task until it is done.
  std::unique_lock<std::mutex> turn();
  // Lets the workers join `task` and works on it as thread 0; returns when thread 0 does. The caller has the turn.
  void run(const std::shared_ptr<Task>& task);

 private:
  void serve(int thread);
  void stop();
  void wait_for_run_after(uint32_t seen);

  const int threads_;
  const int process_;  // that has the workers
  std::vector<std::thread> workers_;
  alignas(64) std::atomic<uint32_t> run_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  struct Turns {
    explicit Turns(int process) : process(process) {}
    const int process;  // a forked child makes its own
    std::mutex mutex;
  };
  std::atomic<Turns*> turns_;
  struct Bed {
    std::mutex mutex;  // guards the rest, and sleep
    std::condition_variable awake;
    std::shared_ptr<Task> task;
    bool stop = false;
  };
  std::unique_ptr<Bed> bed_;
};

// One step of waiting: a pause, and from time to time the core for somebody else.
void relax(int& spins);

}  // namespace dovetail
