#define DOVETAIL_ISA avx512vnni
#define DOVETAIL_VNNI
#include "avx512.h"
#include "kernels.inl"

const dovetail::IsaTable dovetail::avx512vnni_table = {"avx512vnni", dovetail::avx512vnni::kLanes, dovetail::avx512vnni::functions};
