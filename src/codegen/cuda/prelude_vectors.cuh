// Vectors of 2 and 4 lanes: operators, selection, arithmetic functions, conversions, and the same functions for scalars.
// A part of prelude.cuh. Everything works lane by lane; lanes are x, y, z, w.
#pragma once

struct __align__(2) bool2 { bool x, y; };
struct __align__(4) bool4 { bool x, y, z, w; };
MOEC_INLINE bool2 make_bool2(bool x, bool y) { return {x, y}; }
MOEC_INLINE bool4 make_bool4(bool x, bool y, bool z, bool w) { return {x, y, z, w}; }

// clang-format off

// ---------------------------------------------------------------- operators
// V: the operands' vector type without its lanes, R: the result's.

#define MOEC_BINARY(R, V, op)                                                                                                      \
  MOEC_INLINE R##2 operator op(V##2 a, V##2 b) { return make_##R##2(a.x op b.x, a.y op b.y); }                                     \
  MOEC_INLINE R##4 operator op(V##4 a, V##4 b) { return make_##R##4(a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w); }
#define MOEC_UNARY(V, op)                                                                                                          \
  MOEC_INLINE V##2 operator op(V##2 a) { return make_##V##2(op a.x, op a.y); }                                                     \
  MOEC_INLINE V##4 operator op(V##4 a) { return make_##V##4(op a.x, op a.y, op a.z, op a.w); }

#define MOEC_ARITHMETIC(V) MOEC_BINARY(V, V, +) MOEC_BINARY(V, V, -) MOEC_BINARY(V, V, *) MOEC_BINARY(V, V, /)
#define MOEC_COMPARISONS(V)                                                                                                        \
  MOEC_BINARY(bool, V, ==) MOEC_BINARY(bool, V, !=) MOEC_BINARY(bool, V, <)                                                        \
  MOEC_BINARY(bool, V, <=) MOEC_BINARY(bool, V, >) MOEC_BINARY(bool, V, >=)
#define MOEC_BIT_OPERATORS(V)                                                                                                      \
  MOEC_BINARY(V, V, %) MOEC_BINARY(V, V, &) MOEC_BINARY(V, V, |) MOEC_BINARY(V, V, ^)                                              \
  MOEC_BINARY(V, V, <<) MOEC_BINARY(V, V, >>) MOEC_UNARY(V, ~)

MOEC_ARITHMETIC(float) MOEC_COMPARISONS(float) MOEC_UNARY(float, -)
MOEC_ARITHMETIC(uint) MOEC_COMPARISONS(uint) MOEC_BIT_OPERATORS(uint)
MOEC_ARITHMETIC(int) MOEC_COMPARISONS(int) MOEC_BIT_OPERATORS(int) MOEC_UNARY(int, -)
// Both sides are evaluated: kernels have no side effects inside expressions.
MOEC_BINARY(bool, bool, &&) MOEC_BINARY(bool, bool, ||) MOEC_BINARY(bool, bool, ==) MOEC_BINARY(bool, bool, !=) MOEC_UNARY(bool, !)

// ---------------------------------------------------------------- functions of one, two and three arguments
// `f` is the function of one lane; S is the scalar type.

#define MOEC_MAP1(name, S, V, f)                                                                                                   \
  MOEC_INLINE S name(S a) { return f(a); }                                                                                         \
  MOEC_INLINE V##2 name(V##2 a) { return make_##V##2(f(a.x), f(a.y)); }                                                            \
  MOEC_INLINE V##4 name(V##4 a) { return make_##V##4(f(a.x), f(a.y), f(a.z), f(a.w)); }
#define MOEC_MAP2(name, S, V, f)                                                                                                   \
  MOEC_INLINE S name(S a, S b) { return f(a, b); }                                                                                 \
  MOEC_INLINE V##2 name(V##2 a, V##2 b) { return make_##V##2(f(a.x, b.x), f(a.y, b.y)); }                                          \
  MOEC_INLINE V##4 name(V##4 a, V##4 b) { return make_##V##4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)); }
#define MOEC_MAP3(name, S, V, f)                                                                                                   \
  MOEC_INLINE S name(S a, S b, S c) { return f(a, b, c); }                                                                         \
  MOEC_INLINE V##2 name(V##2 a, V##2 b, V##2 c) { return make_##V##2(f(a.x, b.x, c.x), f(a.y, b.y, c.y)); }                        \
  MOEC_INLINE V##4 name(V##4 a, V##4 b, V##4 c) {                                                                                  \
    return make_##V##4(f(a.x, b.x, c.x), f(a.y, b.y, c.y), f(a.z, b.z, c.z), f(a.w, b.w, c.w));                                    \
  }

/** One instruction where exp2f takes four: within 2^-22 of the value, and 0 below 2^-126. */
MOEC_INLINE float moec_exp2_lane(float x) {
  float y;
  MOEC_GPU(asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)));
  MOEC_CPU(y = exp2f(x) < 0x1p-126f ? 0.0f : exp2f(x));
  return y;
}

MOEC_MAP1(moec_exp, float, float, expf)
MOEC_MAP1(moec_exp2, float, float, moec_exp2_lane)
MOEC_MAP1(moec_log, float, float, logf)
MOEC_MAP1(moec_sqrt, float, float, sqrtf)
MOEC_MAP1(moec_rsqrt, float, float, rsqrtf)
MOEC_MAP1(moec_floor, float, float, floorf)
MOEC_MAP1(moec_abs, float, float, fabsf)
MOEC_MAP1(moec_abs, int32_t, int, abs)
MOEC_MAP2(moec_min, float, float, fminf)
MOEC_MAP2(moec_max, float, float, fmaxf)
MOEC_MAP2(moec_min, uint32_t, uint, min)
MOEC_MAP2(moec_max, uint32_t, uint, max)
MOEC_MAP2(moec_min, int32_t, int, min)
MOEC_MAP2(moec_max, int32_t, int, max)
MOEC_MAP3(moec_fma, float, float, fmaf)

// ---------------------------------------------------------------- making vectors

#define MOEC_SPLAT(S, V)                                                                                                           \
  MOEC_INLINE V##2 moec_splat2(S a) { return make_##V##2(a, a); }                                                                  \
  MOEC_INLINE V##4 moec_splat4(S a) { return make_##V##4(a, a, a, a); }
MOEC_SPLAT(float, float) MOEC_SPLAT(uint32_t, uint) MOEC_SPLAT(int32_t, int) MOEC_SPLAT(bool, bool)

/** a where c, else b. */
template <class T>
MOEC_INLINE T moec_select(bool c, T a, T b) { return c ? a : b; }
#define MOEC_SELECT(V)                                                                                                             \
  MOEC_INLINE V##2 moec_select(bool2 c, V##2 a, V##2 b) { return make_##V##2(c.x ? a.x : b.x, c.y ? a.y : b.y); }                  \
  MOEC_INLINE V##4 moec_select(bool4 c, V##4 a, V##4 b) {                                                                          \
    return make_##V##4(c.x ? a.x : b.x, c.y ? a.y : b.y, c.z ? a.z : b.z, c.w ? a.w : b.w);                                        \
  }
MOEC_SELECT(float) MOEC_SELECT(uint) MOEC_SELECT(int) MOEC_SELECT(bool)

// ---------------------------------------------------------------- conversions
// Of values: moec_to_float, moec_to_uint, moec_to_int. From float they go towards zero, clamp to the range and give 0 for NaN, as
// the instructions do. Between uint and int the bits stay.

#define MOEC_CONVERT(name, to_scalar, to, from_scalar, from, f)                                                                    \
  MOEC_INLINE to_scalar name(from_scalar a) { return f(a); }                                                                       \
  MOEC_INLINE to##2 name(from##2 a) { return make_##to##2(f(a.x), f(a.y)); }                                                       \
  MOEC_INLINE to##4 name(from##4 a) { return make_##to##4(f(a.x), f(a.y), f(a.z), f(a.w)); }

MOEC_CONVERT(moec_to_float, float, float, uint32_t, uint, __uint2float_rn)
MOEC_CONVERT(moec_to_float, float, float, int32_t, int, __int2float_rn)
MOEC_CONVERT(moec_to_float, float, float, bool, bool, float)
MOEC_CONVERT(moec_to_uint, uint32_t, uint, float, float, __float2uint_rz)
MOEC_CONVERT(moec_to_uint, uint32_t, uint, int32_t, int, uint32_t)
MOEC_CONVERT(moec_to_uint, uint32_t, uint, bool, bool, uint32_t)
MOEC_CONVERT(moec_to_int, int32_t, int, float, float, __float2int_rz)
MOEC_CONVERT(moec_to_int, int32_t, int, uint32_t, uint, int32_t)
MOEC_CONVERT(moec_to_int, int32_t, int, bool, bool, int32_t)

// Of bits: moec_bits gives uint, moec_float float, moec_int int.
MOEC_CONVERT(moec_bits, uint32_t, uint, float, float, __float_as_uint)
MOEC_CONVERT(moec_bits, uint32_t, uint, int32_t, int, uint32_t)
MOEC_CONVERT(moec_float, float, float, uint32_t, uint, __uint_as_float)
MOEC_CONVERT(moec_float, float, float, int32_t, int, __int_as_float)
MOEC_CONVERT(moec_int, int32_t, int, float, float, __float_as_int)
MOEC_CONVERT(moec_int, int32_t, int, uint32_t, uint, int32_t)

// clang-format on

#undef MOEC_BINARY
#undef MOEC_UNARY
#undef MOEC_ARITHMETIC
#undef MOEC_COMPARISONS
#undef MOEC_BIT_OPERATORS
#undef MOEC_MAP1
#undef MOEC_MAP2
#undef MOEC_MAP3
#undef MOEC_SPLAT
#undef MOEC_SELECT
#undef MOEC_CONVERT
