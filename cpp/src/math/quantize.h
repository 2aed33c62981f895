// The fused 8-bit rowwise format of FBGEMM (CPU) and torch.ops.quantized.embedding_bag_byte_prepack:
//   range = max - min; scale = range / 255; inverse = 255 / (range + 1e-8)
//   code = rint((x - min) * inverse), half to even; x' = code * scale + min, rounded once
#pragma once

#include "math/config.h"
#include "math/scalar.h"

namespace FASTINC_ISA_NAMESPACE {

struct RowQuantizer {
  float scale, bias, inverse;
  FASTINC_HD RowQuantizer(float minimum, float maximum) {
    const float range = maximum - minimum;
    scale = range / 255.0f;
    bias = minimum;
    inverse = 255.0f / (range + 1e-8f);
  }
  FASTINC_HD std::uint8_t code(float x) const {
    // 1.5 * 2^23: the sum's last bits are the integer, rounded half to even. No code of a finite row is below
    // 0 or rounds to more than 255; a row that overflowed has some code, and no conversion is undefined.
    const float magic = 12582912.0f;
    const float sum = (x - bias) * inverse + magic;
#if defined(__CUDA_ARCH__)
    if (sum != sum) return 0;  // the low byte of x86's NaN; a GPU's has other bits
#endif
    return static_cast<std::uint8_t>(float_bits(sum));
  }
};

FASTINC_HD float dequantize(std::uint8_t code, float scale, float bias) {
  return fused_multiply_add(float(code), scale, bias);
}

}  // namespace FASTINC_ISA_NAMESPACE
