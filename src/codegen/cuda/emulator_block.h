// Barriers, collectives of a warp and of a warpgroup, and a block from start to end. A part of emulator.h.
#pragma once

namespace moec_emu {

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

inline void __syncthreads(int line = __builtin_LINE()) { moec_emu::wait_at_barrier(0, 0, line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
