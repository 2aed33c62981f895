// The quantiser's kernels, under the emulator: the CPU's bytes.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/device_array.h"
#include "fastinc/cuda_ops.h"
#include "fastinc/ops.h"
#include "support/support.h"

namespace fastinc::test {
namespace {

using cuda::DeviceArray;

/// Rows of mixed magnitude; some constant, some with zeros of both signs as their minimum or maximum.
std::vector<float> make_rows(std::size_t n, std::size_t dim) {
  Generator random(n * 1000 + dim);
  std::vector<float> x = uniform_floats(random, n * dim);
  for (std::size_t r = 0; r < n; ++r) {
    float* const row = x.data() + r * dim;
    const float scale = std::pow(10.0f, static_cast<float>(r % 9) - 4.0f);
    for (std::size_t i = 0; i < dim; ++i) {
      row[i] *= scale;
      if (r % 5 == 1) row[i] = below(random, 2) == 0 ? 0.0f : -0.0f;
      if (r % 5 == 2)
        row[i] = below(random, 3) == 0 ? -0.0f : std::abs(row[i]) * static_cast<float>(below(random, 2));
      if (r % 5 == 3) row[i] = -std::abs(row[i]) * static_cast<float>(below(random, 2));
      if (r % 17 == 4) row[i] = 3.25f;
    }
  }
  return x;
}

/// misaligned: by so many floats, and bytes.
void check_rows(std::size_t n, std::size_t dim, std::size_t misaligned = 0) {
  const std::vector<float> x = make_rows(n, dim);
  std::vector<std::uint8_t> expected(n * (dim + kQuantizedTail));
  quantize_rowwise(x.data(), n, dim, expected.data());
  std::vector<float> padded(misaligned);
  padded.insert(padded.end(), x.begin(), x.end());
  const DeviceArray<float> device_x(padded);
  DeviceArray<std::uint8_t> q(expected.size() + misaligned);
  DeviceArray<std::uint64_t> nonfinite(1);
  cuda::quantize_rowwise(device_x.data() + misaligned, n, dim, q.data() + misaligned, nonfinite.data(),
                         nullptr);
  BOOST_TEST(nonfinite.host().front() == ~std::uint64_t{0});
  std::vector<std::uint8_t> got = q.host();
  got.erase(got.begin(), got.begin() + static_cast<std::ptrdiff_t>(misaligned));
  const std::string what = std::to_string(n) + " rows of " + std::to_string(dim) + ": ";
  check_same_bytes(got, expected, what + "codes ");
  std::vector<float> back(n * dim);
  dequantize_rowwise(expected.data(), n, dim, back.data());
  DeviceArray<float> device_back(n * dim + misaligned);
  cuda::dequantize_rowwise(q.data() + misaligned, n, dim, device_back.data() + misaligned, nullptr);
  std::vector<float> got_back = device_back.host();
  got_back.erase(got_back.begin(), got_back.begin() + static_cast<std::ptrdiff_t>(misaligned));
  check_same_bytes(got_back, back, what + "floats ");
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_quantize)

BOOST_AUTO_TEST_CASE(rows_of_every_kind_have_the_bytes_of_the_cpu) {
  for (const std::size_t dim : {1,  2,  3,   4,   7,   8,   12,  28,  31,  32,  33,  36, 60,
                                64, 68, 100, 128, 132, 130, 256, 260, 384, 512, 516, 700}) {
    check_rows(45, dim);
  }
  for (const std::size_t n : {1, 2, 3, 4, 5, 63, 64, 65, 300}) check_rows(n, 16);
}

BOOST_AUTO_TEST_CASE(arrays_that_are_not_aligned) {
  for (const std::size_t dim : {8, 64, 128}) {
    for (const std::size_t misaligned : {1, 2, 4}) check_rows(20, dim, misaligned);
  }
}

BOOST_AUTO_TEST_CASE(the_first_value_that_is_not_finite_is_told) {
  for (const std::size_t dim : {7, 32, 64, 128, 300, 512, 600}) {
    for (const float bad : {kInfinity, -kInfinity, kNan}) {
      std::vector<float> x = make_rows(40, dim);
      x[30 * dim + dim - 1] = bad;
      x[12 * dim + dim / 2] = bad;
      const DeviceArray<float> device_x(x);
      DeviceArray<std::uint8_t> q(40 * (dim + kQuantizedTail));
      DeviceArray<std::uint64_t> nonfinite(1);
      cuda::quantize_rowwise(device_x.data(), 40, dim, q.data(), nonfinite.data(), nullptr);
      BOOST_TEST(nonfinite.host().front() == 12 * dim + dim / 2);
    }
  }
}

BOOST_AUTO_TEST_CASE(no_rows_are_fine_and_no_columns_are_not) {
  DeviceArray<std::uint64_t> nonfinite(1);
  cuda::quantize_rowwise(nullptr, 0, 4, nullptr, nonfinite.data(), nullptr);
  BOOST_TEST(nonfinite.host().front() == ~std::uint64_t{0});
  cuda::dequantize_rowwise(nullptr, 0, 4, nullptr, nullptr);
  check_throws<std::invalid_argument>(
      [&] { cuda::quantize_rowwise(nullptr, 1, 0, nullptr, nonfinite.data(), nullptr); }, {"x: dim"});
  check_throws<std::invalid_argument>([&] { cuda::dequantize_rowwise(nullptr, 1, 0, nullptr, nullptr); },
                                      {"q: rows"});
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
