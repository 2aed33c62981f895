#include "cpu/threads.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "fastinc/runtime.h"

namespace fastinc {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::size_t kFloatsPerThread = 16384;  // about 10 us of work: less isn't worth waking a thread

/// CPUs this process may use.
int cpu_count() {
#if defined(__linux__)
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return CPU_COUNT(&cpus);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count == 0 ? 1 : static_cast<int>(count);
}

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Keeps sleeping threads off the CPU of the one that wakes them. Linux may wake a thread where it last ran
/// although that is our own CPU and another idles: it then gets to run when we are done, at half the speed.
class Placement {
 public:
#if defined(__linux__)
  /// A worker, as it starts.
  void start() { known_ = pthread_getaffinity_np(pthread_self(), sizeof allowed_, &allowed_) == 0; }
  /// A worker, before it sleeps.
  void note_cpu() { cpu_.store(sched_getcpu(), std::memory_order_relaxed); }
  /// Whoever wakes it, while it sleeps.
  void keep_off(int cpu, std::thread& worker) {
    if (cpu < 0 || cpu != cpu_.load(std::memory_order_relaxed) || !known_) return;
    cpu_set_t others = allowed_;
    CPU_CLR(static_cast<std::size_t>(cpu), &others);
    if (CPU_COUNT(&others) > 0) pthread_setaffinity_np(worker.native_handle(), sizeof others, &others);
  }
  static int here() { return sched_getcpu(); }

 private:
  cpu_set_t allowed_{};
  bool known_ = false;
  std::atomic<int> cpu_{-1};
#else
  void start() {}
  void note_cpu() {}
  void keep_off(int, std::thread&) {}
  static int here() { return -1; }
#endif
};

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads), spin_(threads <= cpu_count()) {
    try {
      workers_.reserve(static_cast<std::size_t>(threads - 1));
      placements_ = std::make_unique<Placement[]>(static_cast<std::size_t>(threads - 1));
      for (std::size_t i = 0; i + 1 < static_cast<std::size_t>(threads); ++i) {
        workers_.emplace_back([this, i] { work(placements_[i]); });
      }
    } catch (const std::exception&) {
      // The system has no more threads or memory to give: the same work, on those there are. An exception
      // here would leave a caller's update half done.
    }
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// As many as were asked for.
  int threads() const { return threads_; }

  void run(std::size_t count, void (*task)(void*, std::size_t) noexcept, void* context) {
    bool wake = false;
    {
      const std::lock_guard lock(mutex_);
      task_ = task;
      context_ = context;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_relaxed);
      wake = sleeping_ > 0;
      if (wake && spin_) {
        const int here = Placement::here();
        for (std::size_t i = 0; i < workers_.size(); ++i) placements_[i].keep_off(here, workers_[i]);
      }
    }
    if (wake) wake_.notify_all();
    drain(count, task, context);
    {
      const std::lock_guard lock(mutex_);
      task_ = nullptr;  // a worker that wakes late finds nothing to do
    }
    spin_until([this] { return busy_.load(std::memory_order_acquire) == 0; });
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void drain(std::size_t count, void (*task)(void*, std::size_t) noexcept, void* context) {
    for (std::size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, i);
  }

  /// Watch for a little while before going to sleep: an update has several parallel steps, and waking a
  /// thread takes longer than a short one.
  template <class Condition>
  void spin_until(Condition done) const {
    if (!spin_ || done()) return;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::microseconds(30);
    do {
      for (int i = 0; i < 32; ++i) {
        if (done()) return;
        relax();
      }
    } while (std::chrono::steady_clock::now() < give_up);
  }

  void work(Placement& placement) {
    std::uint64_t seen = 0;
    placement.start();
    for (;;) {
      spin_until([&] { return generation_.load(std::memory_order_relaxed) != seen; });
      std::unique_lock lock(mutex_);
      placement.note_cpu();
      ++sleeping_;
      wake_.wait(lock, [&] { return stopping_ || (generation_ != seen && task_ != nullptr); });
      --sleeping_;
      if (stopping_) return;
      seen = generation_;
      const auto task = task_;
      void* const context = context_;
      const std::size_t count = count_;
      ++busy_;
      lock.unlock();
      drain(count, task, context);
      lock.lock();
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  const int threads_;
  const bool spin_;  // where threads have a CPU each
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> workers_;
  std::unique_ptr<Placement[]> placements_;  // one a worker
  std::atomic<std::size_t> next_{0};
  void (*task_)(void*, std::size_t) noexcept = nullptr;
  void* context_ = nullptr;
  std::size_t count_ = 0;
  int sleeping_ = 0;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> busy_{0};
  bool stopping_ = false;
};

int default_threads() {
  if (const char* text = std::getenv("FASTINC_NUM_THREADS"); text != nullptr && *text != '\0') {
    const std::string_view digits(text);
    int count = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), count);
    if (error != std::errc() || end != digits.data() + digits.size() || count < 1 || count > kMaxThreads) {
      throw std::invalid_argument("FASTINC_NUM_THREADS = '" + std::string(text) +
                                  "' must be a whole number from 1 to 1024");
    }
    return count;
  }
  return cpu_count();
}

struct State {
  std::atomic<bool> in_use{
      false};  // by the call that has the pool; not a mutex, for a nested call asks as well
  std::unique_ptr<Pool> pool;
  std::atomic<int> threads;

  explicit State(int count) : threads(count) {}
};

/// The pool for as long as this lives, if nobody has it.
class Turn {
 public:
  explicit Turn(std::atomic<bool>& in_use) : in_use_(in_use), mine_(!in_use.exchange(true)) {}
  ~Turn() {
    if (mine_) in_use_ = false;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  bool mine() const { return mine_; }

 private:
  std::atomic<bool>& in_use_;
  const bool mine_;
};

// Never destroyed: daemon threads of the caller may still be in a call while the process exits. After a fork
// the child has none of the threads, so it leaves the parent's pool alone and starts its own.
std::atomic<State*> state_pointer{nullptr};

State& state() {
  // Not std::call_once: it hangs in some libraries when the first call throws, as State's constructor may.
  static const bool started = [] {
    state_pointer = new State(default_threads());
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { state_pointer = new State(state_pointer.load()->threads); });
#endif
    return true;
  }();
  static_cast<void>(started);
  return *state_pointer;
}

}  // namespace

void run_tasks(std::size_t count, void (*task)(void*, std::size_t) noexcept, void* context) {
  State& shared = state();
  if (count > 1 && shared.threads > 1) {
    const Turn turn(shared.in_use);
    if (turn.mine()) {
      const int threads = shared.threads;
      if (shared.pool == nullptr || shared.pool->threads() != threads) {
        shared.pool = nullptr;
        try {
          shared.pool = std::make_unique<Pool>(threads);
        } catch (const std::exception&) {
          // no memory for a pool: the work is done here all the same
        }
      }
      if (shared.pool != nullptr) {
        shared.pool->run(count, task, context);
        return;
      }
    }
  }
  for (std::size_t i = 0; i < count; ++i) task(context, i);
}

std::size_t parts_for(std::size_t floats) {
  constexpr std::size_t kFloatsPerPart = 4 * kFloatsPerThread, kPartsPerThread = 8;
  const std::size_t threads = threads_for(floats);
  if (threads == 1) return 1;
  return std::clamp(floats / kFloatsPerPart, threads, kPartsPerThread * threads);
}

std::size_t threads_for(std::size_t floats) {
  const std::size_t worthwhile = floats / kFloatsPerThread;
  const auto threads = static_cast<std::size_t>(state().threads.load());
  return worthwhile < 1 ? 1 : (worthwhile < threads ? worthwhile : threads);
}

int num_threads() {
  return state().threads;
}

void set_num_threads(int count) {
  if (count < 1 || count > kMaxThreads) {
    throw std::invalid_argument("num_threads = " + std::to_string(count) + " must be from 1 to 1024");
  }
  state().threads = count;
}

std::string number_text(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

std::size_t checked_multiply(std::size_t a, std::size_t b, const char* what) {
  std::size_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    throw std::overflow_error(std::string(what) + ": " + std::to_string(a) + " x " + std::to_string(b) +
                              " doesn't fit the address space");
  }
  return product;
}

}  // namespace fastinc
