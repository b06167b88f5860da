// A kernel is a plain function over its arguments; every thread of a step calls it and claims units of work.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "arguments.h"

namespace dovetail {

// Work of one step, claimed in pieces. Each thread owns an equal share and, when done, takes pieces of the others':
// neighbouring units stay on one core from layer to layer, and a disturbed core delays nobody by more than one piece.
struct alignas(64) Claim {
  std::atomic<int64_t> next{0};
};

struct Worker {
  int thread = 0;
  int threads = 1;
  Claim* claims = nullptr;  // one per thread
  float* scratch = nullptr;  // 64-byte aligned, private to the thread
};

// Calls body(begin, end) on pieces of [0, units) of about `grain` units until all are taken.
template <class Body>
inline void for_units(Worker& worker, int64_t units, int64_t grain, const Body& body) {
  if (worker.threads == 1) {
    body(int64_t{0}, units);
    return;
  }
  for (int i = 0; i < worker.threads; ++i) {
    const int64_t owner = (worker.thread + i) % worker.threads;
    const int64_t first = units * owner / worker.threads, last = units * (owner + 1) / worker.threads;
    for (;;) {
      const int64_t begin = first + worker.claims[owner].next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= last) break;
      body(begin, begin + grain < last ? begin + grain : last);
    }
  }
}

// A grain that gives each thread about eight pieces.
inline int64_t grain_of(int64_t units, int threads) {
  const int64_t grain = units / (int64_t{8} * threads);
  return grain > 0 ? grain : 1;
}

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

const KernelInfo* kernel_infos(size_t* count);
// The table of an ISA that this build has and this CPU can run, else null.
const IsaTable* isa_table(const char* name);

}  // namespace dovetail
