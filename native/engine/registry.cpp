// Kernel names, argument tables and the ISAs that this CPU can run.
#include <cstring>

#include "kernel.h"

namespace dovetail {
namespace {

#define DOVETAIL_FIELD_P(type, name) {#name, FieldKind::pointer, offsetof(Args, name), 1},
#define DOVETAIL_FIELD_I(name) {#name, FieldKind::integer, offsetof(Args, name), 1},
#define DOVETAIL_FIELD_A(name, count) {#name, FieldKind::array, offsetof(Args, name), count},
#define DOVETAIL_FIELD_F(name) {#name, FieldKind::real, offsetof(Args, name), 1},
#define DOVETAIL_FIELDS(ArgsType, kernel, FIELDS)                                                \
  struct kernel##_table {                                                                        \
    using Args = ArgsType;                                                                       \
    static const Field fields[];                                                                 \
    static const size_t count;                                                                   \
  };                                                                                             \
  const Field kernel##_table::fields[] = {                                                       \
      FIELDS(DOVETAIL_FIELD_P, DOVETAIL_FIELD_I, DOVETAIL_FIELD_A, DOVETAIL_FIELD_F)};           \
  const size_t kernel##_table::count = sizeof(kernel##_table::fields) / sizeof(Field);
DOVETAIL_KERNELS(DOVETAIL_FIELDS)

#define DOVETAIL_INFO(Args, kernel, FIELDS) {"dovetail_" #kernel, kernel##_table::fields, kernel##_table::count, sizeof(Args)},
const KernelInfo infos[] = {DOVETAIL_KERNELS(DOVETAIL_INFO)};

}  // namespace

const KernelInfo* kernel_infos(size_t* count) {
  *count = sizeof(infos) / sizeof(KernelInfo);
  return infos;
}

const IsaTable* isa_table(const char* name) {
  if (std::strcmp(name, "portable") == 0) return &portable_table;
#ifdef DOVETAIL_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (std::strcmp(name, "avx2") == 0 && avx2) return &avx2_table;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (std::strcmp(name, "avx512") == 0 && avx2 && avx512) return &avx512_table;
  const bool vnni = __builtin_cpu_supports("avx512vnni");
  if (std::strcmp(name, "avx512vnni") == 0 && avx2 && avx512 && vnni) return &avx512vnni_table;
#endif
  return nullptr;
}

}  // namespace dovetail
