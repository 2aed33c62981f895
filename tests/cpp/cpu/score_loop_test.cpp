// The kernels that read rows: the same bytes as a plain loop, on every instruction set.
#include <cmath>

#include "cpu/kernels.h"
#include "math/random.h"
#include "math/scalar.h"
#include "support/reference_update.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(score_loop)

namespace {

/// Rows in pages of 4, with something between them, as a table has them.
struct PagedRows {
  static constexpr std::size_t kCount = 10, kGap = 3;
  std::size_t dim;
  std::vector<float> storage;
  std::vector<float*> pages;
  RowSet set;

  PagedRows(Generator& random, std::size_t row_dim)
      : dim(row_dim), storage(uniform_floats(random, 12 * (row_dim + kGap))) {
    for (std::size_t page = 0; page < 3; ++page) pages.push_back(storage.data() + page * 4 * (dim + kGap));
    set.dim = dim;
    set.page_shift = 2;
    set.page_mask = 3;
    set.weights = {pages.data(), 0, dim + kGap};
  }
  std::vector<float> row(std::size_t r) const {
    const float* first = storage.data() + r * (dim + kGap);
    return {first, first + dim};
  }
};

std::vector<float> products(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> out;
  for (std::size_t i = 0; i < a.size(); ++i) out.push_back(a[i] * b[i]);
  return out;
}

constexpr std::size_t kDims[] = {1, 7, 16, 31, 32, 33, 64, 65, 129};

template <class Check>
void for_each_isa_and_dim(Check check) {
  for (const std::string& isa : available_isas()) {
    const UseIsa use(isa);
    for (const std::size_t dim : kDims) {
      Generator random(dim);
      check(isa + ", dim " + std::to_string(dim) + ": ", dim, random);
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(scores) {
  for_each_isa_and_dim([](const std::string& where, std::size_t dim, Generator& random) {
    const PagedRows rows(random, dim);
    const std::vector<float> query = uniform_floats(random, dim);
    std::vector<float> expected, all(PagedRows::kCount), some(3);
    for (std::size_t r = 0; r < PagedRows::kCount; ++r)
      expected.push_back(laned_sum(products(query, rows.row(r))));
    kernels().score_rows(rows.set, nullptr, all.size(), query.data(), all.data());
    check_same_bytes(all, expected, where);
    const std::uint32_t numbers[] = {9, 0, 4};
    kernels().score_rows(rows.set, numbers, some.size(), query.data(), some.data());
    check_same_bytes(some, {expected[9], expected[0], expected[4]}, where);
    BOOST_CHECK_EQUAL(kernels().dot(query.data(), rows.storage.data(), dim), expected[0]);
  });
}

BOOST_AUTO_TEST_CASE(distances_and_norms) {
  for_each_isa_and_dim([](const std::string& where, std::size_t dim, Generator& random) {
    const PagedRows rows(random, dim);
    const std::vector<float> query = uniform_floats(random, dim);
    const std::uint32_t numbers[] = {5, 2};
    std::vector<float> distances(2), norms(2), expected_distances, expected_norms;
    for (const std::uint32_t r : numbers) {
      std::vector<float> difference = rows.row(r);
      expected_norms.push_back(laned_sum(products(difference, difference)));
      for (std::size_t i = 0; i < dim; ++i) difference[i] = query[i] - difference[i];
      expected_distances.push_back(laned_sum(products(difference, difference)));
    }
    kernels().squared_distances(rows.set, numbers, 2, query.data(), distances.data());
    kernels().squared_norms(rows.set, numbers, 2, norms.data());
    check_same_bytes(distances, expected_distances, where);
    check_same_bytes(norms, expected_norms, where);
  });
}

BOOST_AUTO_TEST_CASE(weighted_sums) {
  for_each_isa_and_dim([](const std::string& where, std::size_t dim, Generator& random) {
    const PagedRows rows(random, dim);
    std::vector<float> sum = uniform_floats(random, dim), expected = sum;
    const std::uint32_t numbers[] = {7, 1, 7};
    const std::vector<float> coefficients = {0.3f, -1.7f, 2.1f};
    for (std::size_t j = 0; j < 3; ++j) {
      const std::vector<float> row = rows.row(numbers[j]);
      for (std::size_t i = 0; i < dim; ++i) expected[i] += coefficients[j] * row[i];
    }
    kernels().accumulate_rows(rows.set, numbers, 3, coefficients.data(), sum.data());
    check_same_bytes(sum, expected, where);
    const std::vector<float> x = uniform_floats(random, dim);
    for (std::size_t i = 0; i < dim; ++i) expected[i] += 0.7f * x[i];
    kernels().add_scaled(sum.data(), x.data(), 0.7f, dim);
    check_same_bytes(sum, expected, where);
  });
}

BOOST_AUTO_TEST_CASE(exponentials_and_their_sum) {
  for_each_isa_and_dim([](const std::string& where, std::size_t n, Generator& random) {
    std::vector<float> x = uniform_floats(random, n, -100.0f, 3.0f), expected = x;
    for (float& value : expected) value = base::exponential(value - 2.5f);
    const float sum = kernels().exponentiate(x.data(), n, 2.5f);
    check_same_bytes(x, expected, where);
    BOOST_CHECK_EQUAL(sum, laned_sum(expected));
  });
}

BOOST_AUTO_TEST_CASE(start_rows) {
  const Initializer inits[] = {{InitializerKind::kConstant, 0.25f, 0.0f, 0},
                               {InitializerKind::kUniform, -0.5f, 2.0f, 3},
                               {InitializerKind::kNormal, 0.1f, 0.3f, ~std::uint64_t{0}}};
  for_each_isa_and_dim([&](const std::string& where, std::size_t dim, Generator&) {
    for (const Initializer& init : inits) {
      for (const std::int64_t id :
           {std::int64_t{0}, std::int64_t{-7}, std::numeric_limits<std::int64_t>::min()}) {
        std::vector<float> row(dim), expected;
        kernels().start_row(init, id, row.data(), dim);
        const std::uint64_t key = base::row_key(init.seed, id);
        for (std::size_t i = 0; i < dim; ++i) expected.push_back(base::start_value(init, key, i));
        check_same_bytes(row, expected, where);
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(largest_magnitude) {
  for_each_isa_and_dim([](const std::string& where, std::size_t n, Generator& random) {
    std::vector<float> x = uniform_floats(random, n, -5.0f, 5.0f);
    float largest = 0.0f;
    for (const float value : x) largest = std::max(largest, std::abs(value));
    BOOST_CHECK_MESSAGE(kernels().max_abs_bits(x.data(), n) == base::float_bits(largest), where);
    x[n / 2] = -kInfinity;
    BOOST_CHECK_EQUAL(kernels().max_abs_bits(x.data(), n), 0x7f800000u);
    x[n - 1] = kNan;
    BOOST_CHECK_GT(kernels().max_abs_bits(x.data(), n), 0x7f800000u);
    BOOST_CHECK_EQUAL(kernels().max_abs_bits(x.data(), 0), 0u);
  });
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
