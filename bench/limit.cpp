// What the memory can do: the rows of a batch alone, in the order they come, with the best prefetch. No
// sorting, no state, no gradients: no exact update can be faster than update_rows on the same ids, as long as
// few of them repeat. add_rows reads the gradients too, as every update must. Compiled on first use by
// limit.py, for the CPU it runs on.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace {

// Threads that wait between calls. Work is claimed in pieces, so that the caller isn't idle while the others
// wake up.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }

  ~Pool() {
    stop_ = true;
    start();
    for (std::thread& worker : workers_) worker.join();
  }

  // Calls task(context, begin, end) for pieces of [0, count).
  void run(void (*task)(void*, std::size_t, std::size_t), void* context, std::size_t count,
           std::size_t piece) {
    if (workers_.empty() || count <= piece) {
      task(context, 0, count);
      return;
    }
    task_ = task;
    context_ = context;
    count_ = count;
    piece_ = piece;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    start();
    claim();
    while (busy_.load(std::memory_order_acquire) != 0) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

 private:
  void start() {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }

  void claim() {
    for (;;) {
      const std::size_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
      if (begin >= count_) return;
      task_(context_, begin, begin + piece_ < count_ ? begin + piece_ : count_);
    }
  }

  void work() {
    std::uint32_t seen = 0;
    for (;;) {
      epoch_.wait(seen, std::memory_order_acquire);
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_) return;
      claim();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::atomic<std::uint32_t> epoch_{0};
  std::atomic<std::size_t> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
  void (*task_)(void*, std::size_t, std::size_t) = nullptr;
  void* context_ = nullptr;
  std::size_t count_ = 0;
  std::size_t piece_ = 0;
  std::vector<std::thread> workers_;
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> instance = std::make_unique<Pool>(1);
  return instance;
}

constexpr std::size_t kPiece = 1024;         // ids
constexpr std::size_t kCopyPiece = 4 << 20;  // bytes
constexpr std::size_t kLine = 64 / sizeof(float);

struct Rows {
  float* weights;
  std::size_t dim;
  const std::int64_t* ids;
  std::size_t distance;  // how many ids ahead rows are fetched
  float delta;
  float* out;
  const float* grads;
  std::atomic<float>* total;
};

template <int ForWriting>
inline void fetch(const Rows& rows, std::size_t at, std::size_t end) {
  if (at >= end) return;
  const float* row = rows.weights + static_cast<std::size_t>(rows.ids[at]) * rows.dim;
  for (std::size_t i = 0; i < rows.dim; i += kLine) __builtin_prefetch(row + i, ForWriting, 3);
}

// Kernel(row, out row): the loops below are compiled for dim 64 and 128, and for any other.
template <int ForWriting, std::size_t Dim, class Kernel>
void each_row(const Rows& rows, std::size_t begin, std::size_t end, Kernel kernel) {
  const std::size_t dim = Dim != 0 ? Dim : rows.dim;
  for (std::size_t ahead = begin; ahead < begin + rows.distance; ++ahead) fetch<ForWriting>(rows, ahead, end);
  for (std::size_t at = begin; at < end; ++at) {
    fetch<ForWriting>(rows, at + rows.distance, end);
    kernel(rows.weights + static_cast<std::size_t>(rows.ids[at]) * dim, at, dim);
  }
}

template <int ForWriting, class Kernel>
void each_row(const Rows& rows, std::size_t begin, std::size_t end, Kernel kernel) {
  if (rows.dim == 64) {
    each_row<ForWriting, 64>(rows, begin, end, kernel);
  } else if (rows.dim == 128) {
    each_row<ForWriting, 128>(rows, begin, end, kernel);
  } else {
    each_row<ForWriting, 0>(rows, begin, end, kernel);
  }
}

void update_piece(void* context, std::size_t begin, std::size_t end) {
  const Rows& rows = *static_cast<Rows*>(context);
  const float delta = rows.delta;
  each_row<1>(rows, begin, end, [delta](float* row, std::size_t, std::size_t dim) {
    for (std::size_t i = 0; i < dim; ++i) row[i] += delta;
  });
}

void add_piece(void* context, std::size_t begin, std::size_t end) {
  const Rows& rows = *static_cast<Rows*>(context);
  const float* grads = rows.grads;
  each_row<1>(rows, begin, end, [grads](float* row, std::size_t at, std::size_t dim) {
    const float* grad = grads + at * dim;
    for (std::size_t i = 0; i < dim; ++i) row[i] += grad[i];
  });
}

void gather_piece(void* context, std::size_t begin, std::size_t end) {
  const Rows& rows = *static_cast<Rows*>(context);
  float* out = rows.out;
  each_row<0>(rows, begin, end, [out](const float* row, std::size_t at, std::size_t dim) {
    std::memcpy(out + at * dim, row, dim * sizeof(float));
  });
}

// A vector that may begin anywhere. Four sums of them: GCC makes a slow shuffle of the same loop over plain
// floats.
typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
constexpr std::size_t kLanes = sizeof(Lanes) / sizeof(float);

void read_piece(void* context, std::size_t begin, std::size_t end) {
  const Rows& rows = *static_cast<Rows*>(context);
  Lanes sum0{}, sum1{}, sum2{}, sum3{};
  float rest = 0;
  each_row<0>(rows, begin, end, [&](const float* row, std::size_t, std::size_t dim) {
    std::size_t i = 0;
    for (; i + 4 * kLanes <= dim; i += 4 * kLanes) {
      const Lanes* lanes = reinterpret_cast<const Lanes*>(row + i);
      sum0 += lanes[0];
      sum1 += lanes[1];
      sum2 += lanes[2];
      sum3 += lanes[3];
    }
    for (; i < dim; ++i) rest += row[i];
  });
  const Lanes sums = (sum0 + sum1) + (sum2 + sum3);
  for (std::size_t lane = 0; lane < kLanes; ++lane) rest += sums[lane];
  rows.total->fetch_add(rest, std::memory_order_relaxed);
}

struct Read {
  const std::uint64_t* from;
  std::atomic<std::uint64_t> total;
};

void read_bytes_piece(void* context, std::size_t begin, std::size_t end) {
  auto& read = *static_cast<Read*>(context);
  std::uint64_t sums[8] = {};
  for (std::size_t word = begin / 8; word + 8 <= end / 8; word += 8) {
    for (std::size_t i = 0; i < 8; ++i) sums[i] += read.from[word + i];
    __builtin_prefetch(read.from + word + 512);
  }
  for (std::size_t i = 1; i < 8; ++i) sums[0] += sums[i];
  read.total.fetch_add(sums[0], std::memory_order_relaxed);
}

struct Copy {
  char* to;
  const char* from;
};

void copy_piece(void* context, std::size_t begin, std::size_t end) {
  const Copy& copy = *static_cast<Copy*>(context);
  std::memcpy(copy.to + begin, copy.from + begin, end - begin);
}

}  // namespace

extern "C" {

void set_threads(int threads) {
  pool().reset();
  pool() = std::make_unique<Pool>(threads);
}

// Adds delta to each element of each row in ids. Rows that repeat may lose some of it: there is no lock.
void update_rows(float* weights, std::size_t dim, const std::int64_t* ids, std::size_t count,
                 std::size_t distance, float delta) {
  Rows rows{weights, dim, ids, distance, delta, nullptr, nullptr, nullptr};
  pool()->run(update_piece, &rows, count, kPiece);
}

// Adds row i of grads (count x dim) to the row of id i. Rows that repeat may lose some of it, as above.
void add_rows(float* weights, std::size_t dim, const std::int64_t* ids, std::size_t count,
              std::size_t distance, const float* grads) {
  Rows rows{weights, dim, ids, distance, 0, nullptr, grads, nullptr};
  pool()->run(add_piece, &rows, count, kPiece);
}

// Copies the rows in ids to out (count x dim).
void gather_rows(float* weights, std::size_t dim, const std::int64_t* ids, std::size_t count,
                 std::size_t distance, float* out) {
  Rows rows{weights, dim, ids, distance, 0, out, nullptr, nullptr};
  pool()->run(gather_piece, &rows, count, kPiece);
}

// Returns the sum of all elements of the rows in ids.
float read_rows(float* weights, std::size_t dim, const std::int64_t* ids, std::size_t count,
                std::size_t distance) {
  std::atomic<float> total{0};
  Rows rows{weights, dim, ids, distance, 0, nullptr, nullptr, &total};
  pool()->run(read_piece, &rows, count, kPiece);
  return total.load();
}

// Returns the sum of all 8-byte words: a read of every byte.
std::uint64_t read_bytes(const void* from, std::size_t bytes) {
  Read read{static_cast<const std::uint64_t*>(from), {0}};
  pool()->run(read_bytes_piece, &read, bytes, kCopyPiece);
  return read.total.load();
}

void copy_bytes(void* to, const void* from, std::size_t bytes) {
  Copy copy{static_cast<char*>(to), static_cast<const char*>(from)};
  pool()->run(copy_piece, &copy, bytes, kCopyPiece);
}
}
