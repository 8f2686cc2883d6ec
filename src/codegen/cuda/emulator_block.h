// One block at a time: its threads, who runs next, barriers and collectives. A part of emulator.h.
#pragma once

namespace moec_emu {

enum class Order { kForward, kReverse, kRandom, kStep };

struct Options {
  Order order = Order::kForward;
  uint64_t seed = 1;
  bool late = true;
};

inline long long environment_number(const char* name, long long otherwise) {
  const char* text = getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : atoll(text);
}

inline Options read_options() {
  Options options;
  const char* order = getenv("MOEC_EMULATE_ORDER");
  if (order == nullptr || *order == '\0' || strcmp(order, "fwd") == 0) {
    options.order = Order::kForward;
  } else if (strcmp(order, "rev") == 0) {
    options.order = Order::kReverse;
  } else if (strcmp(order, "step") == 0) {
    options.order = Order::kStep;
  } else if (strncmp(order, "rand", 4) == 0 && (order[4] == '\0' || order[4] == ':')) {
    options.order = Order::kRandom;
    if (order[4] == ':') options.seed = strtoull(order + 5, nullptr, 10);
  } else {
    fprintf(stderr, "moec emulator: MOEC_EMULATE_ORDER=%s: want fwd, rev, rand, rand:<seed> or step\n", order);
    abort();
  }
  options.late = environment_number("MOEC_EMULATE_LATE", 1) != 0;
  return options;
}

enum class State : unsigned char { kReady, kBarrier, kCollective, kMbarrier, kDone };

/** A copy of 16 bytes into shared memory by cp.async; source null means zeros. */
struct PendingCopy {
  unsigned char* destination;
  const void* source;
  uint64_t group;
};

struct Fiber {
  Context context;
  uint3 index = {};
  unsigned linear = 0;
  unsigned lane = 0;
  unsigned warp = 0;
  State state = State::kReady;
  /** What it waits for: the barrier's number, or the mbarrier's offset in shared memory. */
  unsigned waits_for = 0;
  const char* waits_in = "";
  /** The line of the barrier it waits at. */
  int line = 0;
  std::vector<PendingCopy> copies;
  uint64_t copy_group = 0;
  /** 16-byte granules it wrote and has not fenced towards the asynchronous proxy. */
  std::vector<uint32_t> unfenced;
};

struct NamedBarrier {
  unsigned arrived = 0;
  /** Threads it waits for; 0: all that have not exited. */
  unsigned expected = 0;
};

/** Does the work of a collective for all threads in it; `args[i]` is what thread i of the warp or warpgroup handed in. */
typedef void (*CollectiveWork)(void* const* args, uint32_t lanes);

struct WarpCollective {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  CollectiveWork work = nullptr;
  const char* name = "";
  void* args[32];
};

struct GroupCollective {
  unsigned arrived = 0;
  CollectiveWork work = nullptr;
  const char* name = "";
  void* args[128];
};

constexpr unsigned kNamedBarriers = 16;
constexpr unsigned kCollectivesPerWarp = 4;

struct Block {
  const char* kernel = "?";
  uint3 index = {};
  dim3 size;
  dim3 grid;
  unsigned threads = 0;
  unsigned alive = 0;
  size_t shared_bytes = 0;
  Options options;
  std::vector<Fiber> fibers;
  /** Ring of fibers that can run. */
  std::vector<unsigned> ready;
  unsigned ready_first = 0;
  unsigned ready_count = 0;
  NamedBarrier barriers[kNamedBarriers];
  std::vector<WarpCollective> warp_collectives;
  std::vector<GroupCollective> group_collectives;
  /** Per warp: lanes that have exited. */
  std::vector<uint32_t> exited;
  /** Copies of the copy engine that have not happened yet, oldest first. */
  std::vector<std::function<void()>> engine;
  Context caller;
  void (*entry)(void*) = nullptr;
  void* entry_argument = nullptr;
  uint64_t random = 1;
  /** Atomics since a thread last let others run. */
  unsigned spins = 0;
};

// Plain globals: launches are serialised by a lock, and all fibers of a launch run on the OS thread that launched.
inline Block* block = nullptr;
inline Fiber* current = nullptr;

// ---------------------------------------------------------------- faults

/** One line per run of neighbouring threads that wait for the same thing. */
inline void print_threads() {
  constexpr unsigned kLines = 12;
  unsigned lines = 0;
  const Block& b = *block;
  for (unsigned i = 0; i < b.threads;) {
    const Fiber& f = b.fibers[i];
    unsigned end = i + 1;
    while (end < b.threads && b.fibers[end].state == f.state && b.fibers[end].waits_for == f.waits_for &&
           b.fibers[end].waits_in == f.waits_in) {
      end++;
    }
    if (++lines > kLines) {
      fprintf(stderr, "  ...\n");
      return;
    }
    fprintf(stderr, "  threads %u..%u: ", i, end - 1);
    switch (f.state) {
      case State::kReady: fprintf(stderr, "can run\n"); break;
      case State::kDone: fprintf(stderr, "have exited\n"); break;
      case State::kCollective: fprintf(stderr, "wait for others in %s\n", f.waits_in); break;
      case State::kMbarrier: fprintf(stderr, "wait for the mbarrier at shared offset %u\n", f.waits_for); break;
      case State::kBarrier:
        fprintf(stderr, "wait at barrier %u (%u arrived), line %d\n", f.waits_for, b.barriers[f.waits_for].arrived, f.line);
        break;
    }
    i = end;
  }
}

/** Ends the process: the kernel does what a GPU would hang or go wrong on. */
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fault(const char* format, ...) {
  fprintf(stderr, "moec emulator: ");
  va_list list;
  va_start(list, format);
  vfprintf(stderr, format, list);
  va_end(list);
  fprintf(stderr, "\n");
  if (block != nullptr) {
    fprintf(stderr, "  in kernel %s, block (%u, %u, %u)", block->kernel, block->index.x, block->index.y, block->index.z);
    if (current != nullptr) fprintf(stderr, ", thread %u", current->linear);
    fprintf(stderr, "\n");
    print_threads();
  }
  fflush(stderr);
  abort();
}

// ---------------------------------------------------------------- who runs next

inline uint64_t random_number() {
  uint64_t& x = block->random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}
inline bool random_bit() { return (random_number() >> 33 & 1) != 0; }

inline void push_back(unsigned i) {
  Block& b = *block;
  b.fibers[i].state = State::kReady;
  b.ready[(b.ready_first + b.ready_count) % b.ready.size()] = i;
  b.ready_count++;
}

inline void push_front(unsigned i) {
  Block& b = *block;
  b.fibers[i].state = State::kReady;
  b.ready_first = b.ready_first == 0 ? (unsigned)b.ready.size() - 1 : b.ready_first - 1;
  b.ready[b.ready_first] = i;
  b.ready_count++;
}

/** Puts threads into the order in which they shall run. `ids` come in ascending order. */
inline void arrange(std::vector<unsigned>& ids) {
  if (block->options.order == Order::kReverse) {
    for (size_t i = 0; i < ids.size() / 2; i++) std::swap(ids[i], ids[ids.size() - 1 - i]);
  }
  if (block->options.order == Order::kRandom) {
    for (size_t i = ids.size(); i > 1; i--) std::swap(ids[i - 1], ids[random_number() % i]);
  }
}

/** Lets `ids` run after all that can run now. */
inline void release_behind(std::vector<unsigned>& ids) {
  arrange(ids);
  for (unsigned i : ids) push_back(i);
}

/** Lets `ids` run before all others, so that one warp gets as far ahead as it can; not where the order is to keep them abreast. */
inline void release_ahead(std::vector<unsigned>& ids) {
  const Order order = block->options.order;
  if (order == Order::kStep || (order == Order::kRandom && random_bit())) return release_behind(ids);
  arrange(ids);
  for (size_t i = ids.size(); i > 0; i--) push_front(ids[i - 1]);
}

/** Lets one pending copy of the copy engine happen. Copies have no order among themselves. */
inline void run_engine_once() {
  Block& b = *block;
  size_t which = 0;
  if (b.options.order == Order::kReverse) which = b.engine.size() - 1;
  if (b.options.order == Order::kRandom) which = random_number() % b.engine.size();
  const std::function<void()> copy = std::move(b.engine[which]);
  b.engine.erase(b.engine.begin() + (ptrdiff_t)which);
  copy();
}

/** Leaves the current context and runs the next fiber that can; returns when this one's turn comes again. */
inline void run_next(Context& from, bool ends = false) {
  Block& b = *block;
  b.spins = 0;
  if (b.options.order == Order::kRandom && !b.engine.empty() && random_number() % 16 == 0) run_engine_once();
  while (b.ready_count == 0) {
    if (b.alive == 0) {
      current = nullptr;
      switch_context(from, b.caller, ends);
      return;
    }
    if (b.engine.empty()) {
      current = nullptr;
      fault("deadlock: no thread can run");
    }
    run_engine_once();
  }
  Fiber& next = b.fibers[b.ready[b.ready_first]];
  b.ready_first = (b.ready_first + 1) % (unsigned)b.ready.size();
  b.ready_count--;
  current = &next;
  if (&next.context == &from) return;
  switch_context(from, next.context, ends);
}

inline void wait_in(State state, const char* name, unsigned waits_for = 0) {
  Fiber& me = *current;
  me.state = state;
  me.waits_in = name;
  me.waits_for = waits_for;
  run_next(me.context);
}

// ---------------------------------------------------------------- barriers

/** The lanes of warp `w` that have not exited. */
inline uint32_t live_lanes(unsigned w) {
  const unsigned lanes = block->threads - w * 32;
  const uint32_t all = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
  return all & ~block->exited[w];
}

inline void release_barrier(unsigned id) {
  Block& b = *block;
  std::vector<unsigned> ids;
  for (unsigned w = 0; w < b.exited.size(); w++) {
    uint32_t here = 0;
    int line = -1;
    for (unsigned i = w * 32; i < b.threads && i < w * 32 + 32; i++) {
      const Fiber& f = b.fibers[i];
      if (f.state != State::kBarrier || f.waits_for != id) continue;
      // Barriers are instructions of a whole warp; lanes that meet at different ones have diverged.
      if (line != -1 && line != f.line) fault("barrier %u: lanes of warp %u wait at lines %d and %d", id, w, line, f.line);
      line = f.line;
      here |= 1u << f.lane;
      ids.push_back(i);
    }
    if (here != 0 && here != live_lanes(w)) fault("barrier %u: only lanes %08x of warp %u reach it", id, here, w);
  }
  b.barriers[id] = NamedBarrier{};
  release_behind(ids);
}

inline void wait_at_barrier(unsigned id, unsigned expected, int line) {
  if (id >= kNamedBarriers) fault("barrier %u: there are %u", id, kNamedBarriers);
  if (expected % 32 != 0) fault("barrier %u: %u threads are no whole warps", id, expected);
  NamedBarrier& barrier = block->barriers[id];
  if (barrier.arrived > 0 && barrier.expected != expected) {
    fault("barrier %u: one thread expects %u threads, another %u", id, barrier.expected, expected);
  }
  barrier.expected = expected;
  barrier.arrived++;
  Fiber& me = *current;
  me.line = line;
  me.state = State::kBarrier;
  me.waits_for = id;
  me.waits_in = "barrier";
  if (barrier.arrived == (expected == 0 ? block->alive : expected)) release_barrier(id);
  run_next(me.context);
}

// ---------------------------------------------------------------- collectives

inline void finish_warp_collective(unsigned w, WarpCollective& c) {
  c.work(c.args, c.arrived);
  const uint32_t lanes = c.arrived;
  c.mask = 0;
  c.arrived = 0;
  std::vector<unsigned> ids;
  ids.reserve(32);
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const unsigned i = w * 32 + (unsigned)__builtin_ctz(rest);
    if (block->fibers[i].state == State::kCollective) ids.push_back(i);
  }
  release_ahead(ids);
}

/**
 * Every lane of `mask` hands in a pointer to its own operands and results; the last to arrive does the work for all and goes
 * straight on. Lanes that a block of less than whole warps lacks are ignored.
 */
inline void warp_collective(const char* name, uint32_t mask, CollectiveWork work, void* argument) {
  Block& b = *block;
  Fiber& me = *current;
  const unsigned w = me.warp;
  const unsigned lanes = b.threads - w * 32;
  if (lanes < 32) mask &= (1u << lanes) - 1;
  if ((mask >> me.lane & 1) == 0) fault("%s: the mask %08x lacks the calling lane %u", name, mask, me.lane);
  if ((mask & b.exited[w]) != 0) fault("%s: the mask %08x names lanes that have exited (%08x)", name, mask, b.exited[w]);
  WarpCollective* mine = nullptr;
  for (unsigned k = 0; k < kCollectivesPerWarp; k++) {
    WarpCollective& c = b.warp_collectives[w * kCollectivesPerWarp + k];
    if (c.mask == mask) {
      mine = &c;
      break;
    }
    if ((c.mask & mask) != 0) fault("%s: mask %08x, while lanes of it wait in %s with mask %08x", name, mask, c.name, c.mask);
    if (c.mask == 0 && mine == nullptr) mine = &c;
  }
  if (mine == nullptr) fault("%s: more than %u collectives of one warp at a time", name, kCollectivesPerWarp);
  if (mine->mask != 0 && mine->work != work) fault("diverged warp: lane %u is in %s, others in %s", me.lane, name, mine->name);
  mine->mask = mask;
  mine->work = work;
  mine->name = name;
  mine->args[me.lane] = argument;
  mine->arrived |= 1u << me.lane;
  if (mine->arrived == mask) return finish_warp_collective(w, *mine);
  wait_in(State::kCollective, name);
}

/** The same for the 128 threads of a warpgroup. */
inline void group_collective(const char* name, CollectiveWork work, void* argument) {
  Block& b = *block;
  Fiber& me = *current;
  const unsigned g = me.warp / 4;
  if ((g + 1) * 128 > b.threads) fault("%s: thread %u is in no whole warpgroup", name, me.linear);
  GroupCollective& c = b.group_collectives[g];
  if (c.arrived > 0 && c.work != work) fault("diverged warpgroup: thread %u is in %s, others in %s", me.linear, name, c.name);
  c.work = work;
  c.name = name;
  c.args[me.linear % 128] = argument;
  c.arrived++;
  if (c.arrived < 128) return wait_in(State::kCollective, name);
  c.arrived = 0;
  work(c.args, 0xffffffffu);
  std::vector<unsigned> ids;
  ids.reserve(128);
  for (unsigned i = g * 128; i < g * 128 + 128; i++) {
    if (b.fibers[i].state == State::kCollective) ids.push_back(i);
  }
  release_ahead(ids);
}

// ---------------------------------------------------------------- a block from start to end

/** Hooks of the parts that keep state per block (shared memory and what writes it asynchronously). */
inline void start_shared_memory();
inline void end_shared_memory();

inline void exit_thread() {
  Block& b = *block;
  Fiber& me = *current;
  for (unsigned k = 0; k < kCollectivesPerWarp; k++) {
    const WarpCollective& c = b.warp_collectives[me.warp * kCollectivesPerWarp + k];
    if ((c.mask >> me.lane & 1) != 0) fault("lane %u exits while its warp waits for it in %s", me.lane, c.name);
  }
  if (me.warp / 4 < b.group_collectives.size() && b.group_collectives[me.warp / 4].arrived > 0) {
    fault("thread %u exits while its warpgroup waits for it in %s", me.linear, b.group_collectives[me.warp / 4].name);
  }
  me.state = State::kDone;
  b.alive--;
  b.exited[me.warp] |= 1u << me.lane;
  // A barrier of all threads no longer waits for this one.
  for (unsigned id = 0; id < kNamedBarriers; id++) {
    const NamedBarrier& barrier = b.barriers[id];
    if (barrier.arrived > 0 && barrier.expected == 0 && barrier.arrived == b.alive) release_barrier(id);
  }
  run_next(me.context, true);
  fault("a thread that has exited goes on");
}

inline void fiber_main() {
  after_switch(nullptr);
  block->entry(block->entry_argument);
  exit_thread();
}

inline void run_block(Block& b) {
  const unsigned warps = (b.threads + 31) / 32;
  b.alive = b.threads;
  b.ready_first = 0;
  b.ready_count = 0;
  b.exited.assign(warps, 0);
  b.engine.clear();
  std::vector<unsigned> ids(b.threads);
  for (unsigned i = 0; i < b.threads; i++) {
    Fiber& f = b.fibers[i];
    f.index = {i % b.size.x, i / b.size.x % b.size.y, i / (b.size.x * b.size.y)};
    f.linear = i;
    f.lane = i % 32;
    f.warp = i / 32;
    f.copies.clear();
    f.copy_group = 0;
    f.unfenced.clear();
    prepare_context(f.context, stack_of(i), fiber_main);
    ids[i] = i;
  }
  start_shared_memory();
  release_behind(ids);
  run_next(b.caller);
  end_shared_memory();
}

/** Runs `entry(argument)` in every thread of every block of the grid. */
inline void run_grid(const char* kernel, dim3 grid, dim3 size, size_t shared_bytes, void (*entry)(void*), void* argument) {
  static Block b;
  const unsigned threads = size.x * size.y * size.z;
  const unsigned warps = (threads + 31) / 32;
  b.kernel = kernel;
  b.size = size;
  b.grid = grid;
  b.threads = threads;
  b.shared_bytes = shared_bytes;
  b.options = read_options();
  b.fibers.resize(threads);
  b.ready.resize(threads);
  b.warp_collectives.assign(warps * kCollectivesPerWarp, WarpCollective{});
  b.group_collectives.assign(threads / 128, GroupCollective{});
  b.entry = entry;
  b.entry_argument = argument;
  block = &b;
  const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks; i++) {
    const uint64_t j = b.options.order == Order::kReverse ? blocks - 1 - i : i;
    b.index = {(unsigned)(j % grid.x), (unsigned)(j / grid.x % grid.y), (unsigned)(j / ((uint64_t)grid.x * grid.y))};
    // Never 0, from which the generator does not leave.
    b.random = (b.options.seed * 0x9e3779b97f4a7c15ull ^ (j + 1) << 20) | 1;
    run_block(b);
  }
  block = nullptr;
}

}  // namespace moec_emu

#define threadIdx (::moec_emu::current->index)
#define blockIdx (::moec_emu::block->index)
#define blockDim (::moec_emu::block->size)
#define gridDim (::moec_emu::block->grid)
constexpr int warpSize = 32;

inline void __syncthreads(int line = __builtin_LINE()) { moec_emu::wait_at_barrier(0, 0, line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
