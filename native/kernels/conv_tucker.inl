// The convolutions of a Tucker layer, one after another for a few rows at a time: what lies between them stays in a
// thread's scratch. Words of codes lie as numbers do, so a chain of convolutions over codes is walked in the same way.
//
// There are no loops over numbers here: the other kernels of this instruction set are called, each by this thread alone,
// with arguments that were laid out for a block of rows. Unit: (image, strip of rows of the output). Loops: block of rows
// of the strip > call. Which calls a block makes is up to engine/fused.py: the 1x1 convolution of the rows of the input that
// are new to this block, the core, and the 1x1 convolution that writes the output; rows of the first that the next block
// needs too are moved to the top of the scratch.

struct StripCall {
  int64_t kernel, arguments, size;  // place in the table of functions; where in `arguments`, and how many bytes
  int64_t first, count;             // of its pointers that are not absolute
};

struct StripPointer {
  int64_t field;   // where in the arguments, in bytes
  int64_t base;    // 0: scratch, 1: x, 2: y, 3: residual
  int64_t offset;  // from there, in elements
};

struct RowStrip {
  int64_t first, count;  // of its calls
};

template <typename Args>
void convolutions_by_rows(const void* arguments, Worker& worker) {
  const auto& a = *static_cast<const Args*>(arguments);
  const auto* strips = static_cast<const RowStrip*>(a.strips);
  const auto* calls = static_cast<const StripCall*>(a.calls);
  const auto* pointers = static_cast<const StripPointer*>(a.pointers);
  const auto* blob = static_cast<const unsigned char*>(a.arguments);
  for_units(worker, a.images * a.strip_count, 1, [&](int64_t begin, int64_t end) {
    Worker alone;
    alone.scratch = worker.scratch + a.scratch;
    alignas(16) unsigned char copy[kMostArguments];
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / a.strip_count;
      const RowStrip& strip = strips[unit % a.strip_count];
      const float* const bases[] = {worker.scratch, a.x + image * a.x_image, a.y + image * a.y_image, a.residual + image * a.r_image};
      for (const StripCall* call = calls + strip.first; call != calls + strip.first + strip.count; ++call) {
        __builtin_memcpy(copy, blob + call->arguments, static_cast<size_t>(call->size));
        for (const StripPointer* p = pointers + call->first; p != pointers + call->first + call->count; ++p) {
          const float* address = bases[p->base] + p->offset;
          __builtin_memcpy(copy + p->field, &address, sizeof address);
        }
        functions[call->kernel](copy, alone);
      }
    }
  });
}

void conv2d_tucker_f32(const void* arguments, Worker& worker) { convolutions_by_rows<ConvTuckerArgs>(arguments, worker); }

void conv2d_chain_int8(const void* arguments, Worker& worker) { convolutions_by_rows<ConvChainCodesArgs>(arguments, worker); }
