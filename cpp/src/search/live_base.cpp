#include "fastinc/live_base.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/runtime.h"
#include "search/lists.h"
#include "search/row_scores.h"
#include "search/row_search.h"
#include "store/row_store.h"

namespace fastinc {

RowsAtVersion rows_at_version(const Table& table) {
  const RowStore& store = table.store();
  RowsAtVersion out;
  out.epoch = store.epoch();
  out.version = store.version();
  out.ids = table.ids();
  std::sort(out.ids.begin(), out.ids.end());
  out.ids.erase(std::unique(out.ids.begin(), out.ids.end()), out.ids.end());  // removed and back meanwhile
  out.weights.resize(out.ids.size() * store.dim());
  store.read(out.ids, out.weights.data());
  return out;
}

/// Rows by list: those of list l are slots[starts[l]] .. slots[starts[l + 1] - 1].
struct LiveBase::Folded {
  std::uint64_t version;
  std::vector<std::size_t> starts;  // (lists + 2,)
  std::vector<Slot> slots;
};

namespace {

/// Slots of rows written at the versions (since, until], ascending and distinct.
std::vector<Slot> written_slots(const RowStore& store, std::uint64_t since, std::uint64_t until) {
  std::vector<Slot> slots;
  if (since >= until) return slots;
  if (!store.changes().written_since(since, until, slots)) {
    for (Slot slot = 0, end = static_cast<Slot>(store.slot_count()); slot < end; ++slot) {
      if (store.row_version(slot) > since) slots.push_back(slot);
    }
    return slots;
  }
  std::sort(slots.begin(), slots.end());
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
  for (const Slot slot : slots) store.prefetch_id(slot);
  std::erase_if(slots, [&](Slot slot) { return store.row_version(slot) <= since; });  // removed since
  return slots;
}

}  // namespace

/// One request. Rows are named by their slots: whose they are by now is seen when they are scored.
class LiveBase::Search {
 public:
  Search(const LiveBase& base, const SearchRequest& request, const IndexAnswer& index)
      : base_(base),
        store_(base.store_),
        request_(request),
        index_(index),
        folded_(base.folded()),  // before the version: it must not be of a newer one
        version_(store_.version()),
        unfolded_(written_slots(store_, folded_->version, version_)),
        filter_(make_filter(request.exclude, request.allow)),
        scores_(store_, kernels(), request.metric, request.queries, request.n) {}

  LiveState state() const {
    const std::size_t fresh = folded_->slots.size() + unfolded_.size(), rows = store_.size();
    const std::size_t unchanged = rows > fresh ? rows - fresh : 0, all = base_.slots_.size();
    return {.version = version_,
            .changed = std::max(fresh, all > unchanged ? all - unchanged : 0),
            .unfolded = unfolded_.size(),
            .everywhere = unfolded_.size() + folded_->slots.size() - folded_->starts[base_.lists_],
            .lacking = lacking_,
            .outdated = base_.outdated()};
  }

  void run(float* scores, std::int64_t* ids) {
    own_.starts.assign(1, 0);
    for (std::size_t q = 0; q < request_.n; ++q) {
      const std::size_t first = own_.values.size();
      maybe_twice_ = false;
      const std::size_t unchanged = add_named(q);
      const bool has_more = index_.asked > 0 && index_.positions[(q + 1) * index_.asked - 1] >= 0;
      lacking_ += has_more && unchanged < request_.k;
      add_folded(q);
      if (maybe_twice_) {
        const auto begin = own_.values.begin() + static_cast<std::ptrdiff_t>(first);
        std::sort(begin, own_.values.end());
        auto end = std::unique(begin, own_.values.end());
        end = std::remove_if(begin, end, [&](Slot slot) {
          return std::binary_search(unfolded_.begin(), unfolded_.end(), slot);
        });
        own_.values.erase(end, own_.values.end());
      }
      own_.starts.push_back(own_.values.size());
    }
    RowSearch rows(store_, scores_, filter_, request_.metric, request_.k, version_);
    const SlotLists lists{.shared = unfolded_.data(), .shared_count = unfolded_.size(), .own = &own_};
    rows.run(lists, 0, request_.n, scores, ids);
  }

 private:
  /// Slots of what the index names, and of what it doesn't know. Returns how many named ones are as they
  /// were.
  std::size_t add_named(std::size_t q) {
    listed_.clear();
    const std::int64_t* const positions = index_.positions + q * index_.asked;
    for (std::size_t i = 0; i < index_.asked; ++i) {
      if (positions[i] >= 0) list(base_.slots_[static_cast<std::size_t>(positions[i])]);
    }
    std::size_t unchanged = 0;
    for (const Slot slot : listed_) {
      unchanged += add(slot, base_.version_) && !filter_.refuses(q, store_.id(slot));
    }
    for (std::size_t i = base_.count_; i < base_.slots_.size(); ++i) add(base_.slots_[i], base_.version_);
    return unchanged;
  }

  void add_folded(std::size_t q) {
    listed_.clear();
    const auto add_list = [&](std::size_t which) {
      const std::size_t end = folded_->starts[which + 1];
      for (std::size_t i = folded_->starts[which]; i < end; ++i) list(folded_->slots[i]);
    };
    if (folded_->slots.empty()) return;
    for (std::size_t i = 0; i < index_.probed; ++i) {
      const std::int64_t which = index_.lists[q * index_.probed + i];
      if (which >= 0) add_list(static_cast<std::size_t>(which));
    }
    for (std::size_t which = 0; index_.lists == nullptr && which < base_.lists_; ++which) add_list(which);
    add_list(base_.lists_);
    for (const Slot slot : listed_) add(slot, folded_->version);
  }

  /// To be asked for its header, which is on its way then.
  void list(Slot slot) {
    if (slot == kNoSlot) return;
    __builtin_prefetch(store_.header(slot));
    listed_.push_back(slot);
  }

  /// A candidate, if it hasn't been written since. Whether it is one, and surely not another of this query's.
  bool add(Slot slot, std::uint64_t since) {
    if (slot == kNoSlot) return false;
    const std::uint64_t version = store_.row_version(slot);
    if (version == 0 || (version > since && version <= version_)) return false;  // gone, or listed elsewhere
    store_.prefetch_row(slot);
    own_.values.push_back(slot);
    maybe_twice_ |= version > since;  // written during the search: it may be listed elsewhere, or not
    return version <= since;
  }

  const LiveBase& base_;
  const RowStore& store_;
  const SearchRequest& request_;
  const IndexAnswer& index_;
  const std::shared_ptr<const Folded> folded_;
  const std::uint64_t version_;
  const std::vector<Slot> unfolded_;
  const RowFilter filter_;
  const RowScores scores_;
  Lists<Slot> own_;
  std::vector<Slot> listed_;
  std::size_t lacking_ = 0;
  bool maybe_twice_ = false;
};

LiveBase::LiveBase(const Table& table, std::span<const std::int64_t> ids, std::size_t count,
                   std::uint64_t version, std::uint64_t epoch, std::size_t lists)
    : store_(table.store()),
      count_(count),
      lists_(lists),
      version_(version),
      epoch_(epoch),
      slots_(ids.size()) {
  if (count > ids.size()) {
    throw std::invalid_argument("count = " + std::to_string(count) + " must be at most the number of ids, " +
                                std::to_string(ids.size()));
  }
  store_.find(ids, slots_.data());
  folded_ = std::make_shared<const Folded>(Folded{version, std::vector<std::size_t>(lists + 2), {}});
}

LiveBase::~LiveBase() = default;

std::size_t LiveBase::dim() const {
  return store_.dim();
}

std::shared_ptr<const LiveBase::Folded> LiveBase::folded() const {
  const std::lock_guard lock(mutex_);
  return folded_;
}

LiveState LiveBase::search(const SearchRequest& request, const IndexAnswer& index, float* scores,
                           std::int64_t* ids) const {
  check_request(request, store_.dim());
  const auto check = [&](const std::int64_t* values, std::size_t n, std::size_t end, const char* name) {
    for (std::size_t i = 0; i < n; ++i) {
      if (values[i] >= -1 && values[i] < static_cast<std::int64_t>(end)) continue;
      throw std::invalid_argument(std::string(name) + " = " + std::to_string(values[i]) +
                                  " must be from -1 to " + std::to_string(end) + " - 1");
    }
  };
  check(index.positions, request.n * index.asked, count_, "position");
  if (index.lists != nullptr) check(index.lists, request.n * index.probed, lists_, "list");
  Search search(*this, request, index);
  search.run(scores, ids);
  return search.state();
}

LiveBase::Unfolded LiveBase::unfolded() const {
  Unfolded out;
  out.version = store_.version();
  out.slots = written_slots(store_, folded()->version, out.version);
  const Kernels& kernel = kernels();
  RowScores::Block block;
  const RowScores rows(store_, kernel, Metric::kIp, nullptr, 0);
  std::vector<float> copies(rows.block_rows() * store_.dim());
  block.rows = copies.data();
  std::size_t size = 0;
  for (std::size_t at = 0; at < out.slots.size(); at += rows.block_rows()) {
    const std::size_t n = std::min(rows.block_rows(), out.slots.size() - at);
    std::copy_n(out.slots.data() + at, n, block.slots);
    rows.load(n, block);
    std::copy_n(block.slots, block.size, out.slots.data() + size);
    out.weights.insert(out.weights.end(), block.rows, block.rows + block.size * store_.dim());
    size += block.size;
  }
  out.slots.resize(size);
  return out;
}

std::size_t LiveBase::count_unfolded() const {
  return written_slots(store_, folded()->version, store_.version()).size();
}

std::size_t LiveBase::count_everywhere() const {
  const std::shared_ptr<const Folded> now = folded();
  return count_unfolded() + now->slots.size() - now->starts[lists_];
}

bool LiveBase::outdated() const {
  return store_.epoch() != epoch_;
}

void LiveBase::fold(std::span<const std::uint32_t> slots, std::span<const std::int64_t> lists,
                    std::uint64_t version) {
  if (slots.size() != lists.size()) {
    throw std::invalid_argument("lists has " + std::to_string(lists.size()) + " values; " +
                                std::to_string(slots.size()) + " slots need as many");
  }
  for (const std::int64_t list : lists) {
    if (list < 0 || list > static_cast<std::int64_t>(lists_)) {
      throw std::invalid_argument("list = " + std::to_string(list) + " must be from 0 to " +
                                  std::to_string(lists_));
    }
  }
  std::vector<Slot> written(slots.begin(), slots.end());
  std::sort(written.begin(), written.end());
  constexpr std::size_t kAhead = 16;
  if (!written.empty() && written.back() >= store_.slot_count()) {
    throw std::invalid_argument("slot = " + std::to_string(written.back()) + " must be less than " +
                                std::to_string(store_.slot_count()));
  }
  if (const auto twice = std::adjacent_find(written.begin(), written.end()); twice != written.end()) {
    throw std::invalid_argument("slot = " + std::to_string(*twice) + " occurs twice");
  }
  const std::shared_ptr<const Folded> old = folded();
  std::vector<bool> is_new(written.empty() ? 0 : std::size_t{written.back()} + 1);
  for (const Slot slot : slots) is_new[slot] = true;
  std::vector<std::pair<std::size_t, Slot>> entries(slots.size());
  for (std::size_t i = 0; i < slots.size(); ++i) entries[i] = {static_cast<std::size_t>(lists[i]), slots[i]};
  std::sort(entries.begin(), entries.end());
  Folded now{version, {0}, {}};
  now.starts.reserve(lists_ + 2);
  now.slots.reserve(old->slots.size() + slots.size());
  const std::vector<Slot>& before = old->slots;
  auto entry = entries.begin();
  for (std::size_t list = 0; list <= lists_; ++list) {
    for (std::size_t i = old->starts[list]; i < old->starts[list + 1]; ++i) {
      if (i + kAhead < before.size()) store_.prefetch_id(before[i + kAhead]);
      const bool replaced = before[i] < is_new.size() && is_new[before[i]];
      if (!replaced && store_.row_version(before[i]) != 0) now.slots.push_back(before[i]);
    }
    for (; entry != entries.end() && entry->first == list; ++entry) now.slots.push_back(entry->second);
    now.starts.push_back(now.slots.size());
  }
  auto made = std::make_shared<const Folded>(std::move(now));
  const std::lock_guard lock(mutex_);
  folded_ = std::move(made);
}

std::size_t LiveBase::count_fresh() const {
  std::size_t count = 0;
  for (Slot slot = 0, end = static_cast<Slot>(store_.slot_count()); slot < end; ++slot) {
    count += store_.row_version(slot) > version_;
  }
  return count;
}

std::size_t LiveBase::bytes() const {
  const std::shared_ptr<const Folded> now = folded();
  return slots_.capacity() * sizeof(Slot) + now->starts.capacity() * sizeof(std::size_t) +
         now->slots.capacity() * sizeof(Slot);
}

}  // namespace fastinc
