// The fused 8-bit rowwise format of FBGEMM (CPU) and torch.ops.quantized.embedding_bag_byte_prepack:
//   range = max - min; scale = range / 255; inverse = 255 / (range + 1e-8)
//   code = rint((x - min) * inverse), half to even; x' = float(double(code) * scale + double(min))
#pragma once

#include "math/config.h"

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
    const float magic = 12582912.0f;  // 1.5 * 2^23: the sum is rounded to an integer, half to even
    const float rounded = (x - bias) * inverse + magic;
    return static_cast<std::uint8_t>(static_cast<std::int32_t>(rounded - magic));
  }
};

FASTINC_HD float dequantize(std::uint8_t code, float scale, float bias) {
  return static_cast<float>(double(code) * double(scale) + double(bias));
}

}  // namespace FASTINC_ISA_NAMESPACE
