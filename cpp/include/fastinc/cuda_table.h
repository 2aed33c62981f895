// The growing table of fastinc/table.h in device memory: the same rows in the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fastinc/cuda_ops.h"
#include "fastinc/table.h"

namespace fastinc::cuda {

class TableStore;

/// Weights, optimizer state, int8 copies, versions, which rows go and what is exported are those that
/// fastinc::Table comes to by the same calls. Arrays are in memory of `device` where a Stream is passed, else
/// on the host.
///
/// Calls of many threads take turns, and those on different streams are ordered on the device: each sees the
/// ones before it whole. A call that says "waits" waits, in its middle, for its stream to come to it; what it
/// writes may still be under way when it returns, as that of the others. Arrays must stay as they are until
/// then, by the stream's order. No call can be captured in a CUDA graph.
///
/// Errors are those of fastinc::Table, and leave the table as it was. Too little device memory throws
/// OutOfDeviceMemory, a std::bad_alloc.
class Table {
 public:
  /// Throws std::invalid_argument for bounds with min_count > 1, too.
  Table(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init,
        const TableBounds& bounds = {}, int device = 0);
  ~Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  std::size_t dim() const;
  std::size_t size() const;
  std::uint64_t version() const;
  Initializer initializer() const;
  TableBounds bounds() const;
  int device() const;

  /// ids: (n,) -> out: (n, dim). An unknown id gets its start row; nothing is allocated for it.
  void lookup(const std::int64_t* ids, std::size_t n, float* out, Stream stream) const;

  /// ids: (n,) -> out: (n, dim + 8) int8 serving copies; an unknown id gets its quantised start row.
  void lookup_quantized(const std::int64_t* ids, std::size_t n, std::uint8_t* out, Stream stream) const;

  /// Sum or mean (or weighted sum) of rows per bag. Waits.
  ///   ids: (n,), offsets: (bags,) first position of each bag, non-decreasing, weights: (n,) or nullptr
  ///   out: (bags, dim); an empty bag is zero
  void pool(const std::int64_t* ids, std::size_t n, const std::int64_t* offsets, std::size_t bags,
            PoolMode mode, const float* weights, float* out, Stream stream) const;

  /// ids: (n,) -> out: (n,) 1 where the id has a row
  void contains(const std::int64_t* ids, std::size_t n, bool* out, Stream stream) const;

  /// One optimizer step per distinct id; unknown ids get a row first. grads: (n, dim). Waits; a second time
  /// where rows have to go.
  /// Returns the rows skipped under NonFinite::kSkip.
  std::size_t update(const std::int64_t* ids, std::size_t n, const float* grads, NonFinite policy,
                     Stream stream);

  /// Set rows as they are, optimizer state fresh; the last of repeated ids wins. vectors: (n, dim), finite.
  /// Waits as update() does.
  void load(const std::int64_t* ids, std::size_t n, const float* vectors, Stream stream);

  /// Returns how many of the ids had a row. Waits.
  std::size_t remove(const std::int64_t* ids, std::size_t n, Stream stream);

  /// Give up every row whose time is over; updates and loads do so for some at a time. Returns how many.
  /// Waits where there may be some.
  std::size_t expire();

  /// A batch that changed nothing here counts, too: the version is one more.
  void advance();

  // These give host memory, and wait for all that was called before.

  std::vector<std::int64_t> ids() const;

  /// Throws std::invalid_argument when since > version().
  Changes changes(std::uint64_t since) const;

  TableState export_state() const;
  /// Replaces everything. Throws std::invalid_argument, unchanged, when the parts don't fit together.
  void import_state(const TableStateView& state);

  /// Bytes by part, as fastinc::Table's, and "scratch": of device memory, held for rows or not.
  std::vector<std::pair<std::string, std::size_t>> memory_usage() const;

  /// Counters by name, those of fastinc::Table.
  std::vector<std::pair<std::string, std::uint64_t>> stats() const;

  /// How full the index's places are, 0 to 1; places of rows that went are full until it is made anew.
  double load_factor() const;

  /// For the engine's own use.
  TableStore& store() const { return *store_; }

 private:
  std::unique_ptr<TableStore> store_;
};

}  // namespace fastinc::cuda
