// Compiled once per instruction set, with FASTINC_ISA naming the namespace (see CMakeLists.txt).
#include "cpu/code_scan_loop.h"
#include "cpu/kernels.h"
#include "cpu/quantize_loop.h"
#include "cpu/read_loop.h"
#include "cpu/score_loop.h"
#include "cpu/update_loop.h"

namespace FASTINC_ISA_NAMESPACE {

#define FASTINC_STRING2(x) #x
#define FASTINC_STRING(x) FASTINC_STRING2(x)
#define FASTINC_UPDATE(Name) update_segments<Name>,
#define FASTINC_SUM_STEP(Name) sum_step<Name>,

extern const Kernels kKernels;
const Kernels kKernels = {
    .isa = FASTINC_STRING(FASTINC_ISA),
    .update = {FASTINC_FOR_EACH_OPTIMIZER(FASTINC_UPDATE)},
    .sum_step = {FASTINC_FOR_EACH_OPTIMIZER(FASTINC_SUM_STEP)},
    .max_abs_bits = max_abs_bits,
    .segment_is_finite = segment_is_finite,
    .start_row = start_row,
    .quantize_rows = quantize_rows,
    .dequantize_rows = dequantize_rows,
    .read_rows = read_rows,
    .read_codes = read_codes,
    .scan_codes = scan_codes,
    .scan_code_limit = scan_code_limit,
    .score_rows = score_rows,
    .squared_distances = squared_distances,
    .squared_norms = squared_norms,
    .accumulate_rows = accumulate_rows,
    .add_scaled = add_scaled,
    .sum = sum,
    .dot = dot_product,
    .exponentiate = exponentiate,
};

}  // namespace FASTINC_ISA_NAMESPACE
