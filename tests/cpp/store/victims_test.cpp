#include "store/victims.h"

#include <set>
#include <tuple>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(victims)

namespace {

enum class Policy { kLru, kLfu };

/// Rows as a store would have them, and all of them in order.
class Rows {
 public:
  std::size_t slot_count() const noexcept { return keys_.size(); }
  bool key(Slot slot, EvictionKey& key) const noexcept {
    key = keys_[slot];
    return live_[slot];
  }

  std::size_t size() const { return order_.size(); }
  std::vector<Slot> smallest(std::size_t count, EvictionKey limit = kAnyKey) const {
    std::vector<Slot> slots;
    for (auto at = order_.begin(); at != order_.end() && slots.size() < count && !(limit < at->first); ++at) {
      slots.push_back(at->second);
    }
    return slots;
  }
  EvictionKey key(Slot slot) const { return keys_[slot]; }
  bool live(Slot slot) const { return slot < live_.size() && live_[slot]; }

  Slot insert(EvictionKey key) {
    Slot slot = static_cast<Slot>(keys_.size());
    if (free_.empty()) {
      keys_.push_back(key);
      live_.push_back(true);
    } else {
      slot = free_.back();
      free_.pop_back();
      keys_[slot] = key;
      live_[slot] = true;
    }
    order_.emplace(key, slot);
    return slot;
  }
  void change(Slot slot, EvictionKey key) {
    order_.erase({keys_[slot], slot});
    keys_[slot] = key;
    order_.emplace(key, slot);
  }
  void remove(Slot slot) {
    order_.erase({keys_[slot], slot});
    live_[slot] = false;
    free_.push_back(slot);
  }

 private:
  std::vector<EvictionKey> keys_;
  std::vector<bool> live_;
  std::vector<Slot> free_;
  std::set<std::pair<EvictionKey, Slot>> order_;
};

/// How a stream treats its rows, per step.
struct Traffic {
  Policy policy = Policy::kLru;
  std::size_t rows = 1000;
  std::size_t steps = 20000;
  std::size_t touches = 4, inserts = 1, removals = 0;
  std::size_t evictions = 1;     // taken together, then removed; they keep the number of rows
  bool skewed = false;           // a few rows get most of the touches
  bool any_key = false;          // new rows come with old keys too, as when they are loaded
  std::size_t version_each = 1;  // steps that share a version
  bool prepare = true;
};

class Stream {
 public:
  Stream(const Traffic& traffic, std::uint64_t seed) : t_(traffic), random_(seed) {
    for (std::size_t i = 0; i < t_.rows; ++i) insert();
  }

  /// The first mismatch, or nothing.
  std::string run() { return run(t_.steps); }
  std::string run(std::size_t steps) {
    for (std::size_t step = 0; step < steps; ++step) {
      version_ = 2 + steps_++ / t_.version_each;
      for (std::size_t i = 0; i < t_.touches; ++i) touch();
      for (std::size_t i = 0; i < t_.removals && rows_.size() > 0; ++i) remove_any();
      if (!evict()) return "step " + std::to_string(step) + ": " + what_;
      for (std::size_t i = 0; i < t_.inserts; ++i) insert();
      if (t_.removals > 0) {
        while (rows_.size() < t_.rows) insert();
      }
    }
    return {};
  }

  Rows& rows() { return rows_; }
  Victims& victims() { return victims_; }
  std::uint64_t most_scanned() const { return most_scanned_; }
  void warm() { most_scanned_ = 0; }

 private:
  Slot any_slot() {
    const std::size_t n = rows_.slot_count();
    if (!t_.skewed) return static_cast<Slot>(below(random_, n));
    const double u = static_cast<double>(uniform(random_, 0.0f, 1.0f));
    return static_cast<Slot>(
        std::min(n - 1, static_cast<std::size_t>(u * u * u * u * static_cast<double>(n))));
  }
  void touch() {
    if (rows_.slot_count() == 0) return;
    const Slot slot = any_slot();
    if (!rows_.live(slot)) return;
    const EvictionKey old = rows_.key(slot);
    const std::uint32_t frequency = t_.policy == Policy::kLfu ? std::min(old.frequency + 1, 255u) : 0;
    rows_.change(slot, {frequency, std::max(old.version, version_)});
  }
  void insert() {
    EvictionKey key{t_.policy == Policy::kLfu ? 1u : 0u, version_};
    if (t_.any_key) {
      if (t_.policy == Policy::kLfu) key.frequency = static_cast<std::uint32_t>(below(random_, 20));
      key.version = 1 + below(random_, version_);
    }
    const Slot slot = rows_.insert(key);
    if (t_.prepare) victims_.prepare(rows_.slot_count());
    victims_.note_insert(slot, key);
  }
  void remove_any() {
    const Slot slot = any_slot();
    if (rows_.live(slot)) rows_.remove(slot);
  }
  bool evict() {
    const bool limited = below(random_, 4) == 0;
    const EvictionKey limit =
        limited ? EvictionKey{static_cast<std::uint32_t>(below(random_, 3)), below(random_, version_ + 1)}
                : kAnyKey;
    const std::vector<Slot> expected = rows_.smallest(t_.evictions, limit);
    std::vector<Slot> got;
    for (std::size_t i = 0; i < t_.evictions; ++i) {
      const std::uint64_t before = victims_.scanned();
      const std::optional<Slot> slot = victims_.next(rows_, limit);
      most_scanned_ = std::max(most_scanned_, victims_.scanned() - before);
      if (slot) got.push_back(*slot);
    }
    what_ = byte_difference(got, expected);
    for (const Slot slot : expected) rows_.remove(slot);
    if (!limited) return what_.empty();
    for (std::size_t i = got.size(); i < t_.evictions && t_.removals == 0; ++i) {  // the table stays as large
      const std::optional<Slot> slot = victims_.next(rows_);
      if (slot && rows_.smallest(1) != std::vector<Slot>{*slot}) what_ = "next without the limit";
      if (slot) rows_.remove(*slot);
    }
    return what_.empty();
  }

  Traffic t_;
  Generator random_;
  Rows rows_;
  Victims victims_;
  std::uint64_t steps_ = 0, version_ = 1, most_scanned_ = 0;
  std::string what_;
};

void check_exact(Traffic traffic, const std::string& what) {
  traffic.steps = repeats(traffic.steps);
  for (const Policy policy : {Policy::kLru, Policy::kLfu}) {
    for (const bool skewed : {false, true}) {
      traffic.policy = policy;
      traffic.skewed = skewed;
      Stream stream(traffic, traffic.rows + 7);
      const std::string failure = stream.run();
      BOOST_CHECK_MESSAGE(failure.empty(), what << ", " << traffic.rows << " rows, "
                                                << (policy == Policy::kLru ? "LRU" : "LFU")
                                                << (skewed ? ", skewed: " : ": ") << failure);
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_victim_is_the_smallest_row) {
  for (const std::size_t rows : {1, 2, 17, 191, 192, 193, 300, 1000, 3000}) {
    check_exact({.rows = rows, .steps = 4000}, "one by one");
  }
  check_exact({.rows = 20000, .steps = 8000}, "one by one");
}

BOOST_AUTO_TEST_CASE(of_versions_many_rows_share) {
  check_exact({.rows = 3000, .steps = 6000, .version_each = 500}, "shared versions");
  check_exact({.rows = 20000, .steps = 300, .touches = 200, .inserts = 100, .evictions = 100}, "batches");
}

BOOST_AUTO_TEST_CASE(whatever_keys_new_rows_have) {
  for (const std::size_t rows : {5, 300, 3000, 15000}) {
    check_exact({.rows = rows, .steps = 8000, .any_key = true}, "any key");
    check_exact({.rows = rows, .steps = 2000, .inserts = 7, .evictions = 7, .any_key = true}, "any key, 7");
  }
}

BOOST_AUTO_TEST_CASE(in_churn) {
  check_exact({.rows = 2000, .steps = 1500, .touches = 500}, "most rows touched between victims");
  check_exact({.rows = 2000, .steps = 1500, .touches = 5000}, "all rows touched between victims");
  check_exact({.rows = 10000, .steps = 3000, .touches = 3, .removals = 20}, "removals");
  check_exact({.rows = 5000, .steps = 3000, .removals = 20, .any_key = true}, "removals, any key");
  check_exact({.rows = 3000, .steps = 200, .touches = 10, .removals = 1000, .any_key = true},
              "a third removed");
  check_exact({.rows = 5000, .steps = 300, .removals = 300, .evictions = 200, .any_key = true},
              "removals, many victims at once");
}

BOOST_AUTO_TEST_CASE(in_growing_and_shrinking_tables) {
  check_exact({.rows = 10, .steps = 3000, .inserts = 8}, "growing");
  check_exact({.rows = 10, .steps = 3000, .inserts = 8, .any_key = true}, "growing, any key");
  check_exact({.rows = 20000, .steps = 1200, .touches = 50, .inserts = 1, .evictions = 20},
              "shrinking to none");
}

BOOST_AUTO_TEST_CASE(without_room_prepared) {
  check_exact({.rows = 20000, .steps = 5000, .prepare = false}, "unprepared");
  check_exact({.rows = 20000, .steps = 3000, .any_key = true, .prepare = false}, "unprepared, any key");
}

BOOST_AUTO_TEST_CASE(ties_go_by_slot) {
  Rows rows;
  Victims victims;
  for (int i = 0; i < 5000; ++i) rows.insert({0, 1});
  for (Slot slot = 0; slot < 5000; ++slot) {
    BOOST_REQUIRE(victims.next(rows) == slot);
    rows.remove(slot);
  }
  BOOST_CHECK(!victims.next(rows));
}

BOOST_AUTO_TEST_CASE(a_victim_can_be_handed_back) {
  Rows rows;
  Victims victims;
  for (std::uint64_t version = 1; version <= 3000; ++version) rows.insert({0, version});
  BOOST_CHECK(victims.next(rows) == Slot{0});
  BOOST_CHECK(victims.next(rows) == Slot{1});
  victims.note_insert(0, rows.key(0));
  BOOST_CHECK(victims.next(rows) == Slot{0});
  BOOST_CHECK(victims.next(rows) == Slot{2});
}

BOOST_AUTO_TEST_CASE(no_row_is_taken_twice) {
  Rows rows;
  Victims victims;
  for (std::uint64_t version = 100; version < 110; ++version) rows.insert({0, version});
  BOOST_CHECK(victims.next(rows) == Slot{0});
  rows.remove(0);
  rows.remove(5);  // its slot is used again, below and above what it was, while the heap has the old entry
  victims.note_insert(rows.insert({0, 1}), {0, 1});
  rows.remove(9);
  victims.note_insert(rows.insert({0, 200}), {0, 200});
  std::vector<Slot> taken;  // and none of them removed meanwhile
  while (const std::optional<Slot> slot = victims.next(rows)) taken.push_back(*slot);
  BOOST_CHECK((taken == std::vector<Slot>{5, 1, 2, 3, 4, 6, 7, 8, 9}));
}

BOOST_AUTO_TEST_CASE(smaller_keys_need_clear) {
  Rows rows;
  Victims victims;
  for (std::uint32_t i = 0; i < 3000; ++i) rows.insert({10 + i, 1});
  BOOST_CHECK(victims.next(rows) == Slot{0});
  rows.remove(0);
  for (Slot slot = 1; slot < 3000; ++slot) rows.change(slot, {3000 - slot, 1});
  victims.clear();
  for (Slot slot = 2999; slot > 0; --slot) {
    BOOST_REQUIRE(victims.next(rows) == slot);
    rows.remove(slot);
  }
}

BOOST_AUTO_TEST_CASE(a_limit_below_every_row_costs_nothing) {
  Rows rows;
  Victims victims;
  victims.prepare(50000);
  for (std::uint64_t i = 0; i < 50000; ++i) rows.insert({0, 1000 + i});
  BOOST_CHECK(!victims.next(rows, {0, 999}));
  const std::uint64_t scanned = victims.scanned();
  for (std::uint64_t limit = 0; limit < 1000; ++limit) BOOST_REQUIRE(!victims.next(rows, {0, limit}));
  BOOST_CHECK_EQUAL(victims.scanned(), scanned);
  BOOST_CHECK_LE(scanned, 2 * rows.slot_count());
  BOOST_CHECK(victims.next(rows, {0, 1000}) == Slot{0});
  rows.remove(0);
  BOOST_CHECK(!victims.next(rows, {0, 1000}));

  // An emptied table, too.
  for (Slot slot = 1; slot < 50000; ++slot) rows.remove(slot);
  BOOST_CHECK(!victims.next(rows));
  const std::uint64_t emptied = victims.scanned();
  for (int i = 0; i < 100; ++i) BOOST_REQUIRE(!victims.next(rows));
  BOOST_CHECK_EQUAL(victims.scanned(), emptied);
}

BOOST_AUTO_TEST_CASE(no_call_scans_more_than_its_share) {
  constexpr std::size_t kRows = std::size_t{1} << 15, kWarming = 1000;
  for (const Policy policy : {Policy::kLru, Policy::kLfu}) {
    for (const bool skewed : {false, true}) {
      for (const std::size_t touches : {0, 4, 16}) {
        if (kSanitized && touches != 4) continue;
        Stream stream({.policy = policy, .rows = kRows, .touches = touches, .skewed = skewed}, 3);
        BOOST_CHECK_EQUAL(stream.run(kWarming), "");  // the first victim needs a scan
        stream.warm();
        const std::uint64_t before = stream.victims().scanned();
        BOOST_CHECK_EQUAL(stream.run(kRows), "");
        const double each = static_cast<double>(stream.victims().scanned() - before) / kRows;
        const double most = static_cast<double>(stream.most_scanned()) / kRows;
        BOOST_TEST_MESSAGE((policy == Policy::kLru ? "LRU, " : "LFU, ")
                           << touches << (skewed ? " skewed" : "") << " touches a victim: " << each
                           << " slots a victim, at most " << most << " of the table at once");
        BOOST_CHECK_LE(most, 1.0 / 20);  // 1 / 48 of it a sample
        BOOST_CHECK_LE(each, 400.0);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(memory_is_a_byte_a_row) {
  Victims victims;
  BOOST_CHECK_LE(victims.bytes(), 12288u);
  victims.prepare(std::size_t{1} << 20);
  BOOST_CHECK_LE(victims.bytes(), std::size_t{1} << 20);
  for (std::size_t slots = std::size_t{1} << 20; slots < 1300000; slots += 1000) victims.prepare(slots);
  BOOST_CHECK_LE(victims.bytes(), 1300000u * 5 / 4);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
