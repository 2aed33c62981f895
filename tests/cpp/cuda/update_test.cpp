// Updates by the CUDA kernels, under the emulator: the CPU's bytes.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/device_array.h"
#include "fastinc/cuda_ops.h"
#include "fastinc/ops.h"
#include "support/reference_update.h"
#include "support/support.h"

namespace fastinc::test {
namespace {

using cuda::DeviceArray;

struct Batch {
  std::vector<std::int64_t> ids;
  std::vector<float> grads;
};

/// Ids of a long tail: the first rows come most often.
Batch make_batch(std::size_t n, std::size_t rows, std::size_t dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<double> uniform;
  Batch batch;
  for (std::size_t i = 0; i < n; ++i) {
    const double u = uniform(random);
    batch.ids.push_back(static_cast<std::int64_t>(static_cast<double>(rows) * u * u * u * u));
    const float scale = std::pow(10.0f, static_cast<float>(i % 7) - 3.0f);
    for (std::size_t j = 0; j < dim; ++j) batch.grads.push_back(scale * normal(random));
  }
  return batch;
}

void start(Rows& rows) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (float& w : rows.weights) w = normal(random);
}

template <class Id>
cuda::UpdateReport update_on_device(const OptimizerParams& params, Rows& rows, const std::vector<Id>& ids,
                                    const std::vector<float>& grads) {
  DeviceArray<float> weights(rows.weights), state0(rows.state0), state1(rows.state1),
      row_state(rows.row_state);
  const DeviceArray<Id> device_ids(ids);
  const DeviceArray<float> device_grads(grads);
  const DenseRows device{
      weights.data(), {state0.data(), state1.data()}, row_state.data(), rows.count, rows.dim};
  DeviceArray<std::byte> scratch(cuda::update_scratch_bytes(ids.size(), rows.count, rows.dim));
  DeviceArray<cuda::UpdateReport> report(1);
  cuda::update_rows(params, device, device_ids.data(), ids.size(), device_grads.data(), scratch.data(),
                    report.data(), nullptr);
  rows.weights = weights.host();
  rows.state0 = state0.host();
  rows.state1 = state1.host();
  rows.row_state = row_state.host();
  return report.host().front();
}

void check_same(const Rows& a, const Rows& b, const std::string& what) {
  check_same_bytes(a.weights, b.weights, what + "weights ");
  check_same_bytes(a.state0, b.state0, what + "state0 ");
  check_same_bytes(a.state1, b.state1, what + "state1 ");
  check_same_bytes(a.row_state, b.row_state, what + "row_state ");
}

void check_against_cpu(const OptimizerParams& params, std::size_t n, std::size_t count, std::size_t dim,
                       bool narrow_ids = false) {
  Rows expected(params, count, dim), rows(params, count, dim);
  start(expected);
  start(rows);
  for (unsigned step = 0; step < 2; ++step) {
    const Batch batch = make_batch(n, count, dim, step);
    update_rows(params, expected.view(), batch.ids, batch.grads.data(), NonFinite::kRaise);
    const std::vector<std::int32_t> narrow(batch.ids.begin(), batch.ids.end());
    const cuda::UpdateReport report = narrow_ids ? update_on_device(params, rows, narrow, batch.grads)
                                                 : update_on_device(params, rows, batch.ids, batch.grads);
    BOOST_TEST(report.skipped == 0u);
    BOOST_TEST(report.out_of_range == 0u);
  }
  check_same(rows, expected, describe(params) + std::to_string(n) + " of " + std::to_string(dim) + ": ");
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_update)

BOOST_AUTO_TEST_CASE(every_optimizer_gives_the_bytes_of_the_cpu) {
  for (const OptimizerParams& params : optimizer_settings()) {
    for (const std::size_t dim : {1, 31, 33, 64, 100, 256, 300}) check_against_cpu(params, 200, 40, dim);
  }
}

BOOST_AUTO_TEST_CASE(batches_of_every_size_class) {
  const OptimizerParams params = make_optimizer("rowwise_adagrad");
  for (const std::size_t n : {1, 2, 63, 64, 65, 129, 1024, 1025, 2047, 2048, 2049, 5000}) {
    check_against_cpu(params, n, 300, 5);
    check_against_cpu(params, n, 300, 5, true);
  }
}

BOOST_AUTO_TEST_CASE(one_row_alone_at_every_number_of_levels) {
  for (const std::size_t n : {2000, 4096, 4097, 4160, 9000, 262'144, 262'145, 270'000}) {
    check_against_cpu(make_optimizer("adagrad"), n, 1, 1);
  }
}

BOOST_AUTO_TEST_CASE(long_groups_among_short_ones) {
  const OptimizerParams params = make_optimizer("adagrad");
  const std::size_t n = 30'000;
  Rows expected(params, 1000, 3), rows(params, 1000, 3);
  Batch batch = make_batch(n, 1000, 3, 1);
  for (std::size_t i = 0; i < n; i += 2) batch.ids[i] = i % 3 == 0 ? 17 : 999;
  update_rows(params, expected.view(), batch.ids, batch.grads.data(), NonFinite::kRaise);
  update_on_device(params, rows, batch.ids, batch.grads);
  check_same(rows, expected, "");
}

BOOST_AUTO_TEST_CASE(wide_row_numbers) {
  // Keys of 64 bits, without rows of so large a number: those are out of range.
  const OptimizerParams params = make_optimizer("sgd");
  for (const std::size_t n : {100, 3000}) {
    Rows expected(params, 50, 2), rows(params, 50, 2);
    Batch batch = make_batch(n, 50, 2, 1);
    update_rows(params, expected.view(), batch.ids, batch.grads.data(), NonFinite::kRaise);
    rows.count = std::size_t{1} << 40;
    update_on_device(params, rows, batch.ids, batch.grads);
    check_same(rows, expected, "");
  }
}

BOOST_AUTO_TEST_CASE(bad_ids_and_gradients_are_left_out_and_told) {
  const OptimizerParams params = make_optimizer("adam");
  for (const std::size_t n : {300, 4000}) {
    Batch batch = make_batch(n, 60, 7, 5);
    Rows expected(params, 60, 7), rows(params, 60, 7);
    batch.grads[7 * 40 + 3] = std::numeric_limits<float>::quiet_NaN();
    batch.grads[7 * 90] = 1e30f;  // its square overflows
    const std::size_t skipped =
        update_rows(params, expected.view(), batch.ids, batch.grads.data(), NonFinite::kSkip);
    std::vector<std::int64_t> ids = batch.ids;
    std::vector<float> grads = batch.grads;
    for (const std::int64_t id :
         {std::int64_t{60}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) {
      ids.insert(ids.begin() + 11, id);
      grads.insert(grads.begin() + 11 * 7, 7, 1.0f);
    }
    const cuda::UpdateReport report = update_on_device(params, rows, ids, grads);
    BOOST_TEST(report.skipped == skipped);
    BOOST_TEST(std::numeric_limits<std::uint32_t>::max() - report.out_of_range == 11u);
    check_same(rows, expected, std::to_string(n) + ": ");
  }
}

BOOST_AUTO_TEST_CASE(an_empty_batch_changes_nothing) {
  const OptimizerParams params = make_optimizer("sgd");
  Rows rows(params, 3, 2);
  const cuda::UpdateReport report = update_on_device(params, rows, std::vector<std::int64_t>{}, {});
  BOOST_TEST(report.skipped == 0u);
  BOOST_TEST(cuda::update_scratch_bytes(0, 3, 2) == 0u);
}

BOOST_AUTO_TEST_CASE(checks_have_the_words_of_the_cpu) {
  const auto check = [](std::vector<std::int64_t> ids, std::vector<float> grads) {
    const DeviceArray<std::int64_t> device_ids(ids);
    const DeviceArray<float> device_grads(grads);
    DeviceArray<cuda::UpdateReport> report(1);
    cuda::check_batch(device_ids.data(), ids.size(), 5, device_grads.data(), 2, report.data(), nullptr);
  };
  check({0, 4}, {1, 2, 3, 4});
  check({}, {});
  check({1, 1}, {1e18f, 0, -1e18f, 0});  // large, and fine
  check_throws<std::out_of_range>([&] { check({0, 5}, {1, 2, 3, 4}); },
                                  {"ids[1] = 5 is out of range for weights with 5 rows"});
  check_throws<std::out_of_range>([&] { check({-1, 5}, {1, 2, 3, 4}); }, {"ids[0] = -1"});
  check_throws<std::invalid_argument>(
      [&] { check({0, 3}, {1, 2, 3, std::numeric_limits<float>::infinity()}); },
      {"grads[1, 1] = inf (id 3)"});
  check_throws<std::invalid_argument>([&] { check({3, 3}, {1e19f, 0, 1e19f, 0}); }, {"overflows"});
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
