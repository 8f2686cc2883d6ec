// What nvcc predefines, for a plain C++17 compiler: qualifiers, vector types, scalar intrinsics.
// A part of emulator.h.
#pragma once

#define __host__
#define __device__
#define __global__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
// An attribute, not alignas: CUDA text puts it where alignas may not stand.
#define __align__(n) __attribute__((aligned(n)))
// Blocks run one after another, so one copy serves them all. (It is not poisoned; generated kernels use moec_smem.)
#define __shared__ static

// clang-format off
#define MOEC_EMU_VECTORS(T, name, bytes)                                                  \
  struct __align__(2 * bytes) name##2 { T x, y; };                                        \
  struct name##3 { T x, y, z; };                                                          \
  struct __align__(4 * bytes) name##4 { T x, y, z, w; };                                  \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                              \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                      \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
// clang-format on
MOEC_EMU_VECTORS(float, float, 4)
MOEC_EMU_VECTORS(int, int, 4)
MOEC_EMU_VECTORS(unsigned, uint, 4)
MOEC_EMU_VECTORS(short, short, 2)
MOEC_EMU_VECTORS(unsigned short, ushort, 2)
#undef MOEC_EMU_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

// ---------------------------------------------------------------- bits and conversions

namespace moec_emu {
/** The same bits as another type of the same size. */
template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast between sizes");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
/** What a float becomes as an integer on the device: towards zero, clamped to the range, NaN to 0. */
template <class To>
inline To clamped(float x, double low, double high) {
  if (x != x) return 0;
  if ((double)x <= low) return (To)low;
  if ((double)x >= high) return (To)high;
  return (To)x;
}
}  // namespace moec_emu

inline unsigned __float_as_uint(float x) { return moec_emu::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return moec_emu::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return moec_emu::bit_cast<float>(x); }
inline float __int_as_float(int x) { return moec_emu::bit_cast<float>(x); }
inline unsigned __float2uint_rz(float x) { return moec_emu::clamped<unsigned>(x, 0.0, 4294967295.0); }
inline int __float2int_rz(float x) { return moec_emu::clamped<int>(x, -2147483648.0, 2147483647.0); }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __int2float_rn(int x) { return (float)x; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }

// ---------------------------------------------------------------- arithmetic

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

template <class A, class B>
inline auto min(A a, B b) -> typename std::common_type<A, B>::type {
  typedef typename std::common_type<A, B>::type T;
  return (T)a < (T)b ? (T)a : (T)b;
}
template <class A, class B>
inline auto max(A a, B b) -> typename std::common_type<A, B>::type {
  typedef typename std::common_type<A, B>::type T;
  return (T)a > (T)b ? (T)a : (T)b;
}

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
