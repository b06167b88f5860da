#define DOVETAIL_ISA avx512
#include "avx512.h"
#include "kernels.inl"

const dovetail::IsaTable dovetail::avx512_table = {"avx512", dovetail::avx512::kLanes, dovetail::avx512::functions};
