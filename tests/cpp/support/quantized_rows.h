// Int8 rows for tests of searches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fastinc/ops.h"
#include "support/support.h"

namespace fastinc::test {

/// Rows in the fused 8-bit rowwise format, whose scale and bias can be set.
struct QuantizedRows {
  std::size_t n, dim;
  std::vector<std::uint8_t> q;

  std::uint8_t* at(std::size_t row) { return q.data() + row * (dim + kQuantizedTail); }
  float get(std::size_t row, std::size_t part) {
    float value;
    std::memcpy(&value, at(row) + dim + part * sizeof(float), sizeof value);
    return value;
  }
  void set(std::size_t row, float scale, float bias) {
    std::memcpy(at(row) + dim, &scale, sizeof scale);
    std::memcpy(at(row) + dim + sizeof scale, &bias, sizeof bias);
  }
};

inline QuantizedRows quantized(const std::vector<float>& x, std::size_t dim) {
  QuantizedRows rows{x.size() / dim, dim, std::vector<std::uint8_t>(x.size() / dim * (dim + kQuantizedTail))};
  quantize_rowwise(x.data(), rows.n, dim, rows.q.data());
  return rows;
}

inline QuantizedRows random_rows(Generator& random, std::size_t n, std::size_t dim) {
  return quantized(uniform_floats(random, n * dim, -1.0f, 1.5f), dim);
}

}  // namespace fastinc::test
