// update_rows, and the steps the recommender takes, against a plain implementation, byte for byte.
#include "cpu/update.h"

#include "cpu/kernels.h"
#include "fastinc/ops.h"
#include "math/lane_sum.h"
#include "support/reference_update.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(update)

namespace {

struct Batch {
  std::vector<std::int64_t> ids;
  std::vector<float> grads;
};

/// Half of the ids come from a few rows.
Batch skewed_batch(Generator& random, std::size_t n, std::size_t num_rows, std::size_t dim) {
  Batch batch;
  for (std::size_t i = 0; i < n; ++i) {
    batch.ids.push_back(static_cast<std::int64_t>(below(random, i % 2 == 0 ? num_rows : 1 + num_rows / 50)));
  }
  batch.grads = uniform_floats(random, n * dim);
  return batch;
}

void check_same_rows(const Rows& got, const Rows& expected, const std::string& where) {
  check_same_bytes(got.weights, expected.weights, where + "weights");
  check_same_bytes(got.state0, expected.state0, where + "state 0");
  check_same_bytes(got.state1, expected.state1, where + "state 1");
  check_same_bytes(got.row_state, expected.row_state, where + "row state");
}

Rows random_rows(const OptimizerParams& params, std::size_t count, std::size_t dim) {
  Generator random(77);
  Rows rows(params, count, dim);
  rows.weights = uniform_floats(random, count * dim);
  return rows;
}

}  // namespace

BOOST_AUTO_TEST_CASE(same_bytes_as_the_reference_everywhere) {
  constexpr std::size_t kRows = 700, kDim = 37, kBatch = 2500;  // dim isn't a multiple of anything
  for (const OptimizerParams& params : optimizer_settings()) {
    Generator random(1);
    const Rows start = random_rows(params, kRows, kDim);
    Rows expected = start;
    std::vector<Batch> batches;
    for (int k = 0; k < 2; ++k) {
      batches.push_back(skewed_batch(random, kBatch, kRows, kDim));
      reference_update(params, expected, std::span<const std::int64_t>(batches.back().ids),
                       batches.back().grads.data());
    }
    for_each_isa_and_threads([&](const std::string& where) {
      Rows rows = start;
      for (const Batch& batch : batches) {
        BOOST_CHECK_EQUAL(update_rows(params, rows.view(), batch.ids, batch.grads.data(), NonFinite::kRaise),
                          0u);
      }
      check_same_rows(rows, expected, where + ", " + describe(params));
    });
  }
}

BOOST_AUTO_TEST_CASE(every_dimension) {
  Generator random(2);
  for (const OptimizerParams& params : optimizer_settings()) {
    for (const std::size_t dim :
         {std::size_t{1}, std::size_t{2}, std::size_t{15}, std::size_t{16}, std::size_t{31}, std::size_t{32},
          std::size_t{33}, std::size_t{64}, std::size_t{130}}) {
      const Batch batch = skewed_batch(random, 60, 20, dim);
      Rows expected = random_rows(params, 20, dim);
      const Rows start = expected;
      reference_update(params, expected, std::span<const std::int64_t>(batch.ids), batch.grads.data());
      for (const std::string& isa : available_isas()) {
        const UseIsa use(isa);
        Rows rows = start;
        update_rows(params, rows.view(), batch.ids, batch.grads.data(), NonFinite::kRaise);
        check_same_rows(rows, expected, isa + ", dim " + std::to_string(dim) + ", " + describe(params));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(int32_ids_do_the_same) {
  Generator random(3);
  const OptimizerParams params = AdagradParams{};
  const Batch batch = skewed_batch(random, 5000, 300, 8);
  const std::vector<std::int32_t> narrow(batch.ids.begin(), batch.ids.end());
  Rows wide = random_rows(params, 300, 8), rows = wide;
  update_rows(params, wide.view(), batch.ids, batch.grads.data(), NonFinite::kRaise);
  update_rows(params, rows.view(), narrow, batch.grads.data(), NonFinite::kRaise);
  check_same_rows(rows, wide, "int32: ");
}

BOOST_AUTO_TEST_CASE(gradients_of_a_row_are_summed_in_groups_of_64) {
  Generator random(4);
  const OptimizerParams params = SgdParams{.lr = 1.0};
  for (const std::size_t n :
       {1u, 2u, 63u, 64u, 65u, 127u, 128u, 129u, 4095u, 4096u, 4097u, 4160u, 8193u, 262145u}) {
    const std::vector<float> grads = uniform_floats(random, n, -1000.0f, 1000.0f);
    std::vector<std::vector<float>> terms;
    for (const float g : grads) terms.push_back({g});
    const float expected = 0.0f - grouped_sum(std::move(terms))[0];
    const std::vector<std::int64_t> ids(n, 0);
    for_each_isa_and_threads([&](const std::string& where) {
      Rows rows(params, 1, 1);
      update_rows(params, rows.view(), ids, grads.data(), NonFinite::kRaise);
      BOOST_CHECK_MESSAGE(rows.weights[0] == expected,
                          where << ", " << n << " gradients: " << rows.weights[0] << ", not " << expected);
    });
  }
}

BOOST_AUTO_TEST_CASE(an_empty_batch_changes_nothing) {
  const OptimizerParams params = AdamParams{};
  Rows rows = random_rows(params, 3, 4);
  const Rows before = rows;
  BOOST_CHECK_EQUAL(
      update_rows(params, rows.view(), std::span<const std::int64_t>(), nullptr, NonFinite::kRaise), 0u);
  check_same_rows(rows, before, "empty: ");
}

BOOST_AUTO_TEST_CASE(ids_out_of_range_are_refused_and_change_nothing) {
  const OptimizerParams params = SgdParams{};
  Rows rows = random_rows(params, 10, 2);
  const Rows before = rows;
  const std::vector<float> grads(6, 1.0f);
  for (const std::int64_t bad : {std::int64_t{-1}, std::int64_t{10}, std::numeric_limits<std::int64_t>::max(),
                                 std::numeric_limits<std::int64_t>::min()}) {
    const std::vector<std::int64_t> ids = {3, 4, bad};
    check_throws<std::out_of_range>(
        [&] { update_rows(params, rows.view(), ids, grads.data(), NonFinite::kSkip); },
        {"ids[2] = " + std::to_string(bad), "10 rows"});
  }
  const std::vector<std::int32_t> narrow = {0, -5, 1};
  check_throws<std::out_of_range>(
      [&] { update_rows(params, rows.view(), narrow, grads.data(), NonFinite::kSkip); }, {"ids[1] = -5"});
  check_same_rows(rows, before, "refused: ");
}

BOOST_AUTO_TEST_CASE(zero_dim_is_refused) {
  const OptimizerParams params = SgdParams{};
  const std::vector<std::int64_t> ids = {0};
  check_throws<std::invalid_argument>(
      [&] { update_rows(params, DenseRows{}, ids, nullptr, NonFinite::kRaise); }, {"dim", "0"});
}

namespace {

/// Four gradients of rows 5, 2, 5, 9, dim 3, all 1 but for one value.
struct BadBatch {
  std::vector<std::int64_t> ids = {5, 2, 5, 9};
  std::vector<float> grads = std::vector<float>(12, 1.0f);
};

}  // namespace

BOOST_AUTO_TEST_CASE(a_gradient_that_isnt_finite_is_refused_by_default) {
  const OptimizerParams params = RowWiseAdagradParams{};
  for (const float value : {kNan, kInfinity, -kInfinity}) {
    BadBatch bad;
    bad.grads[7] = value;  // of the second gradient of row 5
    Rows rows = random_rows(params, 10, 3);
    const Rows before = rows;
    check_throws<std::invalid_argument>(
        [&] { update_rows(params, rows.view(), bad.ids, bad.grads.data(), NonFinite::kRaise); },
        {"grads[2, 1] = ", std::to_string(value), "(id 5)", "nonfinite='skip'"});
    check_same_rows(rows, before, "refused: ");
  }
}

BOOST_AUTO_TEST_CASE(skipping_drops_every_gradient_of_the_row) {
  for (const OptimizerParams& params : optimizer_settings()) {
    for (const float value : {kNan, kInfinity, -kInfinity, 1e30f}) {
      BadBatch bad;
      bad.grads[7] = value;
      const Rows start = random_rows(params, 10, 3);
      Rows expected = start;
      const std::vector<std::int64_t> good_ids = {2, 9};
      reference_update(params, expected, std::span<const std::int64_t>(good_ids),
                       std::vector<float>(6, 1.0f).data());
      for_each_isa_and_threads([&](const std::string& where) {
        Rows rows = start;
        BOOST_CHECK_EQUAL(update_rows(params, rows.view(), bad.ids, bad.grads.data(), NonFinite::kSkip), 1u);
        check_same_rows(rows, expected, where + ", " + describe(params));
      });
    }
  }
}

BOOST_AUTO_TEST_CASE(sums_that_overflow_are_not_finite_and_sums_that_cancel_are) {
  const OptimizerParams params = SgdParams{.lr = 1.0};
  BadBatch overflowing;
  overflowing.grads[0] = overflowing.grads[6] = kLargest;
  Rows rows(params, 10, 3);
  check_throws<std::invalid_argument>(
      [&] { update_rows(params, rows.view(), overflowing.ids, overflowing.grads.data(), NonFinite::kRaise); },
      {"id 5", "grads[0]", "overflows"});
  BOOST_CHECK_EQUAL(
      update_rows(params, rows.view(), overflowing.ids, overflowing.grads.data(), NonFinite::kSkip), 1u);

  BadBatch cancelling;
  cancelling.grads[0] = kLargest;
  cancelling.grads[6] = -kLargest;
  Rows cancelled(params, 10, 3);
  BOOST_CHECK_EQUAL(
      update_rows(params, cancelled.view(), cancelling.ids, cancelling.grads.data(), NonFinite::kRaise), 0u);
  const std::vector<float> row(cancelled.weights.begin() + 15, cancelled.weights.begin() + 18);
  check_same_bytes(row, {0.0f, -2.0f, -2.0f}, "row 5 ");
}

BOOST_AUTO_TEST_CASE(many_bad_rows_are_counted_once_each) {
  constexpr std::size_t kDim = 5, kBatch = 4000;
  const OptimizerParams params = AdamParams{};
  Generator random(8);
  Batch batch = skewed_batch(random, kBatch, 200, kDim);
  for (std::size_t i = 0; i < kBatch; ++i) {
    if (batch.ids[i] % 7 == 3 && i % 2 == 0) batch.grads[i * kDim + i % kDim] = kNan;
  }
  std::vector<char> bad(200, 0);
  for (std::size_t i = 0; i < kBatch; i += 2)
    bad[static_cast<std::size_t>(batch.ids[i])] |= batch.ids[i] % 7 == 3;
  Batch good;
  for (std::size_t i = 0; i < kBatch; ++i) {
    if (bad[static_cast<std::size_t>(batch.ids[i])]) continue;
    good.ids.push_back(batch.ids[i]);
    const float* g = batch.grads.data() + i * kDim;
    good.grads.insert(good.grads.end(), g, g + kDim);
  }
  Rows rows = random_rows(params, 200, kDim), expected = rows;
  reference_update(params, expected, std::span<const std::int64_t>(good.ids), good.grads.data());
  const auto count = static_cast<std::size_t>(std::count(bad.begin(), bad.end(), 1));
  BOOST_CHECK_GT(count, 20u);
  BOOST_CHECK_EQUAL(update_rows(params, rows.view(), batch.ids, batch.grads.data(), NonFinite::kSkip), count);
  check_same_rows(rows, expected, "skipped: ");
}

/// Anchors of most of the rows below a count.
struct Anchored {
  static constexpr float kStrength = 0.375f;
  std::vector<std::uint32_t> places;
  std::vector<float> values;
  Anchored(Generator& random, std::size_t rows, std::size_t dim)
      : values(uniform_floats(random, rows * dim)) {
    for (std::uint32_t row = 0; row < rows; ++row) {
      places.push_back(row % 3 == 1 ? Anchoring::kNone : static_cast<std::uint32_t>(rows) - 1 - row);
    }
  }
  Anchoring view() const { return {places.data(), places.size(), values.data(), kStrength}; }
  /// grads: (rows, dim), shortened; with what pulls the rows to their anchors
  std::vector<float> add_to(std::vector<float> grads, std::span<const std::int64_t> rows,
                            const std::vector<float>& weights, std::size_t dim) const {
    for (std::size_t j = 0; j < rows.size(); ++j) {
      const auto row = static_cast<std::size_t>(rows[j]);
      if (row >= places.size() || places[row] == Anchoring::kNone) continue;
      for (std::size_t i = 0; i < dim; ++i) {
        grads[j * dim + i] += kStrength * (weights[row * dim + i] - values[places[row] * dim + i]);
      }
    }
    return grads;
  }
};

// The terms of a row are gradients of one id: its update, whose order of summing fewer than 64 is theirs.
BOOST_AUTO_TEST_CASE(a_sum_step_is_an_update_with_the_products) {
  constexpr std::size_t kRows = 40, kDirections = 7, kStepped = 20;
  for (const std::size_t dim : {1u, 13u, 32u, 33u, 64u, 65u, 100u, 128u, 129u}) {
    const std::size_t stride = dim + 5;
    Generator random(dim);
    const std::vector<float> directions = uniform_floats(random, kDirections * stride),
                             coefficients = uniform_floats(random, 50);
    std::vector<std::uint32_t> row_numbers, starts = {0};
    std::vector<GradientTerm> terms;
    std::vector<std::int64_t> ids;
    std::vector<float> grads;
    for (std::uint32_t j = 0; j < kStepped; ++j) {
      row_numbers.push_back(j * 7 % static_cast<std::uint32_t>(kRows));
      for (std::uint32_t t = 0; t <= j % 5; ++t) {
        const GradientTerm term = {static_cast<std::uint32_t>(below(random, 50)),
                                   static_cast<std::uint32_t>(below(random, kDirections))};
        terms.push_back(term);
        ids.push_back(row_numbers.back());
        const float* const direction = directions.data() + term.direction * stride;
        for (std::size_t i = 0; i < dim; ++i) grads.push_back(coefficients[term.coefficient] * direction[i]);
      }
      starts.push_back(static_cast<std::uint32_t>(terms.size()));
    }
    constexpr float kMostNorm = 0.7f;
    std::size_t shortened = 0;
    std::vector<std::int64_t> stepped(row_numbers.begin(), row_numbers.end());
    std::vector<float> short_grads(kStepped * dim, 0.0f);
    for (std::size_t j = 0; j < kStepped; ++j) {
      float* const g = short_grads.data() + j * dim;
      for (std::size_t t = starts[j]; t < starts[j + 1]; ++t) {
        for (std::size_t i = 0; i < dim; ++i) g[i] += grads[t * dim + i];
      }
      const float norm = std::sqrt(base::lane_sum(dim, [g](std::size_t i) { return g[i] * g[i]; }));
      if (norm <= kMostNorm) continue;
      ++shortened;
      for (std::size_t i = 0; i < dim; ++i) g[i] *= kMostNorm / norm;
    }
    BOOST_CHECK(shortened > 0 || dim == 1);
    const Anchored anchored(random, kRows - 10, dim);
    for (const OptimizerParams& params : optimizer_settings()) {
      const Rows start = random_rows(params, kRows, dim);
      Rows expected = start, clipped = start, pulled = start;
      reference_update(params, pulled, std::span<const std::int64_t>(stepped),
                       anchored.add_to(short_grads, stepped, start.weights, dim).data());
      reference_update(params, clipped, std::span<const std::int64_t>(stepped), short_grads.data());
      reference_update(params, expected, std::span<const std::int64_t>(ids), grads.data());
      for (const std::string& isa : available_isas()) {
        const UseIsa use(isa);
        Rows rows = start;
        float* pages[] = {rows.weights.data(), rows.state0.data(), rows.state1.data(), rows.row_state.data()};
        RowSet set;
        set.dim = dim;
        set.weights = {&pages[0], 0, dim};
        set.element_state[0] = {&pages[1], 0, dim};
        set.element_state[1] = {&pages[2], 0, dim};
        set.row_state = {&pages[3], 0, 1};
        std::vector<float> scratch(dim);
        const void* raw = std::visit([](const auto& p) { return static_cast<const void*>(&p); }, params);
        const auto step = [&](float max_norm, const Anchoring& anchors) {
          std::copy(start.weights.begin(), start.weights.end(), pages[0]);
          std::copy(start.state0.begin(), start.state0.end(), pages[1]);
          std::copy(start.state1.begin(), start.state1.end(), pages[2]);
          std::copy(start.row_state.begin(), start.row_state.end(), pages[3]);
          kernels().sum_step[params.index()](
              {raw, &set, row_numbers.data(), starts.data(), kStepped, terms.data(), coefficients.data(),
               directions.data(), stride, max_norm, 1, anchors},
              scratch.data());
        };
        step(std::numeric_limits<float>::infinity(), {});
        check_same_rows(rows, expected, isa + ", " + describe(params));
        step(kMostNorm, {});
        check_same_rows(rows, clipped, isa + ", clipped, " + describe(params));
        step(kMostNorm, anchored.view());
        check_same_rows(rows, pulled, isa + ", pulled, " + describe(params));
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
