#include "store/id_index.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <unordered_map>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(id_index)

namespace {

/// The ids that an index looks up in the rows.
struct FakeRows {
  std::vector<std::int64_t> ids;
  std::int64_t id(Slot slot) const { return ids[slot]; }
  void prefetch_id(Slot) const {}
};

struct Indexed {
  explicit Indexed(std::size_t slots) { rows.ids.resize(slots); }
  FakeRows rows;
  IdIndex index{0x123456789abcdefull};

  Slot find(std::int64_t id) const {
    return index.find(index.hash(id), [&](Slot slot) { return rows.ids[slot] == id; });
  }
  void insert(std::int64_t id, Slot slot) {
    rows.ids[slot] = id;
    index.insert(index.hash(id), slot, rows);
  }
  void erase(std::int64_t id, Slot slot) { index.erase(index.hash(id), slot); }
};

}  // namespace

BOOST_AUTO_TEST_CASE(random_operations_against_a_map) {
  constexpr std::size_t kSlots = 60000;
  Indexed it(kSlots);
  std::unordered_map<std::int64_t, Slot> model;
  std::vector<Slot> free(kSlots);
  for (std::size_t i = 0; i < kSlots; ++i) free[i] = static_cast<Slot>(i);
  std::vector<std::int64_t> there;
  Generator random(3);
  for (int k = 0; k < 250000; ++k) {
    const bool shrink = (k / 50000) % 2 == 1;
    if (!free.empty() && random() % 4 < (shrink ? 1u : 3u)) {
      const auto id = static_cast<std::int64_t>(random());
      if (!model.emplace(id, free.back()).second) continue;
      BOOST_REQUIRE_EQUAL(it.find(id), kNoSlot);
      it.insert(id, free.back());
      free.pop_back();
      there.push_back(id);
    } else if (!there.empty()) {
      std::swap(there[random() % there.size()], there.back());
      const auto found = model.find(there.back());
      BOOST_REQUIRE_EQUAL(it.find(found->first), found->second);
      it.erase(found->first, found->second);
      free.push_back(found->second);
      BOOST_REQUIRE_EQUAL(it.find(found->first), kNoSlot);
      model.erase(found);
      there.pop_back();
    }
  }
  bool same = true;
  for (const auto& [id, slot] : model) same = same && it.find(id) == slot;
  BOOST_CHECK(same);
  BOOST_CHECK_GT(model.size(), 1000u);
  it.index.clear();
  for (const auto& [id, slot] : model) same = same && it.find(id) == kNoSlot;
  BOOST_CHECK(same);
  BOOST_CHECK_EQUAL(it.index.load(), 0.0);
}

BOOST_AUTO_TEST_CASE(takes_at_most_11_bytes_an_id) {
  constexpr std::size_t kRows = 300000;
  Indexed it(kRows);
  double worst = 0.0;
  for (std::size_t i = 0; i < kRows; ++i) {
    it.insert(static_cast<std::int64_t>(i) - 7, static_cast<Slot>(i));
    if (i > 100000) worst = std::max(worst, static_cast<double>(it.index.bytes()) / static_cast<double>(i));
  }
  BOOST_CHECK_LT(worst, 11.0);
  BOOST_CHECK_LT(it.index.load(), 0.75);
  BOOST_CHECK_GT(it.index.load(), 0.58);
}

BOOST_AUTO_TEST_CASE(ids_that_are_there_are_found_while_others_come_and_go) {
  constexpr std::size_t kKept = 5000, kSlots = 200000;
  Indexed it(kSlots);
  for (std::size_t i = 0; i < kKept; ++i) it.insert(static_cast<std::int64_t>(i), static_cast<Slot>(i));
  std::atomic<bool> stop{false}, lost{false};
  std::atomic<std::size_t> reads{0};
  const auto read = [&] {
    while (!stop) {
      for (std::size_t i = 0; i < kKept; ++i) {
        // a slot below kKept is never given to another id: whose it is can be told without its row
        const auto id = static_cast<std::int64_t>(i);
        if (it.index.find(it.index.hash(id), [&](Slot slot) { return slot == i; }) != i) lost = true;
      }
      ++reads;
    }
  };
  std::thread first(read), second(read);
  Generator random(9);
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
  std::size_t rounds = 0;
  while (std::chrono::steady_clock::now() < end || rounds < 3) {
    const std::int64_t base = static_cast<std::int64_t>(random() >> 2) + 1000000;
    const std::size_t count = rounds == 0 ? kSlots - kKept : 20000;
    for (std::size_t i = 0; i < count; ++i) {
      it.insert(base + static_cast<std::int64_t>(i), static_cast<Slot>(kKept + i));
    }
    for (std::size_t i = 0; i < count; ++i) {
      it.erase(base + static_cast<std::int64_t>(i), static_cast<Slot>(kKept + i));
    }
    ++rounds;
  }
  stop = true;
  first.join();
  second.join();
  BOOST_CHECK(!lost);
  BOOST_CHECK_GT(reads.load(), 2u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
