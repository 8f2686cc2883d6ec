// Instructions of sm_90a: mbarriers, copies of boxes (TMA), products of warpgroups (wgmma), registers. A part of prelude.cuh.
// In code for other architectures these wrappers trap.
#pragma once

#ifdef __CUDACC__
#include <cuda.h>
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MOEC_SM90(...) __VA_ARGS__
#else
#define MOEC_SM90(...) __trap()
#endif
#else
#define MOEC_SM90(...)
#endif

// ---------------------------------------------------------------- mbarriers
// `barrier` is an 8-byte word in shared memory. A phase ends when `count` arrivals and all announced bytes have come; phases have parity
// 0, 1, 0 ... Waiting for parity 1 of a new barrier returns at once: the phase before the first counts as over.

MOEC_INLINE void moec_mbarrier_init(void* barrier, uint32_t count) {
  MOEC_SM90(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(moec_shared_address(barrier)), "r"(count) : "memory"));
  MOEC_CPU(moec_emu::mbarrier_init(barrier, count));
}
/** After the last init, by the thread that did them and before the block's threads meet: the copy engine sees the barriers. */
MOEC_INLINE void moec_mbarrier_init_fence() {
  MOEC_SM90(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"));
  MOEC_CPU(moec_emu::mbarrier_init_fence());
}
/** Announces `bytes` that copies will bring in this phase, and arrives. */
MOEC_INLINE void moec_mbarrier_expect(void* barrier, uint32_t bytes) {
  MOEC_SM90(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(moec_shared_address(barrier)), "r"(bytes)
                         : "memory"));
  MOEC_CPU(moec_emu::mbarrier_arrive("mbarrier.arrive.expect_tx", barrier, bytes));
}
MOEC_INLINE void moec_mbarrier_arrive(void* barrier) {
  MOEC_SM90(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(moec_shared_address(barrier)) : "memory"));
  MOEC_CPU(moec_emu::mbarrier_arrive("mbarrier.arrive", barrier, 0));
}
/** Whether the phase of this parity is over; waits for it for a while. */
MOEC_INLINE bool moec_mbarrier_try_wait(void* barrier, uint32_t parity) {
  uint32_t over = 1;
  MOEC_SM90(asm volatile("{\n"
                         ".reg .pred over;\n"
                         "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                         "selp.u32 %0, 1, 0, over;\n"
                         "}"
                         : "=r"(over)
                         : "r"(moec_shared_address(barrier)), "r"(parity)
                         : "memory"));
  MOEC_CPU(moec_emu::mbarrier_wait(barrier, parity));
  return over != 0;
}
MOEC_INLINE void moec_mbarrier_wait(void* barrier, uint32_t parity) {
  while (!moec_mbarrier_try_wait(barrier, parity)) {
  }
}

// ---------------------------------------------------------------- copies of boxes

/** What this thread wrote to shared memory (and has waited for) may be read by wgmma and by the copy engine. */
MOEC_INLINE void moec_fence_async() {
  MOEC_SM90(asm volatile("fence.proxy.async.shared::cta;" ::: "memory"));
  MOEC_CPU(moec_emu::fence_async());
}
/**
 * One thread starts the copy of the box of `map` whose first element is (row, col), to `destination` (aligned to 1024 bytes); its
 * bytes count towards `barrier`. Elements outside the matrix arrive as zeros, and count too.
 */
MOEC_INLINE void moec_tma_load_2d(void* destination, const CUtensorMap* map, void* barrier, int col, int row) {
  MOEC_SM90(asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                             moec_shared_address(destination)),
                         "l"(map), "r"(moec_shared_address(barrier)), "r"(col), "r"(row)
                         : "memory"));
  MOEC_CPU(moec_emu::tma_load(destination, map, barrier, col, row));
}
MOEC_INLINE void moec_tma_prefetch(const CUtensorMap* map) {
  MOEC_SM90(asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"));
  MOEC_CPU(moec_emu::tma_prefetch(map));
}

// ---------------------------------------------------------------- products of warpgroups

/** Before the first product, and again where registers of its accumulators have been touched. All 128 threads. */
MOEC_INLINE void moec_wgmma_fence() {
  MOEC_SM90(asm volatile("wgmma.fence.sync.aligned;" ::: "memory"));
  MOEC_CPU(moec_emu::product_fence());
}
/** Makes a group of the products issued since the last one. */
MOEC_INLINE void moec_wgmma_commit() {
  MOEC_SM90(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"));
  MOEC_CPU(moec_emu::product_commit());
}
/** Waits until at most N groups, the last ones, are in flight; only then may accumulators be read and operands be overwritten. */
template <int N>
MOEC_INLINE void moec_wgmma_wait() {
  MOEC_SM90(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"));
  MOEC_CPU(moec_emu::product_wait<N>());
}
/** Keeps the compiler from moving uses of the `count` accumulators at d over this point: around each run of products. */
template <int count>
MOEC_INLINE void moec_wgmma_keep(float* d) {
  MOEC_UNROLL
  for (int i = 0; i < count; i++) {
    MOEC_GPU(asm volatile("" : "+f"(d[i])::"memory"));
    MOEC_CPU((void)d[i]);
  }
}

/**
 * Descriptor of an operand in shared memory: rows of 64 16-bit elements (128 bytes), in the 128-byte swizzle, at a multiple of 1024
 * bytes. Adding 2 advances it by 16 elements (32 bytes) along the row, adding 64 by 8 rows.
 */
MOEC_INLINE uint64_t moec_wgmma_descriptor(const void* p) {
  const uint64_t start = (moec_shared_address(p) & 0x3ffff) >> 4;  // in units of 16 bytes
  const uint64_t leading = 1;                                      // not used by this layout
  const uint64_t stride = 1024 >> 4;                               // from 8 rows to the next 8
  const uint64_t swizzle128 = 1;
  return start | leading << 16 | stride << 32 | swizzle128 << 62;
}

// The instruction names each accumulator in its text ("{%0, %1 ...}") and in its operands. Both lists are built from tens and fours.
// clang-format off
#define MOEC_N2(ten) "%" #ten "0, %" #ten "1"
#define MOEC_N4(ten) MOEC_N2(ten) ", %" #ten "2, %" #ten "3"
#define MOEC_N6(ten) MOEC_N4(ten) ", %" #ten "4, %" #ten "5"
#define MOEC_N8(ten) MOEC_N6(ten) ", %" #ten "6, %" #ten "7"
#define MOEC_N10(ten) MOEC_N8(ten) ", %" #ten "8, %" #ten "9"
#define MOEC_NAMES_4 MOEC_N4()
#define MOEC_NAMES_8 MOEC_N8()
#define MOEC_NAMES_16 MOEC_N10() ", " MOEC_N6(1)
#define MOEC_NAMES_30 MOEC_N10() ", " MOEC_N10(1) ", " MOEC_N10(2)
#define MOEC_NAMES_32 MOEC_NAMES_30 ", " MOEC_N2(3)
#define MOEC_NAMES_40 MOEC_NAMES_30 ", " MOEC_N10(3)
#define MOEC_NAMES_48 MOEC_NAMES_40 ", " MOEC_N8(4)
#define MOEC_NAMES_60 MOEC_NAMES_40 ", " MOEC_N10(4) ", " MOEC_N10(5)
#define MOEC_NAMES_64 MOEC_NAMES_60 ", " MOEC_N4(6)
#define MOEC_NAMES_80 MOEC_NAMES_60 ", " MOEC_N10(6) ", " MOEC_N10(7)
#define MOEC_NAMES_90 MOEC_NAMES_80 ", " MOEC_N10(8)
#define MOEC_NAMES_96 MOEC_NAMES_90 ", " MOEC_N6(9)
#define MOEC_NAMES_110 MOEC_NAMES_90 ", " MOEC_N10(9) ", " MOEC_N10(10)
#define MOEC_NAMES_112 MOEC_NAMES_110 ", " MOEC_N2(11)
#define MOEC_NAMES_128 MOEC_NAMES_110 ", " MOEC_N10(11) ", " MOEC_N8(12)
#define MOEC_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MOEC_D16(i) MOEC_D4(i), MOEC_D4(i + 4), MOEC_D4(i + 8), MOEC_D4(i + 12)
#define MOEC_OPERANDS_4 MOEC_D4(0)
#define MOEC_OPERANDS_8 MOEC_D4(0), MOEC_D4(4)
#define MOEC_OPERANDS_16 MOEC_D16(0)
#define MOEC_OPERANDS_32 MOEC_OPERANDS_16, MOEC_D16(16)
#define MOEC_OPERANDS_48 MOEC_OPERANDS_32, MOEC_D16(32)
#define MOEC_OPERANDS_64 MOEC_OPERANDS_48, MOEC_D16(48)
#define MOEC_OPERANDS_80 MOEC_OPERANDS_64, MOEC_D16(64)
#define MOEC_OPERANDS_96 MOEC_OPERANDS_80, MOEC_D16(80)
#define MOEC_OPERANDS_112 MOEC_OPERANDS_96, MOEC_D16(96)
#define MOEC_OPERANDS_128 MOEC_OPERANDS_112, MOEC_D16(112)

// `count` accumulators a thread, the numbers of the two descriptors after them. The operands after those: accumulate (a predicate
// that is true), A and B not negated, both K-major.
#define MOEC_WGMMA(n, type, count, first, second)                                                                      \
  asm volatile("{\n"                                                                                                   \
               ".reg .pred accumulate;\n"                                                                              \
               "setp.eq.u32 accumulate, 0, 0;\n"                                                                       \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" MOEC_NAMES_##count "}, "           \
               "%" #first ", %" #second ", accumulate, 1, 1, 0, 0;\n"                                                  \
               "}" : MOEC_OPERANDS_##count : "l"(a), "l"(b))
#define MOEC_WGMMA_ANY(type)                                             \
  if constexpr (N == 8) MOEC_WGMMA(8, type, 4, 4, 5);                    \
  if constexpr (N == 16) MOEC_WGMMA(16, type, 8, 8, 9);                  \
  if constexpr (N == 32) MOEC_WGMMA(32, type, 16, 16, 17);               \
  if constexpr (N == 64) MOEC_WGMMA(64, type, 32, 32, 33);               \
  if constexpr (N == 96) MOEC_WGMMA(96, type, 48, 48, 49);               \
  if constexpr (N == 128) MOEC_WGMMA(128, type, 64, 64, 65);             \
  if constexpr (N == 160) MOEC_WGMMA(160, type, 80, 80, 81);             \
  if constexpr (N == 192) MOEC_WGMMA(192, type, 96, 96, 97);             \
  if constexpr (N == 224) MOEC_WGMMA(224, type, 112, 112, 113);          \
  if constexpr (N == 256) MOEC_WGMMA(256, type, 128, 128, 129)
// clang-format on

template <int N>
constexpr bool moec_wgmma_has = N == 8 || N == 16 || (N % 32 == 0 && N >= 32 && N <= 256);

/**
 * D[64][N] += A[64][16] B[N][16] transposed, of the operands that descriptors a and b name (the same in all 128 threads). Thread t of
 * the warpgroup holds in d[4 j + 2 h + c] row t / 32 * 16 + t % 32 / 4 + 8 h and column 8 j + t % 4 * 2 + c. Asynchronous.
 */
template <int N>
MOEC_INLINE void moec_wgmma_m64k16_bf16(float* d, uint64_t a, uint64_t b) {
  static_assert(moec_wgmma_has<N>, "N is one of 8, 16, 32, 64, 96, 128, 160, 192, 224, 256");
  MOEC_SM90(MOEC_WGMMA_ANY("bf16"));
  MOEC_CPU(moec_emu::product(d, a, b, N, false));
}
template <int N>
MOEC_INLINE void moec_wgmma_m64k16_f16(float* d, uint64_t a, uint64_t b) {
  static_assert(moec_wgmma_has<N>, "N is one of 8, 16, 32, 64, 96, 128, 160, 192, 224, 256");
  MOEC_SM90(MOEC_WGMMA_ANY("f16"));
  MOEC_CPU(moec_emu::product(d, a, b, N, true));
}

/** The same, of operands at a and b: rows as in moec_wgmma_descriptor, from the column on that the address points to. */
template <int N>
MOEC_INLINE void moec_wgmma_m64k16_bf16(float* d, const void* a, const void* b) {
  moec_wgmma_m64k16_bf16<N>(d, moec_wgmma_descriptor(a), moec_wgmma_descriptor(b));
}
template <int N>
MOEC_INLINE void moec_wgmma_m64k16_f16(float* d, const void* a, const void* b) {
  moec_wgmma_m64k16_f16<N>(d, moec_wgmma_descriptor(a), moec_wgmma_descriptor(b));
}

// ---------------------------------------------------------------- registers
// All 128 threads of a warpgroup; R is a multiple of 8 from 24 to 256. A warpgroup that takes more waits until others have given back.

template <int R>
MOEC_INLINE void moec_setmaxnreg_inc() {
  MOEC_SM90(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(R)));
  MOEC_CPU(moec_emu::set_registers<R>());
}
template <int R>
MOEC_INLINE void moec_setmaxnreg_dec() {
  MOEC_SM90(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(R)));
  MOEC_CPU(moec_emu::set_registers<R>());
}
