// When a call into the engine gives up the GIL.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "fastinc/table.h"

namespace fastinc::bindings {

/// Runs work() without the GIL: it may wait for another thread's batch, and no Python thread should wait with
/// it. Not a destructor's job: taking the GIL back at interpreter exit ends a daemon thread by unwinding it.
template <class Work>
auto without_gil(Work&& work) {
  using Result = std::invoke_result_t<Work>;
  std::exception_ptr error;
  PyThreadState* const state = PyEval_SaveThread();
  if constexpr (std::is_void_v<Result>) {
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
    PyEval_RestoreThread(state);
    if (error) std::rethrow_exception(error);
  } else {
    std::optional<Result> result;
    try {
      result.emplace(work());
    } catch (...) {
      error = std::current_exception();
    }
    PyEval_RestoreThread(state);
    if (error) std::rethrow_exception(error);
    return std::move(*result);
  }
}

/// Work up to which a call keeps the GIL. So much takes a few microseconds on one thread, about what waking
/// another thread takes: nobody gets to run sooner by being let in. But whoever gives the GIL up under many
/// threads queues to get it back, for longer than the work itself took.
inline constexpr std::size_t kSmallWork = 4096;

/// Work of a call in floats touched; finding an id's row costs about as much as this many of them.
inline std::size_t work_of(std::size_t ids, std::size_t floats) {
  constexpr std::size_t kFloatsPerId = 32;
  return ids > kSmallWork ? ids : ids * kFloatsPerId + floats;
}

/// Runs work(), which waits for no other thread, with the GIL where it is small, else without.
template <class Work>
auto call_engine(std::size_t size, Work&& work) {
  if (size <= kSmallWork) return work();
  return without_gil(std::forward<Work>(work));
}

/// Runs work(turn) as a table's writer: with the GIL where it is small and no other thread is writing, for
/// none may wait for another's batch with the GIL in hand; else without.
template <class Work>
auto call_writer(Table& table, std::size_t size, Work&& work) {
  // a table that gives up rows may look at all of them for the next
  if (size <= kSmallWork && !table.bounds().evicts()) {
    if (WriteTurn turn = table.try_write(); turn.owns_lock()) return work(std::move(turn));
  }
  return without_gil([&] { return work(WriteTurn()); });
}

}  // namespace fastinc::bindings
