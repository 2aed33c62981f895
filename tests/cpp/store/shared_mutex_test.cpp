#include "fastinc/shared_mutex.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(shared_mutex)

namespace {

using Clock = std::chrono::steady_clock;

void work_for(std::chrono::microseconds duration) {
  for (const auto end = Clock::now() + duration; Clock::now() < end;) {
  }
}

/// Four threads that hold the lock almost always, until `stop`.
template <class Lock>
std::vector<std::thread> keep_busy(SharedMutex& mutex, std::atomic<bool>& stop, std::atomic<long>& turns) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        const Lock lock(mutex);
        work_for(std::chrono::microseconds(50));
        ++turns;
      }
    });
  }
  return threads;
}

/// How many of 50 turns a Lock gets within 10 seconds beside threads that always want a Busy.
template <class Lock, class Busy>
int turns_beside() {
  SharedMutex mutex;
  std::atomic<bool> stop{false}, give_up{false};
  std::atomic<long> busy_turns{0};
  std::vector<std::thread> busy = keep_busy<Busy>(mutex, stop, busy_turns);
  while (busy_turns < 10) std::this_thread::yield();
  std::atomic<int> turns{0};
  std::thread one([&] {
    while (turns < 50 && !give_up) {
      const Lock lock(mutex);
      ++turns;
    }
  });
  for (const auto end = Clock::now() + std::chrono::seconds(10); turns < 50 && Clock::now() < end;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const int reached = turns;
  give_up = stop = true;  // the others end, so that the one can, whatever the lock prefers
  for (std::thread& thread : busy) thread.join();
  one.join();
  return reached;
}

using Shared = std::shared_lock<SharedMutex>;
using Exclusive = std::unique_lock<SharedMutex>;

}  // namespace

BOOST_AUTO_TEST_CASE(readers_dont_keep_a_writer_out) {
  BOOST_CHECK_EQUAL((turns_beside<Exclusive, Shared>()), 50);
}
BOOST_AUTO_TEST_CASE(writers_dont_keep_a_reader_out) {
  BOOST_CHECK_EQUAL((turns_beside<Shared, Exclusive>()), 50);
}
BOOST_AUTO_TEST_CASE(writers_dont_keep_a_writer_out) {
  BOOST_CHECK_EQUAL((turns_beside<Exclusive, Exclusive>()), 50);
}

BOOST_AUTO_TEST_CASE(readers_hold_it_together_and_writers_alone) {
  SharedMutex mutex;
  std::atomic<int> readers{0}, failures{0};
  int guarded = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 2000; ++round) {
        if (round % 4 == 0) {
          const Exclusive lock(mutex);
          failures += readers != 0;
          ++guarded;
        } else {
          const Shared lock(mutex);
          ++readers;
          failures += guarded < 0;
          if (round % 50 == 1) std::this_thread::yield();
          --readers;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  BOOST_CHECK_EQUAL(failures.load(), 0);
  BOOST_CHECK_EQUAL(guarded, 2000);

  const Shared first(mutex);
  std::thread second([&] { const Shared lock(mutex); });
  second.join();  // didn't wait for the first
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
