// What the table in device memory refuses, survives and tells, beside the CPU's.
#include <cuda_runtime.h>

#include <boost/test/unit_test.hpp>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "cuda/launch.h"
#include "cuda/table_pair.h"
#include "support/reference_update.h"

namespace fastinc::test {
namespace {

Ids range(std::int64_t begin, std::int64_t end) {
  Ids ids(static_cast<std::size_t>(end - begin));
  std::iota(ids.begin(), ids.end(), begin);
  return ids;
}

/// Bags of ids, some of them empty.
void check_pool(TablePair& tables, std::size_t dim, const Ids& ids, const std::vector<std::int64_t>& offsets,
                PoolMode mode, const std::vector<float>& weights) {
  const cuda::DeviceArray<std::int64_t> device_ids(ids), device_offsets(offsets);
  const cuda::DeviceArray<float> device_weights(weights);
  std::vector<float> expected(offsets.size() * dim, 7.0f);
  cuda::DeviceArray<float> out(expected);
  const std::string cpu_error = error_of([&] {
    tables.cpu.pool(ids, offsets, mode, weights.empty() ? nullptr : weights.data(), expected.data());
  });
  const std::string error = error_of([&] {
    tables.gpu.pool(device_ids.data(), ids.size(), device_offsets.data(), offsets.size(), mode,
                    weights.empty() ? nullptr : device_weights.data(), out.data(), nullptr);
  });
  BOOST_TEST(error == cpu_error);
  check_same_bytes(out.host(), expected, std::to_string(dim) + " pooled ");
}

/// The same call with each of its allocations failing once: nothing changes, and then it works. Returns how
/// many there were.
long check_failing(const TablePair& tables, const std::string& what, const std::function<void()>& call) {
  const TableState before = tables.gpu.export_state();
  for (long failing = 0;; ++failing) {
    BOOST_REQUIRE(failing < 50);
    emulator::fail_after(failing);
    try {
      call();
      emulator::fail_after(-1);
      return failing;
    } catch (const cuda::OutOfDeviceMemory& error) {
      emulator::fail_after(-1);
      BOOST_TEST(std::string(error.what()).size() > 10);
    }
    check_same_state(tables.gpu.export_state(), before, what + ": ");
    BOOST_TEST(tables.gpu.ids().size() == before.ids.size());
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cuda_table_calls)

BOOST_AUTO_TEST_CASE(pools_have_the_bytes_of_the_cpu) {
  for (const std::size_t dim : {1, 8, 33, 64, 100, 300, 600}) {
    Generator random(dim);
    TablePair tables(make_optimizer("sgd"), dim);
    tables.load(range(0, 40), uniform_floats(random, 40 * dim));
    Ids ids;
    std::vector<std::int64_t> offsets;
    for (const std::size_t size : {0, 3, 0, 1, 70, 32, 33, 5, 0}) {
      offsets.push_back(static_cast<std::int64_t>(ids.size()));
      for (std::size_t i = 0; i < size; ++i) ids.push_back(static_cast<std::int64_t>(below(random, 60)));
    }
    const std::vector<float> weights = uniform_floats(random, ids.size());
    check_pool(tables, dim, ids, offsets, PoolMode::kSum, {});
    check_pool(tables, dim, ids, offsets, PoolMode::kMean, {});
    check_pool(tables, dim, ids, offsets, PoolMode::kSum, weights);
    tables.check_same("");
  }
}

BOOST_AUTO_TEST_CASE(outputs_that_are_not_aligned) {
  for (const std::size_t dim : {4, 8, 64}) {
    TablePair tables(make_optimizer("sgd"), dim);
    tables.load({1, 2, 3}, std::vector<float>(3 * dim, 0.75f));
    const Ids ids{3, 4, 1, 2, 2};
    const cuda::DeviceArray<std::int64_t> device_ids(ids);
    std::vector<float> expected(ids.size() * dim);
    tables.cpu.lookup(ids, expected.data());
    cuda::DeviceArray<float> out(expected.size() + 1);
    tables.gpu.lookup(device_ids.data(), ids.size(), out.data() + 1, nullptr);
    check_same_bytes(std::vector<float>(out.data() + 1, out.data() + out.size()), expected, "lookup ");
    std::vector<std::uint8_t> expected_codes(ids.size() * (dim + kQuantizedTail));
    tables.cpu.lookup_quantized(ids, expected_codes.data());
    cuda::DeviceArray<std::uint8_t> codes(expected_codes.size() + 1);
    tables.gpu.lookup_quantized(device_ids.data(), ids.size(), codes.data() + 1, nullptr);
    check_same_bytes(std::vector<std::uint8_t>(codes.data() + 1, codes.data() + codes.size()), expected_codes,
                     "codes ");
  }
}

BOOST_AUTO_TEST_CASE(pools_are_refused_in_the_words_of_the_cpu) {
  TablePair tables(make_optimizer("sgd"), 3);
  const auto refuse = [&](const std::vector<std::int64_t>& offsets, std::vector<float> weights = {},
                          PoolMode mode = PoolMode::kSum) {
    check_pool(tables, 3, {1, 2, 3}, offsets, mode, weights);
    tables.check_same("");
  };
  refuse({});
  refuse({1, 2});
  refuse({-1, 2});
  refuse({0, 2, 1});
  refuse({0, 2, 4});
  refuse({0, 2}, {1, 2, kNan});
  refuse({0, 2}, {1, kInfinity, kNan});
  refuse({0, 2}, {1, 2, 3}, PoolMode::kMean);
  refuse({0, 5}, {1, 2, 3}, PoolMode::kMean);
  check_pool(tables, 3, {}, {}, PoolMode::kSum, {});
  check_pool(tables, 3, {}, {0, 0}, PoolMode::kSum, {});
}

BOOST_AUTO_TEST_CASE(writes_are_refused_in_the_words_of_the_cpu) {
  TablePair tables(make_optimizer("adagrad"), 2, {.max_rows = 4, .eviction = Eviction::kLru});
  tables.update({1, 2, 1}, {1, 2, 3, 4, 5, 6});
  tables.update({1, 2, 3}, {1, 2, kNan, 4, 5, 6});
  tables.update({1, 2, 2}, {1, 2, 3e19f, 4, 3e19f, 6});
  tables.update({7, 8}, {1e18f, 2, 3, 4});  // large, and fine
  tables.load({1, 9}, {1, 2, 3, -kInfinity});
  tables.update({1, 2, 3, 4, 5, 1}, std::vector<float>(12, 1.0f));
  tables.load({1, 2, 3, 4, 5, 1}, std::vector<float>(12, 1.0f));
  tables.update({1, 2, 3, 4, 5, 1}, {1, 1, 1, 1, kNan, 1, 1, 1, 1, 1, 1, 1}, NonFinite::kSkip);
  tables.update({1, 2}, {kNan, 1, 1, kInfinity}, NonFinite::kSkip);
  tables.update({11, 12}, {kNan, 1, 1, kInfinity}, NonFinite::kSkip);
  tables.check_same("");
  tables.check_reads({1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12}, "");
  for (std::uint64_t since = 0; since <= tables.cpu.version(); ++since) tables.check_changes(since, "");
  check_throws<std::invalid_argument>([&] { (void)tables.gpu.changes(99); }, {"since = 99 is newer"});
}

BOOST_AUTO_TEST_CASE(what_a_table_is_made_of_is_checked) {
  const auto make = [](std::size_t dim, const Initializer& init, const TableBounds& bounds, int device = 0) {
    cuda::Table(dim, std::make_shared<Optimizer>(make_optimizer("sgd")), init, bounds, device);
  };
  check_throws<std::invalid_argument>([&] { make(0, {}, {}); }, {"dim = 0"});
  check_throws<std::invalid_argument>([&] { make(1, {InitializerKind::kConstant, kNan}, {}); }, {"value"});
  check_throws<std::invalid_argument>([&] { make(1, {}, {.max_rows = 5}); }, {"rule of eviction"});
  check_throws<std::invalid_argument>([&] { make(1, {}, {.min_count = 2}); },
                                      {"min_count = 2", "not supported on CUDA"});
  check_throws<std::runtime_error>([&] { make(1, {}, {}, 3); }, {"cudaSetDevice"});
  const cuda::Table table(5, std::make_shared<Optimizer>(make_optimizer("adam")), kNormal);
  BOOST_TEST(table.dim() == 5u);
  BOOST_TEST(table.size() == 0u);
  BOOST_TEST(table.device() == 0);
  BOOST_TEST(table.initializer().seed == 7u);
  BOOST_TEST(table.bounds().max_rows == 0u);
  BOOST_TEST(table.changes(0).updated.empty());
}

BOOST_AUTO_TEST_CASE(calls_are_not_captured_in_graphs) {
  TablePair tables(make_optimizer("sgd"), 2);
  const cuda::DeviceArray<std::int64_t> ids(Ids{1});
  cuda::DeviceArray<float> out(2);
  emulator::set_capturing(true);
  check_throws<std::invalid_argument>([&] { tables.gpu.lookup(ids.data(), 1, out.data(), nullptr); },
                                      {"captured in a CUDA graph"});
  emulator::set_capturing(false);
  tables.gpu.lookup(ids.data(), 1, out.data(), nullptr);
}

BOOST_AUTO_TEST_CASE(many_pages_and_indices) {
  // Pages of 2^16 rows of one float, fewer of more, and an index that grows from 1,024 places on.
  constexpr std::int64_t kThousand = kSanitized ? 1000 / 16 : 1000;
  TablePair tables(make_optimizer("sgd"), kSanitized ? 16 : 1, {}, {InitializerKind::kUniform, -1.0, 1.0, 3});
  const auto filled = [&](const Ids& ids, float x) {
    return std::vector<float>(ids.size() * tables.cpu.dim(), x);
  };
  for (std::int64_t begin = 0; begin < 150 * kThousand; begin += 30 * kThousand) {
    const Ids ids = range(begin, begin + 30 * kThousand);
    tables.update(ids, filled(ids, 0.5f));
  }
  tables.remove(range(20 * kThousand, 90 * kThousand));
  const Ids again = range(40 * kThousand, 50 * kThousand);
  tables.load(again, filled(again, 2.0f));
  tables.check_same("pages: ");
  tables.check_changes(2, "pages: ");
  tables.check_reads(range(20 * kThousand - 100, 20 * kThousand + 100), "pages: ");
  BOOST_TEST(tables.gpu.load_factor() > 0.1);
  BOOST_TEST(tables.gpu.load_factor() <= 0.625);
}

BOOST_AUTO_TEST_CASE(an_index_full_of_rows_that_went_is_made_anew_and_takes_no_more) {
  TablePair tables(make_optimizer("sgd"), 1, {.max_rows = 300, .eviction = Eviction::kLru});
  std::size_t bytes = 0;
  for (std::int64_t step = 0; step < 60; ++step) {
    const Ids ids = range(step * 150, step * 150 + 200);
    tables.update(ids, std::vector<float>(ids.size(), 0.5f));
    std::size_t total = 0;
    for (const auto& [part, size] : tables.gpu.memory_usage()) {
      if (part == "total") total += size;
      if (part == "change_log") total -= size;  // its list of versions grows to 16,384
    }
    if (step == 20) bytes = total;
    if (step > 20) BOOST_TEST(total == bytes);
  }
  tables.check_same("");
}

BOOST_AUTO_TEST_CASE(removals_beyond_the_log_are_a_reset) {
  TablePair tables(make_optimizer("sgd"), 1);
  for (int step = 0; step < 5; ++step) {
    const Ids ids = range(step * 7'000, (step + 1) * 7'000);
    tables.load(ids, std::vector<float>(ids.size(), 1.0f));
    if (step > 0) tables.remove(range((step - 1) * 7'000, step * 7'000 - 10));
    tables.check_changes(0, "");
  }
  tables.load(range(0, 20'000), std::vector<float>(20'000, 1.0f));
  tables.remove(range(5, 19'000));
  for (std::uint64_t since = 0; since <= tables.cpu.version(); ++since) tables.check_changes(since, "");
  BOOST_TEST(tables.gpu.changes(1).reset);
  BOOST_TEST(!tables.gpu.changes(tables.gpu.version() - 1).reset);
  tables.load(range(100'000, 140'000), std::vector<float>(40'000, 1.0f));
  tables.remove(range(100'000, 140'000));  // more than the log holds
  for (std::uint64_t since = 0; since <= tables.cpu.version(); ++since) tables.check_changes(since, "");
}

BOOST_AUTO_TEST_CASE(states_go_from_one_to_the_other) {
  for (const auto& bounds : {TableBounds{}, TableBounds{.max_rows = 80, .eviction = Eviction::kLfu},
                             TableBounds{.max_rows = 80, .eviction = Eviction::kLru},
                             TableBounds{.ttl = 4, .clock = read_clock}}) {
    Generator random(1);
    TablePair tables(make_optimizer("adam"), 5, bounds);
    const auto step = [&](TablePair& to) {
      const Ids ids = random_ids(random, 50, 300);
      clock_seconds() += 1.0;
      to.update(ids, uniform_floats(random, ids.size() * 5));
    };
    for (int i = 0; i < 6; ++i) step(tables);
    tables.remove(random_ids(random, 60, 300));
    TablePair others(make_optimizer("adam"), 5, bounds);
    step(others);
    const TableState from_cpu = tables.cpu.export_state(), from_gpu = tables.gpu.export_state();
    others.cpu.import_state(from_gpu);
    others.gpu.import_state(from_cpu);
    others.check_same("imported: ");
    others.check_reads(random_ids(random, 100, 300), "imported: ");
    for (int i = 0; i < 8; ++i) {
      step(others);
      others.remove(random_ids(random, 9, 300));
      others.check_same("after: ");
      for (std::uint64_t since = 0; since <= others.cpu.version(); ++since) others.check_changes(since, "");
    }
    others.cpu.import_state({});
    others.gpu.import_state({});
    others.check_same("empty: ");
    step(others);
    others.check_same("begun anew: ");
  }
}

BOOST_AUTO_TEST_CASE(frequencies_of_all_sizes) {
  TablePair tables(make_optimizer("sgd"), 1, {.max_rows = 6, .eviction = Eviction::kLfu});
  TableState state;
  state.ids = {1, 2, 3, 4, 5, 6};
  state.row_versions = {9, 8, 9, 9, 7, 9};
  state.weights = {1, 2, 3, 4, 5, 6};
  state.frequencies = {~0u, 0, 1, 5, 1u << 31, 2};
  state.version = (std::uint64_t{1} << 40) + 5;
  state.row_versions[3] = std::uint64_t{1} << 40;
  tables.cpu.import_state(state);
  tables.gpu.import_state(state);
  for (std::int64_t step = 0; step < 30; ++step) {
    tables.update({1, step % 5 + 1, 10 + step / 2}, {0.5f, 0.5f, 0.5f});
    tables.check_same(std::to_string(step) + ": ");
  }
}

BOOST_AUTO_TEST_CASE(states_that_do_not_fit_are_refused) {
  TablePair tables(make_optimizer("adagrad"), 2, {.max_rows = 3, .eviction = Eviction::kLru});
  tables.update({1, 2}, {1, 2, 3, 4});
  const TableState good = tables.cpu.export_state();
  const auto refuse = [&](auto change) {
    TableState state = good;
    change(state);
    const std::string cpu_error = error_of([&] { tables.cpu.import_state(state); });
    BOOST_TEST(!cpu_error.empty());
    BOOST_TEST(error_of([&] { tables.gpu.import_state(state); }) == cpu_error);
    tables.check_same("refused: ");
  };
  refuse([](TableState& s) { s.row_versions.pop_back(); });
  refuse([](TableState& s) { s.weights.push_back(1); });
  refuse([](TableState& s) { s.state.pop_back(); });
  refuse([](TableState& s) { s.version = 0; });
  refuse([](TableState& s) { s.ids[0] = s.ids[1]; });
  refuse([](TableState& s) { s.frequencies = {1, 1}; });
  refuse([](TableState& s) { s.sightings = {1}; });
}

BOOST_AUTO_TEST_CASE(no_device_memory_leaves_a_table_as_it_was) {
  for (const auto& bounds : {TableBounds{}, TableBounds{.max_rows = 5000, .eviction = Eviction::kLfu},
                             TableBounds{.ttl = 3, .clock = read_clock}}) {
    TablePair tables(make_optimizer("adam"), 20, bounds);
    long failures = 0;
    const auto call = [&](const std::string& what, auto on_cpu, auto on_gpu) {
      on_cpu();
      failures += check_failing(tables, what, on_gpu);
      tables.check_same(what + ": ");
    };
    const auto update = [&](const Ids& ids) {
      const std::vector<float> grads(ids.size() * 20, 0.25f);
      const cuda::DeviceArray<std::int64_t> device_ids(ids);
      const cuda::DeviceArray<float> device_grads(grads);
      call(
          "update", [&] { tables.cpu.update(ids, grads.data(), NonFinite::kRaise); },
          [&] {
            tables.gpu.update(device_ids.data(), ids.size(), device_grads.data(), NonFinite::kRaise, nullptr);
          });
    };
    update(range(0, 500));
    update(range(400, 3'000));
    clock_seconds() += 10.0;  // with a ttl, rows go
    update(range(1'000, 5'500));
    const Ids ids = range(5'000, 9'000);
    const std::vector<float> vectors(ids.size() * 20, 0.5f);
    const cuda::DeviceArray<std::int64_t> device_ids(ids);
    const cuda::DeviceArray<float> device_vectors(vectors);
    call(
        "load", [&] { tables.cpu.load(ids, vectors.data()); },
        [&] { tables.gpu.load(device_ids.data(), ids.size(), device_vectors.data(), nullptr); });
    call(
        "remove", [&] { tables.cpu.remove(ids); },
        [&] { tables.gpu.remove(device_ids.data(), ids.size(), nullptr); });
    TableState state = tables.cpu.export_state();
    state.slots = state.free_slots = {};  // a device sets rows one after another
    TablePair fresh(make_optimizer("adam"), 20, bounds);
    fresh.cpu.import_state(state);
    BOOST_TEST(failures > 8);
    BOOST_TEST(check_failing(fresh, "import_state", [&] { fresh.gpu.import_state(state); }) > 2);
    fresh.check_same("import_state: ");
    BOOST_TEST(check_failing(tables, "export_state", [&] { (void)tables.gpu.export_state(); }) > 0);
    BOOST_TEST(check_failing(tables, "ids", [&] { (void)tables.gpu.ids(); }) > 0);
    BOOST_TEST(check_failing(tables, "changes", [&] { (void)tables.gpu.changes(0); }) > 0);
    tables.check_changes(0, "");
  }
}

BOOST_AUTO_TEST_CASE(no_device_memory_for_a_new_table) {
  const std::size_t before = emulator::live_bytes();
  for (long failing = 0;; ++failing) {
    BOOST_REQUIRE(failing < 20);
    emulator::fail_after(failing);
    try {
      cuda::Table(3, std::make_shared<Optimizer>(make_optimizer("adam")), kNormal);
      emulator::fail_after(-1);
      break;
    } catch (const cuda::OutOfDeviceMemory&) {
      emulator::fail_after(-1);
    }
    BOOST_TEST(emulator::live_bytes() == before);
  }
  BOOST_TEST(emulator::live_bytes() == before);
}

BOOST_AUTO_TEST_CASE(threads_take_turns) {
  TablePair tables(make_optimizer("adagrad"), 4);
  const auto work = [&](std::int64_t thread) {
    const Ids ids = range(thread * 100, thread * 100 + 60);
    const std::vector<float> grads(ids.size() * 4, 0.5f + static_cast<float>(thread));
    const cuda::DeviceArray<std::int64_t> device_ids(ids);
    const cuda::DeviceArray<float> device_grads(grads);
    cuda::DeviceArray<float> out(grads.size());
    for (int step = 0; step < 15; ++step) {
      tables.gpu.update(device_ids.data(), ids.size(), device_grads.data(), NonFinite::kRaise, nullptr);
      tables.gpu.lookup(device_ids.data(), ids.size(), out.data(), nullptr);
      (void)tables.gpu.changes(0);
    }
  };
  std::vector<std::thread> threads;
  for (std::int64_t thread = 0; thread < 3; ++thread) threads.emplace_back(work, thread);
  for (std::thread& thread : threads) thread.join();
  BOOST_TEST(tables.gpu.version() == 45u);
  for (std::int64_t thread = 0; thread < 3; ++thread) {
    const Ids ids = range(thread * 100, thread * 100 + 60);
    const std::vector<float> grads(ids.size() * 4, 0.5f + static_cast<float>(thread));
    for (int step = 0; step < 15; ++step) tables.cpu.update(ids, grads.data(), NonFinite::kRaise);
    tables.check_reads(ids, "");
  }
}

BOOST_AUTO_TEST_CASE(rows_that_are_over_go_some_at_a_time) {
  TablePair tables(make_optimizer("sgd"), 1, {.ttl = 1.0, .clock = read_clock});
  tables.load(range(0, 5'000), std::vector<float>(5'000, 1.0f));
  clock_seconds() += 2.0;
  for (std::int64_t id = 10'000; id < 10'008; ++id) {
    tables.update({id}, {1.0f});
    tables.check_same("some at a time: ");
  }
  tables.load(range(20'000, 25'000), std::vector<float>(5'000, 1.0f));
  clock_seconds() += 2.0;
  // How many go depends on how many gradients are left of the batch.
  tables.update({30'000, 30'001, 30'000, 30'002}, {kNan, 1.0f, 2.0f, 3.0f}, NonFinite::kSkip);
  tables.check_same("some were skipped: ");
  tables.update({30'000, 30'000}, {kNan, 1.0f}, NonFinite::kSkip);
  tables.check_same("all were skipped: ");
  tables.load(range(0, 100), std::vector<float>(100, 1.0f));
  clock_seconds() += 2.0;
  BOOST_TEST(tables.expire() > 0u);
  BOOST_TEST(tables.expire() == 0u);
  tables.check_same("all: ");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
