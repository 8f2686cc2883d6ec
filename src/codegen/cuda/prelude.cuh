// What generated kernels stand on. Kernels contain no inline PTX: each instruction they need is one wrapper here, with a body for
// the GPU and one for the emulator that states what it means.
//
// Under nvcc it needs cuda_runtime.h only (and cuda.h with MOEC_HOPPER); any other compiler gets the emulator.
// MOEC_HOPPER: also the wrappers of sm_90a and the type CUtensorMap.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <stdint.h>
/** The dynamic shared memory of every kernel. One name at file scope, as a name can only have one type. */
extern __shared__ __align__(1024) unsigned char moec_smem[];
#define MOEC_LAUNCH(kernel, grid, block, smem, stream, ...) (kernel)<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
#define MOEC_GPU(...) __VA_ARGS__
#define MOEC_CPU(...)
/** Before a loop of a constant number of rounds whose body indexes register arrays. */
#define MOEC_UNROLL _Pragma("unroll")
#else
#include "emulator.h"
#define MOEC_GPU(...)
#define MOEC_CPU(...) __VA_ARGS__
#define MOEC_UNROLL
#endif

#define MOEC_INLINE __device__ __forceinline__

#include "prelude_vectors.cuh"

// ---------------------------------------------------------------- 16-bit floats
// Packed pairs hold the first value in the low half. Rounding is to nearest, ties to even.

MOEC_INLINE float moec_f32_of_bf16(uint16_t x) { return moec_float((uint32_t)x << 16); }

MOEC_INLINE float moec_f32_of_f16(uint16_t x) {
  float y;
  MOEC_GPU(asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)));
  MOEC_CPU(y = moec_emu::f32_of_f16(x));
  return y;
}

MOEC_INLINE uint16_t moec_bf16_of(float x) {
  uint16_t y;
  MOEC_GPU(asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x)));
  MOEC_CPU(y = moec_emu::bf16_of(x));
  return y;
}

MOEC_INLINE uint16_t moec_f16_of(float x) {
  uint16_t y;
  MOEC_GPU(asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x)));
  MOEC_CPU(y = moec_emu::f16_of(x));
  return y;
}

MOEC_INLINE uint32_t moec_pack_bf16(float low, float high) {
  uint32_t y;
  MOEC_GPU(asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low)));
  MOEC_CPU(y = moec_emu::bf16_of(low) | (uint32_t)moec_emu::bf16_of(high) << 16);
  return y;
}

MOEC_INLINE uint32_t moec_pack_f16(float low, float high) {
  uint32_t y;
  MOEC_GPU(asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low)));
  MOEC_CPU(y = moec_emu::f16_of(low) | (uint32_t)moec_emu::f16_of(high) << 16);
  return y;
}

MOEC_INLINE float2 moec_unpack_bf16(uint32_t x) { return make_float2(moec_float(x << 16), moec_float(x & 0xffff0000u)); }
MOEC_INLINE float2 moec_unpack_f16(uint32_t x) { return make_float2(moec_f32_of_f16((uint16_t)x), moec_f32_of_f16((uint16_t)(x >> 16))); }

MOEC_INLINE uint32_t moec_pack_bf16(float2 x) { return moec_pack_bf16(x.x, x.y); }
MOEC_INLINE uint32_t moec_pack_f16(float2 x) { return moec_pack_f16(x.x, x.y); }
MOEC_INLINE uint2 moec_pack_bf16(float4 x) { return make_uint2(moec_pack_bf16(x.x, x.y), moec_pack_bf16(x.z, x.w)); }
MOEC_INLINE uint2 moec_pack_f16(float4 x) { return make_uint2(moec_pack_f16(x.x, x.y), moec_pack_f16(x.z, x.w)); }

MOEC_INLINE float4 moec_unpack_bf16(uint2 x) {
  const float2 low = moec_unpack_bf16(x.x);
  const float2 high = moec_unpack_bf16(x.y);
  return make_float4(low.x, low.y, high.x, high.y);
}
MOEC_INLINE float4 moec_unpack_f16(uint2 x) {
  const float2 low = moec_unpack_f16(x.x);
  const float2 high = moec_unpack_f16(x.y);
  return make_float4(low.x, low.y, high.x, high.y);
}

// ---------------------------------------------------------------- loads of what is read once
// Past L1, which is left to what is read again. The memory must not be written while the kernel runs.

MOEC_INLINE uint16_t moec_load_stream(const uint16_t* p) {
  uint16_t v;
  MOEC_GPU(asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p)));
  MOEC_CPU(v = *p);
  return v;
}
MOEC_INLINE uint32_t moec_load_stream(const uint32_t* p) {
  uint32_t v;
  MOEC_GPU(asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p)));
  MOEC_CPU(v = *p);
  return v;
}
MOEC_INLINE float moec_load_stream(const float* p) {
  float v;
  MOEC_GPU(asm volatile("ld.global.nc.L1::no_allocate.f32 %0, [%1];" : "=f"(v) : "l"(p)));
  MOEC_CPU(v = *p);
  return v;
}
MOEC_INLINE uint2 moec_load_stream(const uint2* p) {
  uint2 v;
  MOEC_GPU(asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p)));
  MOEC_CPU(v = *p);
  return v;
}
MOEC_INLINE float2 moec_load_stream(const float2* p) {
  float2 v;
  MOEC_GPU(asm volatile("ld.global.nc.L1::no_allocate.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p)));
  MOEC_CPU(v = *p);
  return v;
}
MOEC_INLINE uint4 moec_load_stream(const uint4* p) {
  uint4 v;
  MOEC_GPU(asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                        : "l"(p)));
  MOEC_CPU(v = *p);
  return v;
}
MOEC_INLINE float4 moec_load_stream(const float4* p) {
  float4 v;
  MOEC_GPU(asm volatile("ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];"
                        : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                        : "l"(p)));
  MOEC_CPU(v = *p);
  return v;
}

// ---------------------------------------------------------------- warps
// All 32 lanes take part and get the same result.

/** In the order of a butterfly, so that every lane adds the same numbers in the same pairs: the bits are the same in all. */
MOEC_INLINE float moec_warp_add(float x) {
  MOEC_UNROLL
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}
MOEC_INLINE float moec_warp_max(float x) {
  MOEC_UNROLL
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}
MOEC_INLINE float moec_warp_min(float x) {
  MOEC_UNROLL
  for (int distance = 16; distance > 0; distance /= 2) x = fminf(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}
MOEC_INLINE uint32_t moec_warp_add(uint32_t x) { return __reduce_add_sync(0xffffffffu, x); }
MOEC_INLINE uint32_t moec_warp_max(uint32_t x) { return __reduce_max_sync(0xffffffffu, x); }
MOEC_INLINE uint32_t moec_warp_min(uint32_t x) { return __reduce_min_sync(0xffffffffu, x); }
MOEC_INLINE int32_t moec_warp_add(int32_t x) { return __reduce_add_sync(0xffffffffu, x); }
MOEC_INLINE int32_t moec_warp_max(int32_t x) { return __reduce_max_sync(0xffffffffu, x); }
MOEC_INLINE int32_t moec_warp_min(int32_t x) { return __reduce_min_sync(0xffffffffu, x); }

MOEC_INLINE float moec_warp_broadcast(float x, uint32_t lane) { return __shfl_sync(0xffffffffu, x, (int)lane); }
MOEC_INLINE uint32_t moec_warp_broadcast(uint32_t x, uint32_t lane) { return __shfl_sync(0xffffffffu, x, (int)lane); }
MOEC_INLINE int32_t moec_warp_broadcast(int32_t x, uint32_t lane) { return __shfl_sync(0xffffffffu, x, (int)lane); }

/** In place over lanes 4 i to 4 i + 3, which hold a row of a fragment: the bits are the same in all four. */
MOEC_INLINE void moec_quad_add(float* x) {
  MOEC_UNROLL
  for (int distance = 1; distance < 4; distance *= 2) *x += __shfl_xor_sync(0xffffffffu, *x, distance);
}
MOEC_INLINE void moec_quad_max(float* x) {
  MOEC_UNROLL
  for (int distance = 1; distance < 4; distance *= 2) *x = fmaxf(*x, __shfl_xor_sync(0xffffffffu, *x, distance));
}
MOEC_INLINE void moec_quad_min(float* x) {
  MOEC_UNROLL
  for (int distance = 1; distance < 4; distance *= 2) *x = fminf(*x, __shfl_xor_sync(0xffffffffu, *x, distance));
}

// ---------------------------------------------------------------- shared memory

/** The 32-bit address in the shared window that instructions take. */
MOEC_INLINE uint32_t moec_shared_address(const void* p) {
  MOEC_GPU(return (uint32_t)__cvta_generic_to_shared(p));
  MOEC_CPU(return moec_emu::shared_address("an address", p, 1, 1));
}

/** bar.sync: `threads` threads (whole warps) meet at barrier `id`, 1 to 15; 0 is __syncthreads. */
MOEC_INLINE void moec_barrier_sync(uint32_t id, uint32_t threads) {
  MOEC_GPU(asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"));
  MOEC_CPU(moec_emu::wait_at_barrier(id, threads, 0));
}

// ---------------------------------------------------------------- asynchronous copies of 16 bytes (sm_80)

/** Copies 16 bytes from global to shared memory, both aligned to 16; writes zeros and does not read where not `valid`. */
MOEC_INLINE void moec_cp_async16(void* destination, const void* source, bool valid) {
  MOEC_GPU(asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(moec_shared_address(destination)),
                        "l"(source), "r"(valid ? 16 : 0)
                        : "memory"));
  MOEC_CPU(moec_emu::copy_async(destination, valid ? source : nullptr));
}
/** Makes a group of the copies that this thread has issued since the last one. */
MOEC_INLINE void moec_cp_async_commit() {
  MOEC_GPU(asm volatile("cp.async.commit_group;" ::: "memory"));
  MOEC_CPU(moec_emu::copy_commit());
}
/** Waits until at most N of this thread's groups, the last ones, are in flight. */
template <int N>
MOEC_INLINE void moec_cp_async_wait() {
  MOEC_GPU(asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"));
  MOEC_CPU(moec_emu::copy_wait(N));
}

// ---------------------------------------------------------------- products of a warp (sm_80)
// Register arrays are pointers to local arrays that are indexed by constants only: inlined, they are registers.

/**
 * Four 8 x 8 matrices of 16-bit elements; row r of matrix m is the 16 bytes at `row` of lane 8 m + r, aligned to 16.
 * Lane l gets elements (l / 4, l % 4 * 2) and the next of each, in r[0..3].
 */
MOEC_INLINE void moec_ldmatrix_x4(uint32_t* r, const void* row) {
  MOEC_GPU(asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                        : "r"(moec_shared_address(row))
                        : "memory"));
  MOEC_CPU(moec_emu::load_matrix<4, false>(r, row));
}
/** The same, transposed: lane l gets elements (l % 4 * 2, l / 4) and the one below. */
MOEC_INLINE void moec_ldmatrix_x4_trans(uint32_t* r, const void* row) {
  MOEC_GPU(asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                        : "r"(moec_shared_address(row))
                        : "memory"));
  MOEC_CPU(moec_emu::load_matrix<4, true>(r, row));
}
/** Two matrices, whose rows the first 16 lanes name. */
MOEC_INLINE void moec_ldmatrix_x2(uint32_t* r, const void* row) {
  MOEC_GPU(asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                        : "=r"(r[0]), "=r"(r[1])
                        : "r"(moec_shared_address(row))
                        : "memory"));
  MOEC_CPU(moec_emu::load_matrix<2, false>(r, row));
}

#define MOEC_MMA(type)                                                                                               \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                                \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

/**
 * D[16][8] += A[16][16] B[16][8]. With g = lane / 4 and t = lane % 4 * 2, a lane holds A at rows g and g + 8 (a[0], a[1]) and
 * columns t, t + 1, the same from column 8 on (a[2], a[3]); B at column g and rows t, t + 1 (b[0]), t + 8, t + 9 (b[1]);
 * D at columns t, t + 1 of row g (d[0], d[1]) and row g + 8 (d[2], d[3]).
 */
MOEC_INLINE void moec_mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  MOEC_GPU(MOEC_MMA("bf16"));
  MOEC_CPU(moec_emu::multiply<false>(d, a, b));
}
MOEC_INLINE void moec_mma_m16n8k16_f16(float* d, const uint32_t* a, const uint32_t* b) {
  MOEC_GPU(MOEC_MMA("f16"));
  MOEC_CPU(moec_emu::multiply<true>(d, a, b));
}
#undef MOEC_MMA

#ifdef MOEC_HOPPER
#include "prelude_sm90.cuh"
#endif
