// Concurrent calls of the public kernels: they share nothing but the thread pool.
#include "fastinc/ops.h"

#include <atomic>
#include <thread>

#include "support/reference_update.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(ops)

BOOST_AUTO_TEST_CASE(calls_from_many_threads_at_once) {
  constexpr std::size_t kRows = 500, kDim = 32, kBatch = 3000;
  const UseThreads use_threads(2);
  const UseIsa use_isa("base");
  const OptimizerParams params = RowWiseAdagradParams{};
  Generator random(1);
  std::vector<std::int64_t> ids;
  for (std::size_t i = 0; i < kBatch; ++i) ids.push_back(static_cast<std::int64_t>(below(random, kRows)));
  const std::vector<float> grads = uniform_floats(random, kBatch * kDim);
  Rows expected(params, kRows, kDim);
  for (int round = 0; round < 5; ++round) {
    update_rows(params, expected.view(), ids, grads.data(), NonFinite::kRaise);
  }
  std::atomic<int> failures{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      Rows rows(params, kRows, kDim);
      for (int round = 0; round < 5; ++round) {
        update_rows(params, rows.view(), ids, grads.data(), NonFinite::kRaise);
        set_isa(available_isas()[static_cast<std::size_t>(round) % available_isas().size()]);
        set_num_threads(1 + round % 4);
      }
      failures += rows.weights != expected.weights || rows.row_state != expected.row_state;
    });
  }
  for (std::thread& caller : callers) caller.join();
  BOOST_CHECK_EQUAL(failures.load(), 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
