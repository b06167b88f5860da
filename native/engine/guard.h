// What a build with AddressSanitizer (DOVETAIL_SANITIZE) is told beyond what it sees by itself; nothing in other builds.
#pragma once

#include <cstddef>

#ifdef DOVETAIL_SANITIZE
#include <sanitizer/asan_interface.h>
#endif

namespace dovetail {

#ifdef DOVETAIL_SANITIZE
// From now on nobody may touch these bytes; all may again.
inline void guard(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unguard(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }

// Reads the first `n` elements, or those whose bit is set: what a masked load or store touches, which is not checked.
template <class T>
inline void touch(const T* p, int n) {
  for (int i = 0; i < n; ++i) static_cast<void>(*static_cast<const volatile T*>(p + i));
}
template <class T>
inline void touch_lanes(const T* p, unsigned bits) {
  for (int i = 0; i < 32; ++i)
    if (bits >> i & 1) touch(p + i, 1);
}
#else
inline void guard(const void*, size_t) {}
template <class T>
inline void touch(const T*, int) {}
template <class T>
inline void touch_lanes(const T*, unsigned) {}
#endif

}  // namespace dovetail
