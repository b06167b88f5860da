// A kernel is a plain function over its arguments; every thread of a step calls it and claims units of work.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "arguments.h"

namespace dovetail {

// Work of one step, taken in pieces. Each thread owns an equal share and, when done, takes pieces of the others':
// neighbouring units stay on one core from layer to layer, and a disturbed core delays nobody by more than one piece.
// The upper half of `next` is the number of the run, so that a thread which comes late can take nothing of a later one.
struct alignas(64) Claim {
  std::atomic<uint64_t> next{0};
};

struct alignas(64) Progress {
  std::atomic<int64_t> done{0};  // units finished
};

struct Worker {
  int thread = 0;
  int threads = 1;
  uint32_t run = 0;
  Claim* claims = nullptr;       // one per thread
  Progress* progress = nullptr;  // of the step
  int64_t units = 0;             // of the step, set by for_units
  float* scratch = nullptr;      // 64-byte aligned, private to the thread
};

// Takes up to `grain` of the units of a share; returns the first, or -1 if none is left in this run.
inline int64_t take(Claim& claim, uint32_t run, int64_t size, int64_t grain) {
  uint64_t seen = claim.next.load(std::memory_order_relaxed);
  for (;;) {
    const auto at = static_cast<int64_t>(seen & 0xFFFFFFFFu);
    if (seen >> 32 != run || at >= size) return -1;
    if (claim.next.compare_exchange_weak(seen, seen + static_cast<uint64_t>(grain), std::memory_order_relaxed)) return at;
  }
}

// Calls body(begin, end) on pieces of [0, units) of about `grain` units until none is left. A kernel calls this once, and
// reads nothing but its arguments outside of the body: a thread that comes when the run is over gets no piece, and what
// the arguments point to may be gone by then (Plan::arrive_late shows a kernel that does).
template <class Body>
inline void for_units(Worker& worker, int64_t units, int64_t grain, const Body& body) {
  worker.units = units;
  if (worker.threads == 1) {
    body(int64_t{0}, units);
    return;
  }
  for (int i = 0; i < worker.threads; ++i) {
    const int64_t owner = (worker.thread + i) % worker.threads;
    const int64_t first = units * owner / worker.threads, size = units * (owner + 1) / worker.threads - first;
    int64_t done = 0;
    for (int64_t at; (at = take(worker.claims[owner], worker.run, size, grain)) >= 0;) {
      const int64_t end = at + grain < size ? at + grain : size;
      body(first + at, first + end);
      done += end - at;
    }
    if (done) worker.progress->done.fetch_add(done, std::memory_order_release);
  }
}

// A grain that gives each thread about eight pieces.
inline int64_t grain_of(int64_t units, int threads) {
  const int64_t grain = units / (int64_t{8} * threads);
  return grain > 0 ? grain : 1;
}

// Bytes that the arguments of any kernel take at most (checked in plan.cpp).
constexpr size_t kMostArguments = 1024;

using KernelFunction = void (*)(const void* arguments, Worker& worker);

enum class FieldKind { pointer, integer, array, real };

struct Field {
  const char* name;
  FieldKind kind;
  size_t offset;
  size_t count;
};

struct KernelInfo {
  const char* name;
  const Field* fields;
  size_t field_count;
  size_t size;  // of the argument struct
};

// Tables of one ISA, in the order of DOVETAIL_KERNELS.
struct IsaTable {
  const char* name;
  int lanes;  // floats in a vector
  const KernelFunction* functions;
};

extern const IsaTable portable_table;
extern const IsaTable avx2_table;
extern const IsaTable avx512_table;
extern const IsaTable avx512vnni_table;

const KernelInfo* kernel_infos(size_t* count);
// The table of an ISA that this build has and this CPU can run, else null.
const IsaTable* isa_table(const char* name);

}  // namespace dovetail
