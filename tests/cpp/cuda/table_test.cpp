// The table in device memory, under the emulator, beside the CPU's after the same calls: the same in every
// byte.
#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "cuda/table_pair.h"
#include "support/reference_update.h"

namespace fastinc::test {
namespace {

/// Random calls of all kinds, everything compared after each.
void walk(const OptimizerParams& params, std::size_t dim, const TableBounds& bounds, std::size_t steps,
          std::size_t most, std::size_t range) {
  Generator random(dim * 100 + steps + bounds.max_rows);
  TablePair tables(params, dim, bounds);
  const std::string name = describe(params) + std::to_string(dim) + ", ";
  for (std::size_t step = 0; step < steps; ++step) {
    const std::string what = name + std::to_string(step) + ": ";
    const std::size_t n = below(random, 8) == 0 ? 0 : 1 + below(random, most);
    const Ids ids = random_ids(random, n, range);
    std::vector<float> values = uniform_floats(random, n * dim);
    clock_seconds() += uniform(random, 0.0f, 1.0f);
    switch (below(random, 9)) {
      case 0:
        tables.load(ids, values);
        break;
      case 1:
        tables.remove(ids);
        break;
      case 2:
        tables.expire();
        break;
      case 4:
        tables.cpu.advance();
        tables.gpu.advance();
        break;
      case 3:
        for (std::size_t i = 0; i < values.size() && i < 3; ++i) {
          values[below(random, values.size())] = i == 1 ? kNan : 1e30f;
        }
        tables.update(ids, values, NonFinite::kSkip);
        break;
      default:
        tables.update(ids, values);
    }
    tables.check_reads(random_ids(random, 40, range), what);
    tables.check_same(what);
    tables.check_changes(below(random, tables.cpu.version() + 1), what);
  }
  for (std::uint64_t since = 0; since <= tables.cpu.version(); ++since) tables.check_changes(since, name);
}

TableBounds lru(std::size_t max_rows) {
  return {.max_rows = max_rows, .eviction = Eviction::kLru};
}
TableBounds lfu(std::size_t max_rows) {
  return {.max_rows = max_rows, .eviction = Eviction::kLfu};
}
TableBounds ttl(std::size_t max_rows) {
  return {.max_rows = max_rows, .ttl = 5.0, .clock = read_clock};
}
TableBounds both(std::size_t max_rows) {
  return {.max_rows = max_rows, .eviction = Eviction::kLru, .ttl = 9.0, .clock = read_clock};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_table)

BOOST_AUTO_TEST_CASE(every_optimizer_without_bounds) {
  for (const OptimizerParams& params : optimizer_settings()) walk(params, 8, {}, 25, 60, 200);
}

BOOST_AUTO_TEST_CASE(every_width) {
  for (const std::size_t dim : {1, 8, 33, 64, 100, 200, 300}) {
    walk(make_optimizer("adam"), dim, {}, 12, 40, 100);
    walk(make_optimizer("rowwise_adagrad"), dim, lru(50), 12, 40, 100);
  }
}

BOOST_AUTO_TEST_CASE(rows_that_are_evicted) {
  for (const TableBounds& bounds : {lru(50), lfu(50), ttl(0), ttl(60), lru(90), lfu(70), both(60)}) {
    walk(make_optimizer("adagrad"), 3, bounds, 120, 50, 200);
    walk(make_optimizer("sgd"), 1, bounds, 60, 20, 4000);
  }
}

BOOST_AUTO_TEST_CASE(large_batches_of_few_ids) {
  walk(make_optimizer("adagrad"), 2, {}, 6, 9000, 50);
  walk(make_optimizer("adagrad"), 2, lru(2500), 6, 9000, 2000);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
