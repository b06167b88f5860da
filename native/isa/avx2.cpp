#define DOVETAIL_ISA avx2
#include "avx2.h"
#include "kernels.inl"

const dovetail::IsaTable dovetail::avx2_table = {"avx2", dovetail::avx2::kLanes, dovetail::avx2::functions};
