// What is known of a block while it runs, faults, and who runs next. A part of emulator.h.
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

}  // namespace moec_emu

#define threadIdx (::moec_emu::current->index)
#define blockIdx (::moec_emu::block->index)
#define blockDim (::moec_emu::block->size)
#define gridDim (::moec_emu::block->grid)
constexpr int warpSize = 32;
