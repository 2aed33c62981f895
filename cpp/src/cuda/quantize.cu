// The fused 8-bit rowwise format: a warp a row.
#include "cuda/launch.h"
#include "fastinc/cuda_ops.h"
#include "math/lane_sum.h"
#include "math/quantize.h"

namespace fastinc::cuda {
namespace {

__global__ void quantize_rows(const float* __restrict__ x, std::size_t n, std::size_t dim,
                              std::uint8_t* __restrict__ q, unsigned long long* nonfinite) {
  for (std::size_t row = first_warp(); row < n; row += warp_count()) {
    const float* const in = x + row * dim;
    float least = in[0], most = in[0];
    std::size_t bad = 0;
    for (std::size_t i = lane(); i < dim; i += kWarp) {
      const float value = in[i];
      base::Minimum()(least, value);
      base::Maximum()(most, value);
      if ((base::float_bits(value) & 0x7f800000u) == 0x7f800000u && bad == 0) bad = row * dim + i + 1;
    }
    if (bad != 0) atomicMin(nonfinite, static_cast<unsigned long long>(bad));
    least = halve_lanes(least, base::Minimum());
    most = halve_lanes(most, base::Maximum());
    const base::RowQuantizer quantizer(least, most);
    std::uint8_t* const out = q + row * (dim + kQuantizedTail);
    for (std::size_t i = lane(); i < dim; i += kWarp) out[i] = quantizer.code(in[i]);
    // The tail is at any address: byte by byte.
    const std::uint32_t scale = base::float_bits(quantizer.scale), bias = base::float_bits(quantizer.bias);
    if (lane() < kQuantizedTail) {
      const unsigned byte = lane() % 4;
      out[dim + lane()] = static_cast<std::uint8_t>((lane() < 4 ? scale : bias) >> (8 * byte));
    }
  }
}

__global__ void dequantize_rows(const std::uint8_t* __restrict__ q, std::size_t n, std::size_t dim,
                                float* __restrict__ x) {
  for (std::size_t row = first_warp(); row < n; row += warp_count()) {
    const std::uint8_t* const in = q + row * (dim + kQuantizedTail);
    std::uint32_t scale = 0, bias = 0;
    for (unsigned byte = 0; byte < 4; ++byte) {
      scale |= std::uint32_t{in[dim + byte]} << (8 * byte);
      bias |= std::uint32_t{in[dim + 4 + byte]} << (8 * byte);
    }
    for (std::size_t i = lane(); i < dim; i += kWarp) {
      x[row * dim + i] = base::dequantize(in[i], base::bits_float(scale), base::bits_float(bias));
    }
  }
}

}  // namespace

void quantize_rowwise(const float* x, std::size_t n, std::size_t dim, std::uint8_t* q,
                      std::uint64_t* nonfinite, Stream stream) {
  if (n == 0) return;
  quantize_rows<<<blocks_for(n, kWarpsPerBlock), kBlock, 0, stream>>>(
      x, n, dim, q, reinterpret_cast<unsigned long long*>(nonfinite));
  check(cudaGetLastError(), "quantize_rows");
}

void dequantize_rowwise(const std::uint8_t* q, std::size_t n, std::size_t dim, float* x, Stream stream) {
  if (n == 0) return;
  dequantize_rows<<<blocks_for(n, kWarpsPerBlock), kBlock, 0, stream>>>(q, n, dim, x);
  check(cudaGetLastError(), "dequantize_rows");
}

}  // namespace fastinc::cuda
