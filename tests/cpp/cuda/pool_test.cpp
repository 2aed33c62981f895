// Pooling of a caller's rows: by the CPU, and by the kernels under the emulator, in the same bytes.
#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "cuda/device_array.h"
#include "fastinc/cuda_ops.h"
#include "fastinc/ops.h"
#include "support/support.h"

namespace fastinc::test {
namespace {

using cuda::DeviceArray;

constexpr std::size_t kRows = 50;

struct Problem {
  std::size_t dim, n = 0;
  std::vector<float> weights, each;
  std::vector<std::int64_t> ids, offsets;

  /// Bags of 0 to most - 1 ids.
  Problem(std::size_t bags, std::size_t row_dim, std::size_t most) : dim(row_dim) {
    Generator random(bags * 1000 + row_dim);
    weights = uniform_floats(random, kRows * dim);
    for (std::size_t b = 0; b < bags; ++b) {
      offsets.push_back(static_cast<std::int64_t>(n));
      n += below(random, most);
    }
    for (std::size_t i = 0; i < n; ++i) ids.push_back(static_cast<std::int64_t>(below(random, kRows)));
    each = uniform_floats(random, n);
  }
};

void check_pool(const Problem& p, PoolMode mode, bool weighted) {
  const std::string what = std::to_string(p.offsets.size()) + " bags of " + std::to_string(p.dim) + ": ";
  const std::size_t bags = p.offsets.size();
  const float* const each = weighted ? p.each.data() : nullptr;
  std::vector<float> expected(bags * p.dim), spread(p.n * p.dim);
  pool_rows(p.weights.data(), kRows, p.dim, p.ids, p.offsets, mode, each, expected.data());
  pool_rows_backward(expected.data(), p.dim, p.n, p.offsets, mode, each, spread.data());

  const DeviceArray<float> weights(p.weights), device_each(p.each), grads(expected);
  const DeviceArray<std::int64_t> ids(p.ids), offsets(p.offsets);
  const DeviceArray<std::int32_t> narrow(std::vector<std::int32_t>(p.ids.begin(), p.ids.end()));
  const float* const on_device = weighted ? device_each.data() : nullptr;
  DeviceArray<float> out(bags * p.dim), out_narrow(bags * p.dim), rows(p.n * p.dim);
  DeviceArray<std::byte> report(sizeof(cuda::UpdateReport));
  cuda::check_pool(ids.data(), p.n, kRows, offsets.data(), bags, mode, on_device, report.data(), nullptr);
  cuda::pool_rows(weights.data(), kRows, p.dim, ids.data(), p.n, offsets.data(), bags, mode, on_device,
                  out.data(), nullptr);
  cuda::pool_rows(weights.data(), kRows, p.dim, narrow.data(), p.n, offsets.data(), bags, mode, on_device,
                  out_narrow.data(), nullptr);
  cuda::pool_rows_backward(grads.data(), p.dim, p.n, offsets.data(), bags, mode, on_device, rows.data(),
                           nullptr);
  check_same_bytes(out.host(), expected, what + "pool ");
  check_same_bytes(out_narrow.host(), expected, what + "pool of int32 ids ");
  check_same_bytes(rows.host(), spread, what + "backward ");
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_pool)

BOOST_AUTO_TEST_CASE(bags_have_the_bytes_of_the_cpu) {
  for (const std::size_t dim : {1, 5, 32, 33, 64, 100, 128, 300}) {
    for (const std::size_t bags : {1, 3, 40}) {
      const Problem problem(bags, dim, 30);
      check_pool(problem, PoolMode::kSum, false);
      check_pool(problem, PoolMode::kSum, true);
      check_pool(problem, PoolMode::kMean, false);
    }
  }
  check_pool(Problem(300, 3, 2), PoolMode::kMean, false);
  check_pool(Problem(0, 3, 1), PoolMode::kSum, false);
}

BOOST_AUTO_TEST_CASE(a_stream_that_is_being_captured_is_not_waited_for) {
  const Problem p(2, 4, 5);
  const DeviceArray<std::int64_t> ids(p.ids), offsets(p.offsets);
  DeviceArray<std::byte> report(sizeof(cuda::UpdateReport));
  emulator::set_capturing(true);
  check_throws<std::invalid_argument>(
      [&] {
        cuda::check_pool(ids.data(), p.n, kRows, offsets.data(), 2, PoolMode::kSum, nullptr, report.data(),
                         nullptr);
      },
      {"check = True", "CUDA graph", "check=False"});
  emulator::set_capturing(false);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
