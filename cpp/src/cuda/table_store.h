// A table in device memory: what the host knows of it, and the calls that change it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/batch.h"
#include "cuda/device_array.h"
#include "cuda/device_index.h"
#include "cuda/removed_log.h"
#include "cuda/row_pages.h"
#include "cuda/selection.h"
#include "cuda/table_reads.h"
#include "cuda/victim_queue.h"
#include "fastinc/cuda_search.h"
#include "fastinc/cuda_table.h"
#include "store/moments.h"

namespace fastinc::cuda {

struct TopkPlan;

/// Memory of the host that the device copies to.
class Mailbox {
 public:
  Mailbox() { check(cudaMallocHost(&report_, sizeof *report_), "cudaMallocHost"); }
  ~Mailbox() { (void)cudaFreeHost(report_); }
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  /// Waits for the stream to come to it.
  BatchReport read(const BatchReport* device, cudaStream_t stream);

 private:
  BatchReport* report_ = nullptr;
};

/// Says when what was called last is done.
class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// The host knows how many rows and slots there are and which version it is: calls that change them wait,
/// once their batch is looked at and before anything is written. So all that can be refused or fail comes
/// before the first write, and nothing grows for ids that turn out to be repeats.
class TableStore {
 public:
  TableStore(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init,
             const TableBounds& bounds, int device);

  std::size_t dim() const { return dim_; }
  const Initializer& initializer() const { return init_; }
  const TableBounds& bounds() const { return bounds_; }
  int device() const { return device_; }
  std::size_t size();
  std::uint64_t version();

  void lookup(const std::int64_t* ids, std::size_t n, float* out, cudaStream_t stream);
  void lookup_quantized(const std::int64_t* ids, std::size_t n, std::uint8_t* out, cudaStream_t stream);
  void pool(const std::int64_t* ids, std::size_t n, const std::int64_t* offsets, std::size_t bags,
            PoolMode mode, const float* weights, float* out, cudaStream_t stream);
  void contains(const std::int64_t* ids, std::size_t n, bool* out, cudaStream_t stream);
  /// plan: of scans; null: the library's
  std::uint64_t search(const CudaSearchRequest& request, const TopkPlan* plan, float* scores,
                       std::int64_t* ids, cudaStream_t stream);
  std::size_t update(const std::int64_t* ids, std::size_t n, const float* grads, NonFinite policy,
                     cudaStream_t stream);
  void load(const std::int64_t* ids, std::size_t n, const float* vectors, cudaStream_t stream);
  std::size_t remove(const std::int64_t* ids, std::size_t n, cudaStream_t stream);
  std::size_t expire();
  void advance();

  std::vector<std::int64_t> ids();
  Changes changes(std::uint64_t since);
  TableState export_state();
  void import_state(const TableStateView& state);
  std::vector<std::pair<std::string, std::size_t>> memory_usage();
  std::vector<std::pair<std::string, std::uint64_t>> stats();
  double load_factor();

 private:
  /// One call at a time, on one device, after those before it on whatever streams.
  class Turn {
   public:
    Turn(TableStore& store, cudaStream_t stream);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    TableStore& store_;
    const std::lock_guard<std::mutex> lock_;
    const DeviceGuard guard_;
    const cudaStream_t stream_;
  };

  /// What a batch will do, once all of it is sure to succeed.
  struct Plan {
    std::size_t evicted = 0;  // for new rows
    std::size_t chosen = 0;   // to be evicted, now or by later batches, if the queue is too short
    std::size_t fresh = 0;    // slots beyond those there are
    std::uint64_t last_expired = 0;
    std::size_t most_expired = 0;
  };

  bool counts_uses() const { return bounds_.eviction == Eviction::kLfu; }
  std::size_t state_floats() const { return shape_.floats(dim_); }
  ReadView read_view() { return {index_.view(), pages_.view(), init_, hits_.data()}; }
  void check_length(std::size_t n) const;

  /// What is known of a batch before it is written.
  struct Looked {
    BatchReport report{};
    Plan plan;
  };

  template <class Refuse>
  Looked look_at(const Batch& batch, std::uint32_t finite_bits, cudaStream_t stream, Refuse refuse);
  Batch begin_batch(const std::int64_t* ids, std::size_t n, const float* grads, cudaStream_t stream);
  void make_room(const Batch& batch, cudaStream_t stream);
  std::uint64_t look_for_expired(BatchReport* report, cudaStream_t stream);
  Plan plan(const Batch& batch, BatchReport& report, std::uint64_t last_expired, cudaStream_t stream);
  void undo(const Batch& batch, std::size_t entered, cudaStream_t stream);
  void make_rows(const Batch& batch, const BatchReport& report, const Plan& plan, std::uint64_t version,
                 cudaStream_t stream);
  void finish(const Batch& batch, const Plan& plan, std::uint64_t version, cudaStream_t stream);
  std::size_t expire_rows(const Plan& plan, BatchReport* report, std::uint64_t version, cudaStream_t stream);
  void reserve_removal(std::size_t to_log, std::size_t to_free, std::size_t to_select, cudaStream_t stream);
  const std::uint32_t* choose_victims(const Batch& batch, const Plan& plan, std::uint64_t version,
                                      cudaStream_t stream);
  void remove_rows(const std::uint32_t* slots, std::size_t count, bool frees, std::uint64_t version,
                   cudaStream_t stream);
  void check_gradients(const std::int64_t* ids, std::size_t n, const float* grads, cudaStream_t stream) const;
  Candidates candidates(std::uint64_t last) const {
    return {pages_.view(), slot_count_, last, counts_uses()};
  }
  template <class Visit>
  void for_each_live(std::uint64_t after, cudaStream_t stream, Visit visit);
  std::vector<std::int64_t> ids_after(std::uint64_t version, cudaStream_t stream);
  std::vector<std::int64_t> absent(std::vector<std::int64_t> ids, cudaStream_t stream);

  const std::size_t dim_;
  const std::shared_ptr<Optimizer> optimizer_;
  const Initializer init_;
  const TableBounds bounds_;
  const int device_;
  const StateShape shape_;
  std::mutex mutex_;

  RowPages pages_;
  DeviceIndex index_;
  DeviceArray<std::uint32_t> free_;  // slots of rows that went: the last is used first
  RemovedLog removed_;
  VictimQueue victims_;
  Moments moments_;
  DeviceArray<unsigned long long> hits_;
  DeviceArray<std::byte> scratch_, selection_;
  std::unique_ptr<Mailbox> mailbox_;
  std::unique_ptr<Event> done_;

  std::size_t size_ = 0, slot_count_ = 0, free_count_ = 0;
  std::uint64_t version_ = 0;
  std::uint64_t expired_through_ = 0;  // there are no rows of versions up to this
  struct {
    std::uint64_t lookups = 0, inserts = 0, removes = 0, evictions = 0, skipped = 0;
  } counters_;
};

/// Memory for at least so many bytes. What was in it is lost.
void reserve_bytes(DeviceArray<std::byte>& memory, std::size_t bytes, const char* what);

}  // namespace fastinc::cuda
