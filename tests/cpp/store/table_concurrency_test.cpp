// Readers and writers at once. Every row is a function of the table's version, so that a reader can tell a
// state that never was. Checked with ThreadSanitizer as well.
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <mutex>
#include <thread>

#include "fastinc/exact_search.h"
#include "fastinc/table.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(table_concurrency)

namespace {

constexpr auto kDuration = std::chrono::milliseconds(2000);
constexpr std::size_t kDim = 24, kRows = 3000;

/// Boost's checks are for one thread: the first failure is kept and told at the end.
class Failure {
 public:
  void unless(bool holds, const char* what) {
    if (holds) return;
    const std::lock_guard lock(mutex_);
    if (first_.empty()) first_ = what;
    failed_ = true;
  }
  bool failed() const { return failed_; }
  const std::string& first() const { return first_; }

 private:
  std::mutex mutex_;
  std::string first_;
  std::atomic<bool> failed_{false};
};

bool all_equal(const float* x, std::size_t n, float value) {
  return std::all_of(x, x + n, [value](float v) { return v == value; });
}

/// Ids 0 .. kRows - 1: each update adds 1 to every weight of them all, so that version v has rows of v. Other
/// ids, whose rows hold one value each, are loaded and removed meanwhile.
struct Shared {
  Table table{kDim, std::make_shared<Optimizer>(SgdParams{.lr = 1.0}), {}};
  std::vector<std::int64_t> ids;
  std::vector<float> minus_ones = std::vector<float>(kRows * kDim, -1.0f);
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> reads{0};
  std::atomic<std::uint64_t> others{0};  // versions that loads and removals took, or are about to
  Failure failure;

  Shared() {
    for (std::size_t i = 0; i < kRows; ++i) ids.push_back(static_cast<std::int64_t>(i));
    table.update(ids, minus_ones.data(), NonFinite::kRaise);
  }
  bool running() const { return !stop && !failure.failed(); }
};

void write(Shared& s) {
  while (s.running()) s.table.update(s.ids, s.minus_ones.data(), NonFinite::kRaise);
}

/// n rows of kDim equal values each: none is a mixture of two states.
bool whole(const float* rows, std::size_t n) {
  for (std::size_t r = 0; r < n; ++r) {
    if (!all_equal(rows + r * kDim, kDim, rows[r * kDim])) return false;
  }
  return true;
}

/// Every row is whole, never older than before, and of a version that was current during the call.
void read_rows(Shared& s) {
  std::vector<float> rows(kRows * kDim), last(kRows, 0.0f);
  while (s.running()) {
    const auto before = static_cast<double>(s.table.version());
    s.table.lookup(s.ids, rows.data());
    const auto after = static_cast<double>(s.table.version());
    s.failure.unless(whole(rows.data(), kRows), "lookup: a torn row");
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto value = static_cast<double>(rows[r * kDim]);
      s.failure.unless(rows[r * kDim] >= last[r], "lookup: older than the one before");
      s.failure.unless(value <= after + 1.0, "lookup: newer than the batch at work");
      s.failure.unless(value + static_cast<double>(s.others) >= before,
                       "lookup: older than an update that had returned");
      last[r] = rows[r * kDim];
    }
    ++s.reads;
  }
}

void read_codes_and_bags(Shared& s) {
  constexpr std::size_t kBytes = kDim + kQuantizedTail;
  const std::vector<std::int64_t> some(s.ids.begin(), s.ids.begin() + 500), offsets = {0, 100, 300};
  std::vector<std::uint8_t> codes(some.size() * kBytes);
  std::vector<float> rows(some.size() * kDim), bags(offsets.size() * kDim);
  while (s.running()) {
    s.table.lookup_quantized(some, codes.data());
    dequantize_rowwise(codes.data(), some.size(), kDim, rows.data());
    s.failure.unless(whole(rows.data(), some.size()), "codes: a torn row");
    s.table.pool(some, offsets, PoolMode::kMean, nullptr, bags.data());
    s.failure.unless(whole(bags.data(), offsets.size()), "pool: a torn row");
    s.failure.unless(bags[0] >= *std::min_element(rows.begin(), rows.end()),
                     "bags older than codes read before");
    ++s.reads;
  }
}

void read_states(Shared& s) {
  while (s.running()) {
    const TableState state = s.table.export_state();
    for (std::size_t r = 0; r < state.ids.size(); ++r) {
      const float* row = state.weights.data() + r * kDim;
      s.failure.unless(all_equal(row, kDim, row[0]), "export: a torn row");
      s.failure.unless(state.row_versions[r] <= state.version, "export: a row newer than the table");
      if (state.ids[r] >= static_cast<std::int64_t>(kRows)) continue;
      s.failure.unless(row[0] == state.weights[0], "export: rows of several versions");
      s.failure.unless(state.row_versions[r] == state.row_versions[0], "export: row versions differ");
    }
    const Changes changes = s.table.changes(state.version);
    s.failure.unless(changes.version >= state.version, "changes: older than the export");
    s.failure.unless(changes.updated.size() <= kRows + 100, "changes: more rows than there are");
    ++s.reads;
  }
}

void search(Shared& s) {
  const std::vector<float> query(kDim, 1.0f);
  std::vector<float> scores(5);
  std::vector<std::int64_t> found(5);
  SearchRequest request;
  request.queries = query.data();
  request.n = 1;
  request.k = 5;
  while (s.running()) {
    const std::uint64_t before = s.table.version();
    exact_search(s.table, request, scores.data(), found.data());
    // the loaded rows are negative: the best are among the others, each a whole number in every column
    for (std::size_t j = 0; j < 5; ++j) {
      s.failure.unless(found[j] >= 0 && found[j] < static_cast<std::int64_t>(kRows),
                       "search: not the best rows");
      s.failure.unless(std::fmod(scores[j], static_cast<float>(kDim)) == 0.0f, "search: a torn row");
      s.failure.unless(static_cast<double>(scores[j]) + kDim * static_cast<double>(s.others) >=
                           kDim * static_cast<double>(before),
                       "search: older than an update that had returned");
    }
    ++s.reads;
  }
}

void load_and_remove(Shared& s) {
  Generator random(5);
  std::vector<std::int64_t> ids(100);
  std::vector<float> vectors(ids.size() * kDim), rows(ids.size() * kDim);
  while (s.running()) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<std::int64_t>(kRows + i + below(random, 50) * 1000);
      std::fill_n(&vectors[i * kDim], kDim, -static_cast<float>(ids[i]));
    }
    s.others += 2;
    s.table.load(ids, vectors.data());
    s.table.lookup(ids, rows.data());  // this thread alone writes them
    s.failure.unless(rows == vectors, "a load isn't seen by the next lookup");
    const std::size_t gone = s.table.remove(ids);
    s.failure.unless(gone == ids.size(), "a loaded row is gone");
    s.table.lookup(ids, rows.data());
    s.failure.unless(all_equal(rows.data(), rows.size(), 0.0f), "a removed row is still there");
  }
}

void tune(Shared& s) {
  const std::vector<std::string> isas = available_isas();
  for (std::size_t round = 0; s.running(); ++round) {
    set_num_threads(1 + static_cast<int>(round % 4));
    set_isa(isas[round % isas.size()]);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(readers_see_whole_rows_and_what_has_returned) {
  const UseThreads restore_threads(2);
  const UseIsa restore_isa(available_isas().back());
  Shared shared;
  std::vector<std::thread> threads;
  for (const auto work : {write, write, read_rows, read_rows, read_codes_and_bags, read_states, search,
                          load_and_remove, tune}) {
    threads.emplace_back(work, std::ref(shared));
  }
  std::this_thread::sleep_for(kDuration);
  shared.stop = true;
  for (std::thread& thread : threads) thread.join();
  BOOST_CHECK_MESSAGE(!shared.failure.failed(), shared.failure.first());
  BOOST_CHECK_GT(shared.table.version(), 10u);
  BOOST_CHECK_GT(shared.reads.load(), 10u);
  std::vector<float> rows(kRows * kDim);
  shared.table.lookup(shared.ids, rows.data());
  BOOST_CHECK_EQUAL(static_cast<double>(rows[0]) + static_cast<double>(shared.others),
                    static_cast<double>(shared.table.version()));
}

namespace {

/// Ids of a table move to other slots all the time: each is removed, another takes its slot, and it comes
/// back.
void move_rows(Shared& s) {
  Generator random(4);
  const std::vector<float> row(kDim, -1.0f);
  const auto add = [&](std::int64_t id) { s.table.update({&id, 1}, row.data(), NonFinite::kRaise); };
  const auto drop = [&](std::int64_t id) { s.table.remove({&id, 1}); };
  while (s.running()) {
    const auto moved = static_cast<std::int64_t>(below(random, kRows / 2));
    const auto other = static_cast<std::int64_t>(kRows + below(random, kRows));
    drop(moved);
    add(other);
    add(moved);
    drop(static_cast<std::int64_t>(kRows + below(random, kRows)));
  }
}

bool distinct(std::vector<std::int64_t> ids) {
  std::sort(ids.begin(), ids.end());
  return std::adjacent_find(ids.begin(), ids.end()) == ids.end();
}

void walk(Shared& s) {
  const std::vector<float> query(kDim, 1.0f);
  const std::size_t k = 2 * kRows;
  std::vector<float> scores(k);
  std::vector<std::int64_t> found(k);
  SearchRequest request{.queries = query.data(), .n = 1, .k = k};
  while (s.running()) {
    s.failure.unless(distinct(s.table.ids()), "ids(): an id twice");
    const std::uint64_t version = s.table.version();
    s.failure.unless(distinct(s.table.changes(version > 500 ? version - 500 : 0).updated),
                     "changes(): an id twice");
    for (const bool only : {false, true}) {
      request.allow.reset();
      if (only) request.allow = IdLists{s.ids, {}};
      exact_search(s.table, request, scores.data(), found.data());
      std::vector<std::int64_t> ids = found;
      std::erase(ids, -1);
      s.failure.unless(distinct(ids), "exact_search: an id twice");
      for (const std::int64_t id : ids) {
        s.failure.unless(!only || id < static_cast<std::int64_t>(kRows),
                         "exact_search: an id that wasn't asked for");
      }
    }
    ++s.reads;
  }
}

}  // namespace

/// The copies are made while others write, read and ask for them, too.
BOOST_AUTO_TEST_CASE(codes_are_those_of_the_rows_whoever_asks_first) {
  std::vector<std::int64_t> ids(300);
  std::iota(ids.begin(), ids.end(), 0);
  const std::vector<float> grads(ids.size() * kDim, -0.25f);
  const Initializer ones{InitializerKind::kConstant, 1.0f, 0.0f, 1};
  for (std::size_t round = 0; round < repeats(200); ++round) {
    Table table(kDim, std::make_shared<Optimizer>(SgdParams{.lr = 1.0}), ones);
    table.update(std::span(ids).first(100), grads.data(), NonFinite::kRaise);
    Failure failure;
    std::vector<std::thread> threads;
    for (std::size_t writer = 0; writer < 2; ++writer) {
      threads.emplace_back([&, writer] {
        for (std::size_t n = 0; n < 10; ++n) {
          table.update(std::span(ids).subspan(100 * writer, 100 + 10 * n), grads.data(), NonFinite::kRaise);
          table.remove(std::span(ids).subspan(n, 2));
        }
      });
    }
    for (std::size_t reader = 0; reader < 2; ++reader) {
      threads.emplace_back([&] {
        std::vector<std::uint8_t> codes(ids.size() * (kDim + kQuantizedTail));
        std::vector<float> rows(ids.size() * kDim);
        table.lookup_quantized(ids, codes.data());
        dequantize_rowwise(codes.data(), ids.size(), kDim, rows.data());
        // 1 at first, and .25 less with every step up: never 0, as copies are that nobody has made yet
        for (std::size_t i = 0; i < ids.size(); ++i) {
          const float value = rows[i * kDim];
          failure.unless(
              value != 0.0f && std::fmod(value, 0.25f) == 0.0f && all_equal(&rows[i * kDim], kDim, value),
              "codes: not those of a row");
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    BOOST_REQUIRE_MESSAGE(!failure.failed(), failure.first());
    std::vector<float> rows(ids.size() * kDim);
    std::vector<std::uint8_t> codes(ids.size() * (kDim + kQuantizedTail)), expected(codes.size());
    table.lookup(ids, rows.data());
    table.lookup_quantized(ids, codes.data());
    quantize_rowwise(rows.data(), ids.size(), kDim, expected.data());
    BOOST_REQUIRE(codes == expected);
  }
}

BOOST_AUTO_TEST_CASE(an_id_that_moves_is_named_once_and_its_slot_is_not_mistaken) {
  Shared s;
  std::thread writer(move_rows, std::ref(s)), first(walk, std::ref(s)), second(walk, std::ref(s));
  std::this_thread::sleep_for(kDuration);
  s.stop = true;
  for (std::thread* thread : {&writer, &first, &second}) thread->join();
  BOOST_CHECK_MESSAGE(!s.failure.failed(), s.failure.first());
  BOOST_CHECK_GT(s.reads.load(), 5u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
