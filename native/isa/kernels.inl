// All kernels of one ISA. The including file defines DOVETAIL_ISA (the namespace) and includes its vector header.
#include "../engine/kernel.h"

namespace dovetail::DOVETAIL_ISA {
namespace {

extern const KernelFunction functions[];  // below; kernels that are made of others call them

#include "../kernels/activation.inl"
#include "../kernels/planes.inl"
#include "../kernels/conv_dense.inl"
#include "../kernels/conv_lanes.inl"
#include "../kernels/conv_depthwise.inl"
#include "../kernels/conv_expanded.inl"
#include "../kernels/conv_winograd.inl"
#include "../kernels/conv_sparse.inl"
#include "../kernels/conv_sparse_columns.inl"
#include "../kernels/conv_basis.inl"
#include "../kernels/gemm.inl"
#include "../kernels/linear_classes.inl"
#include "../kernels/linear_diagonals.inl"
#include "../kernels/circulant.inl"
#include "../kernels/pointwise.inl"
#include "../kernels/pooling.inl"
#include "../kernels/rows.inl"
#include "../kernels/codes.inl"
#include "../kernels/deal.inl"
#include "../kernels/conv_dense_codes.inl"
#include "../kernels/conv_lanes_codes.inl"
#include "../kernels/conv_sparse_codes.inl"
#include "../kernels/conv_sparse_columns_codes.inl"
#include "../kernels/conv_basis_codes.inl"
#include "../kernels/conv_coefficients.inl"
#include "../kernels/conv_map_coefficients.inl"
#include "../kernels/linear_codes.inl"
#include "../kernels/linear_classes_codes.inl"
#include "../kernels/pointwise_codes.inl"
#include "../kernels/pooling_codes.inl"
#include "../kernels/peak.inl"
#include "../kernels/conv_tucker.inl"

#define DOVETAIL_FUNCTION(Args, kernel, FIELDS) kernel,
const KernelFunction functions[] = {DOVETAIL_KERNELS(DOVETAIL_FUNCTION)};
#undef DOVETAIL_FUNCTION

}  // namespace
}  // namespace dovetail::DOVETAIL_ISA
