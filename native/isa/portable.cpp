#define DOVETAIL_ISA portable
#include "portable.h"
#include "kernels.inl"

const dovetail::IsaTable dovetail::portable_table = {"portable", dovetail::portable::kLanes, dovetail::portable::functions};
