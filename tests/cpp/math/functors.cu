// Compiled with nvcc, never run: every functor and function of src/math inside a kernel.
#include "math/lane_sum.h"
#include "math/optimizers.h"
#include "math/quantize.h"
#include "math/random.h"
#include "math/scalar.h"

namespace fastinc::test {

/// Rows are one after the other; one thread a row.
struct DeviceRows {
  float *weights, *state0, *state1, *row_state;
  std::size_t count, dim;
};

template <class Functor>
__global__ void update_rows(Functor functor, DeviceRows rows, const float* grads) {
  const std::size_t row = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (row >= rows.count) return;
  float* w = rows.weights + row * rows.dim;
  const float* g = grads + row * rows.dim;
  float mean = 0.0f;
  if constexpr (Functor::kNeedsStatistic) {
    mean = base::lane_sum(rows.dim, [=](std::size_t i) { return functor.element_statistic(g[i], w[i]); }) /
           static_cast<float>(rows.dim);
  }
  const typename Functor::Row constants = functor.begin_row(rows.row_state + row, mean);
  for (std::size_t i = 0; i < rows.dim; ++i) {
    functor.element(constants, g[i], w[i], rows.state0[row * rows.dim + i], rows.state1[row * rows.dim + i]);
  }
}

#define FASTINC_TEST_KERNEL(Name) template __global__ void update_rows(base::Name, DeviceRows, const float*);
FASTINC_FOR_EACH_OPTIMIZER(FASTINC_TEST_KERNEL)
#undef FASTINC_TEST_KERNEL

/// A functor is made on the host and passed by value.
template <class Functor>
void launch(const typename Functor::Params& params, DeviceRows rows, const float* grads) {
  update_rows<<<1, 32>>>(Functor(params), rows, grads);
}

#define FASTINC_TEST_LAUNCH(Name) \
  template void launch<base::Name>(const Name##Params&, DeviceRows, const float*);
FASTINC_FOR_EACH_OPTIMIZER(FASTINC_TEST_LAUNCH)
#undef FASTINC_TEST_LAUNCH

__global__ void functions(Initializer init, std::uint64_t id, const float* x, std::size_t n, float* out,
                          std::uint8_t* codes) {
  const std::uint64_t key = base::row_key(init.seed, static_cast<std::int64_t>(id));
  const base::RowQuantizer quantizer(x[0], x[1]);
  for (std::size_t i = 0; i < n; ++i) {
    codes[i] = quantizer.code(x[i]);
    out[i] = base::start_value(init, key, i) + base::exponential(x[i]) + base::natural_logarithm(x[i]) +
             base::dequantize(codes[i], quantizer.scale, quantizer.bias) + base::absolute(x[i]);
  }
  out[0] += base::dot(x, out, n);
}

}  // namespace fastinc::test
