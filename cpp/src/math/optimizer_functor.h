// What an optimizer functor is. The row loops (CPU) and kernels (CUDA) call, for each row:
//   1. element_statistic(g, w) for every weight, summed in the fixed order of lane_sum.h, if kNeedsStatistic
//   2. begin_row(row_state, mean of the statistic): updates the row's own state, returns constants for the
//   row
//   3. element(row, g, w, state0, state1) for every weight
// A functor holds plain floats and doubles, so that it can be passed to a CUDA kernel by value.
#pragma once

#include "math/config.h"
#include "math/scalar.h"

namespace FASTINC_ISA_NAMESPACE {

struct NoRowConstants {};

/// Base of functors that treat each weight on its own.
template <class ParamsType>
struct ElementwiseFunctor {
  using Params = ParamsType;
  using Row = NoRowConstants;
  static constexpr bool kNeedsStatistic = false;
  FASTINC_HD float element_statistic(float, float) const { return 0.0f; }
  FASTINC_HD Row begin_row(float*, float) const { return {}; }
};

}  // namespace FASTINC_ISA_NAMESPACE
