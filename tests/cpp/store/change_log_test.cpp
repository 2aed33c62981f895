#include "store/change_log.h"

#include <atomic>
#include <bit>
#include <chrono>
#include <optional>
#include <thread>

#include "math/random.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(change_log)

namespace {

constexpr std::size_t kSlots = std::size_t{1} << 16, kVersions = std::size_t{1} << 14;

/// One of the two logs, with everything ever appended.
template <class T>
struct Model {
  std::uint64_t from = 0;  // what came after it must be answered
  std::uint64_t first = 0;
  std::vector<std::vector<T>> items;  // [i] came with first + 1 + i
  std::size_t held = 0;               // items after `from`

  std::uint64_t last() const { return first + items.size(); }
  const std::vector<T>& at(std::uint64_t version) const { return items[version - first - 1]; }
  void reset(std::uint64_t version) { *this = {version, version, {}, 0}; }
  void append(std::vector<T> batch, std::size_t capacity, std::size_t versions) {
    held += batch.size();
    const bool too_large = batch.size() > capacity;
    items.push_back(std::move(batch));
    while (from < last() && (too_large || held > capacity || last() - from >= versions)) {
      held -= at(++from).size();
    }
  }
  std::optional<std::vector<T>> since(std::uint64_t since, std::uint64_t until) const {
    if (since > until || until > last() || since < from) return std::nullopt;
    std::vector<T> all;
    for (std::uint64_t v = since + 1; v <= until; ++v) all.insert(all.end(), at(v).begin(), at(v).end());
    return all;
  }
};

struct Both {
  ChangeLog log;
  Model<Slot> written;
  Model<std::int64_t> removed;
  std::size_t slot_capacity = 0, id_capacity = 0, versions = 0;
  Generator random;

  explicit Both(std::uint64_t seed) : random(seed) {}

  void reserve(std::size_t slots, std::size_t ids, std::size_t rows) {
    log.reserve(slots, ids, rows);
    const std::size_t most = std::max(kSlots, std::bit_floor(rows / 8));
    if (slots > 0) slot_capacity = std::max(slot_capacity, most);
    if (ids > 0) id_capacity = std::max(id_capacity, most / 2);
    versions = std::max({versions, kVersions, std::bit_floor(rows / 64)});
  }
  void append(std::size_t slots, std::size_t ids) {
    std::vector<Slot> s(slots);
    std::vector<std::int64_t> r(ids);
    for (Slot& slot : s) slot = static_cast<Slot>(random());
    for (std::int64_t& id : r) id = static_cast<std::int64_t>(random());
    log.append(written.last() + 1, s, r);
    written.append(std::move(s), slot_capacity, versions);
    removed.append(std::move(r), id_capacity, versions);
  }
  void reset(std::uint64_t version) {
    log.reset(version);
    written.reset(version);
    removed.reset(version);
  }

  void check(std::uint64_t since, std::uint64_t until) {
    std::vector<Slot> slots = {1, 2, 3};
    std::vector<std::int64_t> ids = {-1};
    const auto expected_slots = written.since(since, until);
    const auto expected_ids = removed.since(since, until);
    BOOST_REQUIRE_EQUAL(log.written_since(since, until, slots), expected_slots.has_value());
    BOOST_REQUIRE_EQUAL(log.removed_since(since, until, ids), expected_ids.has_value());
    std::vector<Slot> all_slots = {1, 2, 3};
    std::vector<std::int64_t> all_ids = {-1};
    if (expected_slots) all_slots.insert(all_slots.end(), expected_slots->begin(), expected_slots->end());
    if (expected_ids) all_ids.insert(all_ids.end(), expected_ids->begin(), expected_ids->end());
    BOOST_REQUIRE(slots == all_slots);
    BOOST_REQUIRE(ids == all_ids);
  }
  /// At the ends of what is held, and anywhere.
  void check_all() {
    const std::uint64_t last = written.last();
    for (const std::uint64_t from : {written.from, removed.from}) {
      check(from, last);
      check(from, from);
      check(from - (from > 0), last);
      check(std::min(from + 1, last), last);
    }
    for (int i = 0; i < 5; ++i) {
      const std::uint64_t since = last - below(random, std::min<std::size_t>(last + 1, 200));
      check(since, since + below(random, last - since + 1));
    }
    check(last, last);
    check(last, last + 1);
    check(last + 1, last + 1);
    if (last > 0) check(last, last - 1);
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(nothing_is_needed_before_the_first_batch) {
  ChangeLog log(7);
  BOOST_CHECK_EQUAL(log.bytes(), 0u);
  std::vector<Slot> slots;
  BOOST_CHECK(log.written_since(7, 7, slots));
  BOOST_CHECK(!log.written_since(6, 7, slots));
  const std::vector<Slot> some = {4, 4, 5};
  log.append(8, some, {});  // there is no room: the log begins after it
  BOOST_CHECK(!log.written_since(7, 8, slots));
  BOOST_CHECK(log.written_since(8, 8, slots));
  log.reserve(3, 0, 100);
  log.append(9, some, {});
  BOOST_CHECK(log.written_since(8, 9, slots));
  BOOST_CHECK(slots == some);
  std::vector<std::int64_t> ids;
  BOOST_CHECK(log.removed_since(8, 9, ids));
  BOOST_CHECK(ids.empty());
  log.append(20, some, {});  // not the next version
  BOOST_CHECK(!log.written_since(9, 20, slots));
  BOOST_CHECK(log.written_since(20, 20, slots));
}

BOOST_AUTO_TEST_CASE(the_same_as_a_list_of_all_batches) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    Both both(seed);
    std::size_t rows = 1000;
    for (int step = 0; step < 400; ++step) {
      const std::size_t kind = below(both.random, 100);
      std::size_t slots = below(both.random, 3000),
                  ids = below(both.random, 4) == 0 ? below(both.random, 4000) : 0;
      if (kind == 0) slots = kSlots * 8 + 1;
      if (kind == 1) slots = both.slot_capacity;
      if (kind == 2) ids = both.id_capacity + 1;
      if (kind == 3 && rows < 3000000) rows *= 4;
      if (kind == 4 && step % 4 == 0) both.reset(below(both.random, both.written.last() + 100));
      if (kind != 5) both.reserve(slots, ids, rows);
      both.append(slots, ids);
      if (step % 3 == 0) both.check_all();
    }
  }
}

BOOST_AUTO_TEST_CASE(many_small_batches) {
  Both both(9);
  both.reserve(1, 1, 10);
  for (std::size_t i = 0; i < 3 * kVersions; ++i) {
    both.append(i % 3 == 0, i % 5 == 0);
    if (i % 977 == 0) both.check_all();
  }
  BOOST_CHECK_EQUAL(both.log.written_from(), 2 * kVersions + 1);
  both.reserve(1, 1, 64 * 4 * kVersions);  // what is held survives growth
  both.check_all();
  for (std::size_t i = 0; i < 3 * kVersions; ++i) both.append(1, 0);
  BOOST_CHECK_EQUAL(both.log.written_from(), 2 * kVersions + 1);
  both.check_all();
}

BOOST_AUTO_TEST_CASE(memory_follows_the_table) {
  ChangeLog log;
  log.reserve(1, 0, 10);
  BOOST_CHECK_EQUAL(log.bytes(), kSlots * 4 + 2 * kVersions * 4);
  log.reserve(1, 1, 10);
  BOOST_CHECK_EQUAL(log.bytes(), std::size_t{640} << 10);
  for (std::size_t rows = std::size_t{1} << 20; rows < 40000000; rows = rows * 21 / 20) {
    log.reserve(1, 1, rows);
    BOOST_REQUIRE_LE(static_cast<double>(log.bytes()), 1.125 * static_cast<double>(rows));
    BOOST_REQUIRE_GE(static_cast<double>(log.bytes()), 0.5625 * static_cast<double>(rows));
  }
}

namespace {

/// What is appended is a function of the run (from one reset to the next) and the version.
template <class T>
std::vector<T> pattern(std::uint64_t run, std::uint64_t version, std::size_t most) {
  const std::uint64_t key = run << 32 | version;
  std::vector<T> items(base::random_bits(key, 0) % most);
  for (std::size_t i = 0; i < items.size(); ++i) {
    items[i] = static_cast<T>(base::random_bits(key, i + 1) << 8 | (run & 0xff));
  }
  return items;
}

constexpr std::size_t kMostSlots = 6000, kMostIds = 1500;

template <class T>
bool as_appended(const std::vector<T>& got, std::uint64_t since, std::uint64_t until, std::uint64_t run,
                 std::size_t most) {
  std::size_t at = 0;
  for (std::uint64_t v = since + 1; v <= until; ++v) {
    const std::vector<T> expected = pattern<T>(run, v, most);
    if (got.size() - at < expected.size()) return false;
    if (!std::equal(expected.begin(), expected.end(), got.begin() + static_cast<std::ptrdiff_t>(at)))
      return false;
    at += expected.size();
  }
  return at == got.size();
}

struct Hunt {
  ChangeLog log{1000};
  std::atomic<std::uint64_t> run{0}, version{1000}, answered{0}, refused{0}, wrong{0};
  std::atomic<bool> stop{false};
};

void write(Hunt& h) {
  std::size_t rows = 1000;
  std::uint64_t version = 1000;
  for (std::uint64_t step = 0; !h.stop; ++step) {
    if (step % 80 == 79) {  // often to versions there were before
      version = 1000 + h.run % 3 * 50;
      h.log.reset(version);
      ++h.run;
      h.version = version;
    }
    if (step % 100 == 99 && rows < 4000000) rows *= 4;
    h.log.reserve(1, 1, rows);
    ++version;
    h.log.append(version, pattern<Slot>(h.run, version, kMostSlots),
                 pattern<std::int64_t>(h.run, version, kMostIds));
    h.version = version;
  }
}

/// Any run there was during the call may have answered, the same one for all of it.
template <class T>
void check(Hunt& h, bool answered, std::uint64_t run, const std::vector<T>& got, std::uint64_t since,
           std::uint64_t until, std::size_t most) {
  ++(answered ? h.answered : h.refused);
  if (!answered) {
    h.wrong += !got.empty();
    return;
  }
  const std::uint64_t latest = h.run + 1;  // a reset is told after it has begun
  bool right = false;
  for (std::uint64_t r = run - (run > 0); r <= latest && !right; ++r) {
    right = as_appended(got, since, until, r, most);
  }
  h.wrong += !right;
}

void read(Hunt& h, std::uint64_t seed) {
  Generator random(seed);
  std::vector<Slot> slots;
  std::vector<std::int64_t> ids;
  while (!h.stop) {
    const std::uint64_t run = h.run;
    std::uint64_t until = h.version;
    // Mostly what is just being overwritten: 22 and 44 versions of the mean size fill the smallest rings.
    std::uint64_t since = until - std::min<std::uint64_t>(until - 1000, below(random, 60));
    if (below(random, 4) > 0) {
      since = std::min(until, below(random, 2) ? h.log.written_from() : h.log.removed_from());
      until = std::min(until, since + 1);
    }
    slots.clear();
    ids.clear();
    const bool got_slots = h.log.written_since(since, until, slots);
    check(h, got_slots, run, slots, since, until, kMostSlots);
    const std::uint64_t run_of_ids = h.run;
    const bool got_ids = h.log.removed_since(since, until, ids);
    check(h, got_ids, run_of_ids, ids, since, until, kMostIds);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(readers_get_what_was_written_or_nothing) {
  Hunt hunt;
  std::vector<std::thread> threads;
  threads.emplace_back(write, std::ref(hunt));
  for (std::uint64_t seed = 1; seed <= 3; ++seed) threads.emplace_back(read, std::ref(hunt), seed);
  std::this_thread::sleep_for(std::chrono::milliseconds(2000));
  hunt.stop = true;
  for (std::thread& thread : threads) thread.join();
  BOOST_TEST_MESSAGE(hunt.answered << " answers, " << hunt.refused << " refusals, " << hunt.run << " resets");
  BOOST_CHECK_EQUAL(hunt.wrong.load(), 0u);
  BOOST_CHECK_GT(hunt.answered.load(), 20u);
  BOOST_CHECK_GT(hunt.refused.load(), 0u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
