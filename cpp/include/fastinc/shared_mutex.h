// A lock for many readers or one writer that lets both sides in.
#pragma once

#include <atomic>
#include <mutex>
#include <shared_mutex>

namespace fastinc {

/// std::shared_mutex may prefer readers, and glibc's does: two threads that always read keep a writer out for
/// good. Here readers that come while a writer waits stand behind it, and a writer that comes next stands
/// behind them. A thread that holds the lock must not ask for it again, not even to read.
class SharedMutex {
 public:
  void lock() {
    const std::lock_guard turn(gate_);
    writer_waits_ = true;
    mutex_.lock();
    writer_waits_ = false;
  }
  bool try_lock() {
    const std::unique_lock turn(gate_, std::try_to_lock);
    return turn.owns_lock() && mutex_.try_lock();
  }
  void unlock() { mutex_.unlock(); }

  void lock_shared() {
    if (writer_waits_) {
      const std::lock_guard turn(gate_);  // the writer has the lock by now
    }
    mutex_.lock_shared();
  }
  void unlock_shared() { mutex_.unlock_shared(); }

 private:
  std::mutex gate_;  // held by the writer that is next, until it has the lock
  std::atomic<bool> writer_waits_{false};
  std::shared_mutex mutex_;
};

}  // namespace fastinc
