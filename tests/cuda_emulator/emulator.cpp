#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

#if defined(__x86_64__)
/// Saves what a call keeps on this stack and goes on with another.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");
#endif

namespace emulator {
namespace {

constexpr unsigned kWarp = 32, kMostThreads = 1024;
constexpr std::size_t kStack = 256 << 10;
constexpr unsigned kRounds = 4;  // meetings whose results are kept

enum class State : std::uint8_t { kReady, kMeeting, kBlock, kDone };

struct Fiber {
#if defined(__x86_64__)
  void* context = nullptr;
#else
  ucontext_t context;
#endif
  void* fake_stack = nullptr;  // of the address sanitizer
  char* stack = nullptr;
  State state = State::kDone;
  unsigned mask = 0;
  Meeting meeting = Meeting::kNone;
  std::uint64_t brought = 0;
  const std::uint64_t* result = nullptr;
};

struct Warp {
  std::uint64_t results[kRounds * kWarp][kWarp];
  unsigned next = 0;
};

struct Machine {
  std::mutex mutex;  // one launch at a time
  std::vector<Fiber> fibers = std::vector<Fiber>(kMostThreads);
  std::vector<Warp> warps = std::vector<Warp>(kMostThreads / kWarp);
  Fiber host;
  const std::function<void()>* body = nullptr;
  unsigned count = 0, current = 0, waiting = 0, alive = 0;
  std::vector<unsigned char> shared;
  std::minstd_rand random{1};

  ~Machine() {
    for (Fiber& fiber : fibers) {
      if (fiber.stack != nullptr) munmap(fiber.stack, kStack);
    }
  }
};

Machine& machine() {
  static Machine the_machine;
  return the_machine;
}

#if defined(__SANITIZE_ADDRESS__)
const void* host_bottom = nullptr;  // of the stack that fibers go back to
std::size_t host_size = 0;
#endif

void switch_fibers(Fiber& from, Fiber& to, bool for_good = false) {
#if defined(__SANITIZE_ADDRESS__)
  const bool to_host = &to == &machine().host;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to_host ? host_bottom : to.stack,
                                 to_host ? host_size : kStack);
#endif
  (void)for_good;
#if defined(__x86_64__)
  emulator_switch(&from.context, to.context);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  if (&from == &machine().host) {
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
  } else {
    __sanitizer_finish_switch_fiber(from.fake_stack, &host_bottom, &host_size);
  }
#endif
}

void set_position(unsigned thread) {
  machine().current = thread;
  threadIdx = dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y);
}

void back_to_host() {
  Machine& m = machine();
  const unsigned me = m.current;
  switch_fibers(m.fibers[me], m.host);
  set_position(me);
}

void fiber_main() {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &host_bottom, &host_size);
#endif
  (*m.body)();
  Fiber& me = m.fibers[m.current];
  me.state = State::kDone;
  --m.alive;
  switch_fibers(me, m.host, true);
  fail("a thread ran on after its end");
}

void start(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    void* const memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for a thread's stack");
    fiber.stack = static_cast<char*>(memory);
  }
  fiber.state = State::kReady;
  fiber.fake_stack = nullptr;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(fiber.stack + kStack) - 3;
  *top = nullptr;  // where fiber_main() would return to: the stack is aligned as after a call
  *--top = reinterpret_cast<void*>(&fiber_main);
  fiber.context = top - 6;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
#endif
}

/// If every lane that the mask names has come to this meeting, they go on.
void try_meeting(unsigned thread) {
  Machine& m = machine();
  const unsigned first = thread / kWarp * kWarp;
  const Fiber& mine = m.fibers[thread];
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((mine.mask >> l & 1u) == 0) continue;
    if (first + l >= m.count) fail("a mask names lanes that the block doesn't have");
    const Fiber& other = m.fibers[first + l];
    if (other.state == State::kDone) fail("a mask names a lane that has ended");
    if (other.state != State::kMeeting || other.meeting != mine.meeting || other.mask != mine.mask) return;
  }
  Warp& warp = m.warps[thread / kWarp];
  std::uint64_t* const result = warp.results[warp.next++ % (kRounds * kWarp)];
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((mine.mask >> l & 1u) == 0) continue;
    Fiber& other = m.fibers[first + l];
    result[l] = other.brought;
    other.result = result;
  }
  const unsigned mask = mine.mask;
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((mask >> l & 1u) != 0) m.fibers[first + l].state = State::kReady;
  }
}

void release_block() {
  Machine& m = machine();
  for (unsigned t = 0; t < m.count; ++t) {
    if (m.fibers[t].state == State::kBlock) m.fibers[t].state = State::kReady;
  }
  m.waiting = 0;
}

void stuck() {
  const char* names[] = {"is ready", "waits in its warp", "waits at __syncthreads", "has ended"};
  Machine& m = machine();
  for (unsigned t = 0; t < m.count; ++t) {
    std::fprintf(stderr, "thread %u %s\n", t, names[static_cast<int>(m.fibers[t].state)]);
  }
  fail("no thread can go on");
}

void run_block(const std::vector<unsigned>& order) {
  Machine& m = machine();
  for (unsigned t = 0; t < m.count; ++t) start(m.fibers[t]);
  m.alive = m.count;
  m.waiting = 0;
  while (m.alive > 0) {
    bool moved = false;
    for (const unsigned t : order) {
      if (m.fibers[t].state != State::kReady) continue;
      moved = true;
      set_position(t);
      switch_fibers(m.host, m.fibers[t]);
      if (m.waiting > 0 && m.waiting == m.alive) release_block();
    }
    if (!moved) stuck();
  }
}

/// Warps in some order, and lanes in some order within each.
void shuffle_threads(std::vector<unsigned>& order, unsigned count) {
  Machine& m = machine();
  std::vector<unsigned> warps((count + kWarp - 1) / kWarp);
  std::iota(warps.begin(), warps.end(), 0u);
  std::shuffle(warps.begin(), warps.end(), m.random);
  order.clear();
  for (const unsigned warp : warps) {
    const auto begin = static_cast<std::ptrdiff_t>(order.size());
    for (unsigned t = warp * kWarp; t < std::min(count, (warp + 1) * kWarp); ++t) order.push_back(t);
    std::shuffle(order.begin() + begin, order.end(), m.random);
  }
}

}  // namespace

void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s (block %u, thread %u)\n", what, blockIdx.x, machine().current);
  std::signal(SIGABRT, SIG_DFL);  // a test framework that went on from here would leave the launch half done
  std::abort();
}

unsigned lane() {
  return machine().current % kWarp;
}

unsigned char* dynamic_shared() {
  return machine().shared.data();
}

void sync_block() {
  Machine& m = machine();
  m.fibers[m.current].state = State::kBlock;
  ++m.waiting;
  back_to_host();
}

void maybe_yield() {
  if (machine().random() % 4 == 0) back_to_host();
}

const std::uint64_t* meet(unsigned mask, std::uint64_t brought, Meeting meeting) {
  Machine& m = machine();
  const unsigned thread = m.current;
  Fiber& me = m.fibers[thread];
  if ((mask >> thread % kWarp & 1u) == 0) fail("a mask doesn't name the lane itself");
  me.mask = mask;
  me.meeting = meeting;
  me.brought = brought;
  me.state = State::kMeeting;
  try_meeting(thread);
  if (me.state != State::kReady) back_to_host();
  return me.result;
}

void copy16(void* to, const void* from) {
  constexpr std::uintptr_t kBytes = 16;
  if (reinterpret_cast<std::uintptr_t>(to) % kBytes != 0 ||
      reinterpret_cast<std::uintptr_t>(from) % kBytes != 0) {
    fail("a copy of 16 bytes isn't aligned");
  }
  std::memcpy(to, from, kBytes);
}

void multiply_u8_s8(int (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct Fragments {
    unsigned a[4], b[2];
  };
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const std::uint64_t* const all = meet(0xffffffffu, pack(&mine), Meeting::kMatrix);
  const unsigned group = lane() / 4, in_group = lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = group, half = i / 2, column = in_group * 2 + i % 2;
    std::uint32_t sum = static_cast<std::uint32_t>(sums[i]);  // wraps, as it does there
    for (unsigned t = 0; t < 4; ++t) {
      const unsigned* const row_codes = unpack<const Fragments*>(all[row * 4 + t])->a;
      const unsigned* const column_codes = unpack<const Fragments*>(all[column * 4 + t])->b;
      for (unsigned part = 0; part < 2; ++part) {
        const unsigned x = row_codes[half + 2 * part], y = column_codes[part];
        for (unsigned shift = 0; shift < 32; shift += 8) {
          sum += static_cast<std::uint32_t>(static_cast<std::uint8_t>(x >> shift) *
                                            static_cast<std::int8_t>(y >> shift));
        }
      }
    }
    sums[i] = static_cast<int>(sum);
  }
  meet(0xffffffffu, 0, Meeting::kMatrix);  // what the others read stays until they have
}

void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body) {
  Machine& m = machine();
  const std::lock_guard lock(m.mutex);
  m.count = block.x * block.y * block.z;
  if (m.count == 0 || m.count > kMostThreads || grid.x == 0 || grid.y > 65535 || grid.z > 65535) {
    fail("a launch has a size that no device takes");
  }
  m.body = &body;
  blockDim = block;
  gridDim = grid;
  std::vector<unsigned> order;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        m.shared.assign(shared_bytes, 0xa5);
        shuffle_threads(order, m.count);
        run_block(order);
      }
    }
  }
}

}  // namespace emulator
