#include "cpu/threads.h"

#include <atomic>
#include <cstdlib>
#include <thread>

#include "fastinc/runtime.h"
#include "support/support.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(threads)

namespace {

/// Whether run_tasks runs every index once. Counts with plain integers: each task has its own.
bool runs_each_once(std::size_t count) {
  std::vector<int> runs(count, 0);
  parallel_tasks(count, [&](std::size_t i) noexcept { ++runs[i]; });
  return std::all_of(runs.begin(), runs.end(), [](int n) { return n == 1; });
}

}  // namespace

BOOST_AUTO_TEST_CASE(environment) {
  const char* text = std::getenv("FASTINC_NUM_THREADS");
  if (text == nullptr) {
    BOOST_CHECK_GE(num_threads(), 1);
    return;
  }
  const int count = std::atoi(text);
  if (count >= 1 && count <= 1024) {
    BOOST_CHECK_EQUAL(num_threads(), count);
    return;
  }
  for (int again = 0; again < 2; ++again) {
    check_throws<std::invalid_argument>([] { num_threads(); },
                                        {"FASTINC_NUM_THREADS = '", text, "1 to 1024"});
  }
}

BOOST_AUTO_TEST_CASE(every_task_runs_once) {
  for (const int threads : {1, 2, 3, 4, 9}) {
    const UseThreads use(threads);
    for (const std::size_t count :
         {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{5}, std::size_t{1000}}) {
      BOOST_CHECK_MESSAGE(runs_each_once(count), count << " tasks on " << threads << " threads");
    }
  }
}

BOOST_AUTO_TEST_CASE(several_threads_take_part) {
  const UseThreads use(3);
  // Tasks that wait for each other can only end when three threads run them.
  std::atomic<int> arrived{0};
  parallel_tasks(3, [&](std::size_t) noexcept {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
  });
  BOOST_CHECK_EQUAL(arrived.load(), 3);
}

BOOST_AUTO_TEST_CASE(many_callers_nested_calls_and_changing_counts_at_once) {
  const UseThreads restore(2);
  std::atomic<int> failures{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 150; ++round) {
        if (!runs_each_once(17)) ++failures;
        std::vector<int> inner(6, 0);
        parallel_tasks(6, [&](std::size_t i) noexcept {
          std::atomic<int> nested{0};
          parallel_tasks(5, [&](std::size_t) noexcept { ++nested; });
          inner[i] = nested;
        });
        if (std::any_of(inner.begin(), inner.end(), [](int n) { return n != 5; })) ++failures;
      }
    });
  }
  std::thread tuner([&] {
    for (int round = 0; !stop; ++round) {
      set_num_threads(1 + round % 4);
      std::this_thread::yield();
    }
  });
  for (std::thread& caller : callers) caller.join();
  stop = true;
  tuner.join();
  BOOST_CHECK_EQUAL(failures.load(), 0);
}

BOOST_AUTO_TEST_CASE(ranges_cover_everything_once) {
  for (const int threads : {1, 2, 3, 7}) {
    const UseThreads use(threads);
    for (const std::size_t n :
         {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{6}, std::size_t{1001}}) {
      std::vector<int> covered(n, 0);
      std::atomic<std::size_t> parts{0};
      parallel_ranges(n, 1 << 20, [&](std::size_t begin, std::size_t end, std::size_t part) noexcept {
        if (part < static_cast<std::size_t>(threads)) ++parts;
        for (std::size_t i = begin; i < end; ++i) ++covered[i];
      });
      BOOST_CHECK_EQUAL(parts.load(),
                        std::max<std::size_t>(1, std::min(n, static_cast<std::size_t>(threads))));
      BOOST_CHECK(std::all_of(covered.begin(), covered.end(), [](int times) { return times == 1; }));
    }
  }
}

BOOST_AUTO_TEST_CASE(little_work_stays_on_one_thread) {
  const UseThreads use(4);
  BOOST_CHECK_EQUAL(threads_for(0), 1u);
  BOOST_CHECK_EQUAL(threads_for(1000), 1u);
  BOOST_CHECK_EQUAL(threads_for(std::size_t{1} << 40), 4u);
}

BOOST_AUTO_TEST_CASE(much_work_is_shared_out_in_more_parts_than_threads) {
  const UseThreads use(4);
  BOOST_CHECK_EQUAL(parts_for(0), 1u);
  BOOST_CHECK_EQUAL(parts_for(1000), 1u);
  for (std::size_t floats = 1; floats < std::size_t{1} << 40; floats *= 3) {
    BOOST_CHECK_GE(parts_for(floats), threads_for(floats));
  }
  BOOST_CHECK_EQUAL(parts_for(std::size_t{1} << 40), 32u);
  const UseThreads one(1);
  BOOST_CHECK_EQUAL(parts_for(std::size_t{1} << 40), 1u);
}

BOOST_AUTO_TEST_CASE(counts_out_of_range_are_refused) {
  const UseThreads use(2);
  for (const int count : {0, -1, 1025, std::numeric_limits<int>::min()}) {
    check_throws<std::invalid_argument>([&] { set_num_threads(count); },
                                        {"num_threads = " + std::to_string(count), "1 to 1024"});
  }
  BOOST_CHECK_EQUAL(num_threads(), 2);
}

BOOST_AUTO_TEST_CASE(products_that_overflow_are_refused) {
  constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max();
  BOOST_CHECK_EQUAL(checked_multiply(3, 5, "x"), 15u);
  BOOST_CHECK_EQUAL(checked_multiply(kMost, 1, "x"), kMost);
  BOOST_CHECK_EQUAL(checked_multiply(kMost, 0, "x"), 0u);
  check_throws<std::overflow_error>([] { checked_multiply(kMost / 2 + 1, 2, "weights"); },
                                    {"weights", " x 2"});
}

// ThreadSanitizer doesn't support starting threads after a fork of a process that has several.
#if (defined(__unix__) || defined(__APPLE__)) && !defined(FASTINC_UNDER_TSAN)
BOOST_AUTO_TEST_CASE(a_forked_child_has_threads_of_its_own) {
  const UseThreads use(3);
  BOOST_REQUIRE(runs_each_once(100));  // the pool exists
  const pid_t child = fork();
  BOOST_REQUIRE_GE(child, 0);
  if (child == 0) {
    alarm(30);  // a child that waits for its parent's threads must not hang the tests
    bool good = num_threads() == 3;
    for (int round = 0; round < 20; ++round) good = good && runs_each_once(100);
    _exit(good ? 0 : 1);
  }
  int status = -1;
  BOOST_REQUIRE_EQUAL(waitpid(child, &status, 0), child);
  BOOST_CHECK(WIFEXITED(status));
  BOOST_CHECK_EQUAL(WEXITSTATUS(status), 0);
  BOOST_CHECK(runs_each_once(100));
}

BOOST_AUTO_TEST_CASE(a_fork_in_the_middle_of_another_threads_call) {
  const UseThreads use(2);
  std::atomic<bool> stop{false};
  std::atomic<int> failures{0};
  std::thread busy([&] {
    while (!stop) failures += !runs_each_once(50);
  });
  for (int round = 0; round < 10; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(30);
      _exit(runs_each_once(100) ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    failures += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  }
  stop = true;
  busy.join();
  BOOST_CHECK_EQUAL(failures.load(), 0);
}
#endif

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
