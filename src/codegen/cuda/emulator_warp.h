// Shuffles, votes, reductions of a warp; atomics. A part of emulator.h.
#pragma once

inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  moec_emu::warp_collective("__syncwarp", mask, [](void* const*, uint32_t) {}, nullptr);
}

// ---------------------------------------------------------------- shuffles

namespace moec_emu {

template <class T>
struct Shuffle {
  T in;
  T out;
  int source;
};

template <class T>
inline void shuffle_work(void* const* args, uint32_t lanes) {
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    Shuffle<T>& mine = *(Shuffle<T>*)args[__builtin_ctz(rest)];
    if ((lanes >> mine.source & 1) == 0) fault("shuffle: lane %d, from which one reads, is not in it", mine.source);
    mine.out = ((Shuffle<T>*)args[mine.source])->in;
  }
}

template <class T>
inline T shuffle(uint32_t mask, T value, int source) {
  Shuffle<T> mine{value, value, source};
  warp_collective("a shuffle", mask, shuffle_work<T>, &mine);
  return mine.out;
}

}  // namespace moec_emu

// `width` splits the warp into parts; a source outside the own part gives the own value.
template <class T>
inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const int first = (int)moec_emu::current->lane & ~(width - 1);
  return moec_emu::shuffle(mask, value, first | (source & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int distance, int width = 32) {
  const int lane = (int)moec_emu::current->lane;
  const int source = lane ^ distance;
  return moec_emu::shuffle(mask, value, (source & ~(width - 1)) > (lane | (width - 1)) ? lane : source);
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned distance, int width = 32) {
  const int lane = (int)moec_emu::current->lane;
  return moec_emu::shuffle(mask, value, (lane & (width - 1)) + (int)distance >= width ? lane : lane + (int)distance);
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned distance, int width = 32) {
  const int lane = (int)moec_emu::current->lane;
  return moec_emu::shuffle(mask, value, (lane & (width - 1)) < (int)distance ? lane : lane - (int)distance);
}

// ---------------------------------------------------------------- votes

namespace moec_emu {

struct Vote {
  uint64_t in;
  uint32_t out;
};

inline void ballot_work(void* const* args, uint32_t lanes) {
  uint32_t result = 0;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (((Vote*)args[lane])->in != 0) result |= 1u << lane;
  }
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) ((Vote*)args[__builtin_ctz(rest)])->out = result;
}

inline void match_work(void* const* args, uint32_t lanes) {
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    Vote& mine = *(Vote*)args[__builtin_ctz(rest)];
    mine.out = 0;
    for (uint32_t others = lanes; others != 0; others &= others - 1) {
      const int lane = __builtin_ctz(others);
      if (((Vote*)args[lane])->in == mine.in) mine.out |= 1u << lane;
    }
  }
}

template <class T, class Op>
inline void reduce_work(void* const* args, uint32_t lanes) {
  T result = *(T*)args[__builtin_ctz(lanes)];
  for (uint32_t rest = lanes & (lanes - 1); rest != 0; rest &= rest - 1) result = Op()(result, *(T*)args[__builtin_ctz(rest)]);
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) *(T*)args[__builtin_ctz(rest)] = result;
}

template <class T, class Op>
inline T reduce(const char* name, uint32_t mask, T value) {
  warp_collective(name, mask, reduce_work<T, Op>, &value);
  return value;
}

struct Add {
  // Unsigned, where sums may wrap.
  unsigned operator()(unsigned a, unsigned b) const { return a + b; }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const { return a > b ? a : b; }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const { return a < b ? a : b; }
};

}  // namespace moec_emu

inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  moec_emu::Vote vote{(uint64_t)(predicate != 0), 0};
  moec_emu::warp_collective("a vote", mask, moec_emu::ballot_work, &vote);
  return vote.out;
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

template <class T>
inline uint32_t __match_any_sync(uint32_t mask, T value) {
  moec_emu::Vote vote{(uint64_t)value, 0};
  moec_emu::warp_collective("__match_any_sync", mask, moec_emu::match_work, &vote);
  return vote.out;
}

inline unsigned __reduce_add_sync(uint32_t mask, unsigned v) { return moec_emu::reduce<unsigned, moec_emu::Add>("__reduce_add_sync", mask, v); }
inline int __reduce_add_sync(uint32_t mask, int v) { return (int)__reduce_add_sync(mask, (unsigned)v); }
inline unsigned __reduce_max_sync(uint32_t mask, unsigned v) { return moec_emu::reduce<unsigned, moec_emu::Max>("__reduce_max_sync", mask, v); }
inline int __reduce_max_sync(uint32_t mask, int v) { return moec_emu::reduce<int, moec_emu::Max>("__reduce_max_sync", mask, v); }
inline unsigned __reduce_min_sync(uint32_t mask, unsigned v) { return moec_emu::reduce<unsigned, moec_emu::Min>("__reduce_min_sync", mask, v); }
inline int __reduce_min_sync(uint32_t mask, int v) { return moec_emu::reduce<int, moec_emu::Min>("__reduce_min_sync", mask, v); }

// ---------------------------------------------------------------- atomics

namespace moec_emu {

/** So many atomics of one thread without ever letting others run: it waits for something that cannot happen. */
constexpr unsigned kSpinLimit = 1u << 24;

inline void count_spin() {
  if (++block->spins > kSpinLimit) fault("a thread polls memory without end: blocks and threads must not wait for each other like that");
}

/** A read-modify-write; the old value. One OS thread runs all fibers and none is switched here: nothing can come between. */
template <class T, class Op>
inline T modify(T* address, Op op) {
  if ((uintptr_t)address % sizeof(T) != 0) fault("atomic: address %p is not aligned to %zu bytes", (void*)address, sizeof(T));
  count_spin();
  const T old = *address;
  *address = op(old);
  return old;
}

}  // namespace moec_emu

template <class T, class U>
inline T atomicAdd(T* p, U v) { return moec_emu::modify(p, [=](T old) { return (T)(old + (T)v); }); }
template <class T, class U>
inline T atomicSub(T* p, U v) { return moec_emu::modify(p, [=](T old) { return (T)(old - (T)v); }); }
template <class T, class U>
inline T atomicMax(T* p, U v) { return moec_emu::modify(p, [=](T old) { return old > (T)v ? old : (T)v; }); }
template <class T, class U>
inline T atomicMin(T* p, U v) { return moec_emu::modify(p, [=](T old) { return old < (T)v ? old : (T)v; }); }
template <class T, class U>
inline T atomicAnd(T* p, U v) { return moec_emu::modify(p, [=](T old) { return (T)(old & (T)v); }); }
template <class T, class U>
inline T atomicOr(T* p, U v) { return moec_emu::modify(p, [=](T old) { return (T)(old | (T)v); }); }
template <class T, class U>
inline T atomicXor(T* p, U v) { return moec_emu::modify(p, [=](T old) { return (T)(old ^ (T)v); }); }
template <class T, class U>
inline T atomicExch(T* p, U v) { return moec_emu::modify(p, [=](T) { return (T)v; }); }
template <class T, class U, class V>
inline T atomicCAS(T* p, U compare, V v) { return moec_emu::modify(p, [=](T old) { return old == (T)compare ? (T)v : old; }); }

inline void __nanosleep(unsigned) { moec_emu::count_spin(); }
