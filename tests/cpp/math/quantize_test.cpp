#include "math/quantize.h"

#include <cmath>

#include "fastinc/ops.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(quantize)

namespace {

/// The format as FBGEMM describes it, with libm's rounding. x: (dim,) -> (dim + 8,)
std::vector<std::uint8_t> reference_row(const std::vector<float>& x) {
  const float low = *std::min_element(x.begin(), x.end()), high = *std::max_element(x.begin(), x.end());
  const float range = high - low, scale = range / 255.0f, inverse = 255.0f / (range + 1e-8f);
  std::vector<std::uint8_t> row;
  for (const float value : x) {
    const float scaled = (value - low) * inverse;
    row.push_back(static_cast<std::uint8_t>(std::lrint(scaled)));
  }
  for (const float tail : {scale, low}) {
    std::uint8_t bytes[sizeof tail];
    std::memcpy(bytes, &tail, sizeof tail);
    row.insert(row.end(), bytes, bytes + sizeof tail);
  }
  return row;
}

std::vector<std::uint8_t> quantized(const std::vector<float>& x, std::size_t n, std::size_t dim) {
  std::vector<std::uint8_t> q(n * (dim + kQuantizedTail));
  quantize_rowwise(x.data(), n, dim, q.data());
  return q;
}

}  // namespace

BOOST_AUTO_TEST_CASE(codes_round_half_to_even) {
  const base::RowQuantizer quantizer(0.0f, 255.0f);
  BOOST_CHECK_EQUAL(quantizer.scale, 1.0f);
  BOOST_CHECK_EQUAL(quantizer.bias, 0.0f);
  BOOST_CHECK_EQUAL(quantizer.code(0.5f), 0);
  BOOST_CHECK_EQUAL(quantizer.code(1.5f), 2);
  BOOST_CHECK_EQUAL(quantizer.code(2.5f), 2);
  BOOST_CHECK_EQUAL(quantizer.code(254.5f), 254);
  BOOST_CHECK_EQUAL(quantizer.code(255.0f), 255);
}

BOOST_AUTO_TEST_CASE(rows_of_every_length_match_the_format) {
  for_each_isa_and_threads([](const std::string& where) {
    Generator random(1);
    for (std::size_t dim = 1; dim <= 130; ++dim) {
      const std::vector<float> x = uniform_floats(random, dim, -3.0f, 5.0f);
      check_same_bytes(quantized(x, 1, dim), reference_row(x), where + ", dim " + std::to_string(dim) + ": ");
    }
  });
}

BOOST_AUTO_TEST_CASE(ranges_of_every_size_match_the_format) {
  Generator random(2);
  for (int exponent = -45; exponent <= 37; ++exponent) {
    const float size = std::pow(10.0f, static_cast<float>(exponent));
    const std::vector<float> x = uniform_floats(random, 40, -size, size);
    const std::vector<std::uint8_t> expected = reference_row(x);
    for (const std::string& isa : available_isas()) {
      const UseIsa use(isa);
      check_same_bytes(quantized(x, 1, x.size()), expected, isa + ", 1e" + std::to_string(exponent) + ": ");
    }
  }
}

BOOST_AUTO_TEST_CASE(a_range_beyond_float32_gives_the_same_bytes_everywhere) {
  std::vector<float> x(40, 1.0f);
  x[3] = -kLargest;
  x[39] = kLargest;
  std::vector<std::uint8_t> expected;
  for (const std::string& isa : available_isas()) {
    const UseIsa use(isa);
    if (expected.empty()) expected = quantized(x, 1, x.size());
    check_same_bytes(quantized(x, 1, x.size()), expected, isa + ": ");
  }
}

BOOST_AUTO_TEST_CASE(same_bytes_for_any_threads_and_instruction_set) {
  constexpr std::size_t kRows = 3001, kDim = 37;
  Generator random(3);
  const std::vector<float> x = uniform_floats(random, kRows * kDim);
  std::vector<std::uint8_t> expected;
  for (std::size_t r = 0; r < kRows; ++r) {
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(r * kDim);
    const std::vector<std::uint8_t> row = reference_row({first, first + static_cast<std::ptrdiff_t>(kDim)});
    expected.insert(expected.end(), row.begin(), row.end());
  }
  std::vector<float> first_back;
  for_each_isa_and_threads([&](const std::string& where) {
    const std::vector<std::uint8_t> q = quantized(x, kRows, kDim);
    check_same_bytes(q, expected, where + ": ");
    std::vector<float> back(x.size());
    dequantize_rowwise(q.data(), kRows, kDim, back.data());
    if (first_back.empty()) first_back = back;
    check_same_bytes(back, first_back, where + ": ");
  });
  bool close = true;
  for (std::size_t i = 0; i < x.size(); ++i)
    close = close && std::abs(first_back[i] - x[i]) <= 1.01f / 255.0f;
  BOOST_CHECK(close);
}

BOOST_AUTO_TEST_CASE(constant_rows_come_back_exactly) {
  for (const float value : {0.0f, 1.0f, -3.25f, 1e-30f, 3e38f}) {
    const std::vector<float> x(5, value);
    const std::vector<std::uint8_t> q = quantized(x, 1, 5);
    BOOST_CHECK(std::all_of(q.begin(), q.begin() + 5, [](std::uint8_t code) { return code == 0; }));
    std::vector<float> back(5);
    dequantize_rowwise(q.data(), 1, 5, back.data());
    check_same_bytes(back, x, "back: ");
  }
}

BOOST_AUTO_TEST_CASE(refusals) {
  std::vector<float> x(12, 1.0f);
  std::vector<std::uint8_t> q(64, 77);
  x[7] = kNan;
  check_throws<std::invalid_argument>([&] { quantize_rowwise(x.data(), 3, 4, q.data()); },
                                      {"x[1, 3] = ", "nan"});
  x[7] = -kInfinity;
  check_throws<std::invalid_argument>([&] { quantize_rowwise(x.data(), 3, 4, q.data()); },
                                      {"x[1, 3] = -inf"});
  check_throws<std::invalid_argument>([&] { quantize_rowwise(x.data(), 3, 0, q.data()); }, {"dim", "0"});
  check_throws<std::invalid_argument>([&] { dequantize_rowwise(q.data(), 3, 0, x.data()); }, {"q"});
  quantize_rowwise(nullptr, 0, 4, nullptr);  // no rows: nothing to do
  dequantize_rowwise(nullptr, 0, 4, nullptr);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
