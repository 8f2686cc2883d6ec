// Small kernels with the mistakes that kernels of this kind have, to be run under the emulator only:
//
//   faults KERNEL BUG      BUG "none": the kernel as it should be
//
// Exits with 0 and "right", or with 1 and "wrong" after a wrong result; a fault of the emulator aborts.
#define MOEC_HOPPER
#include "../../../src/codegen/cuda/prelude.cuh"
#include "conformance_frame.h"

// clang-format off
/** What is wrong with the kernel. ("plain-stores" is not wrong.) */
#define BUGS(ROW)                                             \
  ROW(kNone, "none")                                          \
  ROW(kNoBarrier, "no-barrier")                               \
  ROW(kLoadBeforeBarrier, "load-before-barrier")              \
  ROW(kWaitForOneGroupLess, "wait-for-one-group-less")        \
  ROW(kNoCommitWithoutLoad, "no-commit-without-load")         \
  ROW(kMisalignedCopy, "misaligned-copy")                     \
  ROW(kLaneSkipsProduct, "lane-skips-product")                \
  ROW(kTooLittleShared, "too-little-shared")                  \
  ROW(kNoEmptyWait, "no-empty-wait")                          \
  ROW(kEarlyRelease, "early-release")                         \
  ROW(kExpectTooLittle, "expect-too-little")                  \
  ROW(kExpectTooMuch, "expect-too-much")                      \
  ROW(kNoSwizzle, "no-swizzle")                               \
  ROW(kWrongAdvance, "wrong-advance")                         \
  ROW(kArriveBeforeCopies, "arrive-before-copies")            \
  ROW(kNoFullWait, "no-full-wait")                            \
  ROW(kNoProductWait, "no-product-wait")                      \
  ROW(kReadBeforeWait, "read-before-wait")                    \
  ROW(kNoProxyFence, "no-proxy-fence")                        \
  ROW(kNoProductFence, "no-product-fence")                    \
  ROW(kNoInitFence, "no-init-fence")                          \
  ROW(kNoProductCommit, "no-product-commit")                  \
  ROW(kWrongParity, "wrong-parity")                           \
  ROW(kMisalignedStage, "misaligned-stage")                   \
  ROW(kArriveTwice, "arrive-twice")                           \
  ROW(kDescriptorsDiffer, "descriptors-differ")               \
  ROW(kCopyLeftBehind, "copy-left-behind")                    \
  ROW(kPlainStores, "plain-stores")                           \
  ROW(kStoresWithoutFence, "stores-without-fence")            \
  ROW(kBarrierOverwritten, "barrier-overwritten")             \
  ROW(kNoBarrierBefore, "no-barrier-before")                  \
  ROW(kNoBarrierAfter, "no-barrier-after")                    \
  ROW(kDivergentBarrier, "divergent-barrier")                 \
  ROW(kBarrierCountsDiffer, "barrier-counts-differ")          \
  ROW(kHalfWarpExits, "half-warp-exits")                      \
  ROW(kStoreBeyondShared, "store-beyond-shared")              \
  ROW(kStoreBeyondMemory, "store-beyond-memory")              \
  ROW(kSpinWait, "spin-wait")                                 \
  ROW(kTooManyRegisters, "too-many-registers")
// clang-format on
#define BUG_NUMBER(bug, name) bug,
#define BUG_NAME(bug, name) {name, bug},
enum Bug : uint32_t { BUGS(BUG_NUMBER) };
static const struct {
  const char* name;
  Bug bug;
} kBugs[] = {BUGS(BUG_NAME)};

static std::vector<uint16_t> integers(size_t count) {
  uint16_t values[9];
  for (int i = 0; i < 9; i++) values[i] = nearest_half((float)i - 4, kBf16);
  std::vector<uint16_t> x(count);
  for (uint16_t& v : x) v = values[random_word() % 9];
  return x;
}

/** A [rows][depth] times B [cols][depth] transposed. */
static std::vector<float> product_of(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b, size_t rows, size_t cols, size_t depth) {
  // A bf16 is the upper half of an f32.
  const auto value = [](uint16_t x) { return float_of((uint32_t)x << 16); };
  std::vector<float> d(rows * cols);
  for (size_t r = 0; r < rows; r++) {
    for (size_t c = 0; c < cols; c++) {
      for (size_t k = 0; k < depth; k++) d[r * cols + c] += value(a[r * depth + k]) * value(b[c * depth + k]);
    }
  }
  return d;
}

// ---------------------------------------------------------------- a tile by mma.sync: a ring of stages filled by cp.async

constexpr uint32_t kDepth = 256;
constexpr uint32_t kMmaSlice = 32;
constexpr uint32_t kMmaStages = 3;
constexpr uint32_t kMmaRow = kMmaSlice * 2 + 16;  // bytes; padded against bank conflicts
constexpr uint32_t kMmaStage = (32 + 16) * kMmaRow;

/** D[32][16]: two warps, 16 rows each. Rows 0 to 31 of a stage are A's, the others B's. */
__global__ void __launch_bounds__(64) mma_tile(const uint16_t* a, const uint16_t* b, float* d, Bug bug) {
  const uint32_t t = threadIdx.x;
  const uint32_t lane = t % 32;
  const uint32_t warp = t / 32;
  const auto load = [&](uint32_t slice) {
    unsigned char* stage = moec_smem + slice % kMmaStages * kMmaStage;
    for (uint32_t i = t; i < 48 * 4; i += 64) {
      const uint32_t row = i / 4;
      const uint16_t* from = (row < 32 ? a + row * kDepth : b + (row - 32) * kDepth) + slice * kMmaSlice + i % 4 * 8;
      moec_cp_async16(stage + row * kMmaRow + i % 4 * 16 + (bug == kMisalignedCopy ? 8 : 0), from, true);
    }
  };
  constexpr uint32_t slices = kDepth / kMmaSlice;
  float acc[2][4] = {};
  for (uint32_t s = 0; s < kMmaStages - 1; s++) {
    load(s);
    moec_cp_async_commit();
  }
  for (uint32_t s = 0; s < slices; s++) {
    if (bug == kWaitForOneGroupLess) {
      moec_cp_async_wait<kMmaStages - 1>();
    } else {
      moec_cp_async_wait<kMmaStages - 2>();
    }
    const bool more = s + kMmaStages - 1 < slices;
    if (bug == kLoadBeforeBarrier && more) load(s + kMmaStages - 1);
    if (bug != kNoBarrier) __syncthreads();
    if (bug != kLoadBeforeBarrier && more) load(s + kMmaStages - 1);
    if (more || bug != kNoCommitWithoutLoad) moec_cp_async_commit();
    const unsigned char* stage = moec_smem + s % kMmaStages * kMmaStage;
    for (uint32_t k = 0; k < kMmaSlice; k += 16) {
      uint32_t ra[4];
      uint32_t rb[4];
      moec_ldmatrix_x4(ra, stage + (warp * 16 + lane % 16) * kMmaRow + (k + lane / 16 * 8) * 2);
      moec_ldmatrix_x4(rb, stage + (32 + lane % 8 + lane / 16 * 8) * kMmaRow + (k + lane / 8 % 2 * 8) * 2);
      if (bug == kLaneSkipsProduct && s == 2 && lane == 31) continue;
      moec_mma_m16n8k16_bf16(acc[0], ra, rb);
      moec_mma_m16n8k16_bf16(acc[1], ra, rb + 2);
    }
  }
  for (uint32_t n = 0; n < 2; n++) {
    for (uint32_t i = 0; i < 4; i++) d[(warp * 16 + lane / 4 + i / 2 * 8) * 16 + n * 8 + lane % 4 * 2 + i % 2] = acc[n][i];
  }
}

static bool run_mma(Bug bug) {
  const std::vector<uint16_t> a = integers(32 * kDepth);
  const std::vector<uint16_t> b = integers(16 * kDepth);
  Memory<uint16_t> device_a(a);
  Memory<uint16_t> device_b(b);
  Memory<float> d(32 * 16);
  const uint32_t bytes = kMmaStages * kMmaStage - (bug == kTooLittleShared ? 64 : 0);
  MOEC_LAUNCH(mma_tile, 1, 64, bytes, 0, device_a.device, device_b.device, d.device, bug);
  return d.read() == product_of(a, b, 32, 16, kDepth);
}

// ---------------------------------------------------------------- a tile by wgmma: one warpgroup loads, one multiplies

constexpr uint32_t kSlices = kDepth / 64;
constexpr uint32_t kStages = 3;
constexpr uint32_t kLag = 1;
constexpr uint32_t kStageA = 64 * 128;
constexpr uint32_t kColumns = 32;
constexpr uint32_t kStageB = kColumns * 128;
constexpr uint32_t kStage = kStageA + kStageB;
constexpr uint32_t kTiles = 3;

/**
 * D[tile][64][32] = A[rows[64 tile ..]] B[tile] transposed, for `kTiles` tiles. The loading warpgroup gathers A's rows by cp.async and
 * swizzles them itself, its first thread copies B's as boxes. `full` waits for 128 threads and the announcement of a box.
 */
__global__ void __launch_bounds__(256) wgmma_tile(const uint16_t* a, const uint32_t* rows, float* d, Bug bug, const __grid_constant__ CUtensorMap map) {
  uint64_t* full = reinterpret_cast<uint64_t*>(moec_smem + kStages * kStage);
  uint64_t* empty = full + kStages;
  const uint32_t t = threadIdx.x % 128;
  const uint32_t base = bug == kMisalignedStage ? 512 : 0;
  if (threadIdx.x == 0) {
    for (uint32_t s = 0; s < kStages; s++) {
      moec_mbarrier_init(full + s, 129);
      moec_mbarrier_init(empty + s, 1);
    }
    if (bug != kNoInitFence) moec_mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    moec_setmaxnreg_dec<56>();
    const auto arrive = [&](uint32_t step) {
      if (bug != kNoProxyFence && bug != kStoresWithoutFence) moec_fence_async();
      moec_mbarrier_arrive(full + step % kStages);
      if (bug == kArriveTwice && step == 1 && t == 5) moec_mbarrier_arrive(full + step % kStages);
    };
    for (uint32_t step = 0; step < kTiles * kSlices; step++) {
      const uint32_t s = step % kStages;
      const uint32_t tile = step / kSlices;
      const uint32_t column = step % kSlices * 64;
      unsigned char* stage = moec_smem + base + s * kStage;
      const uint32_t parity = step / kStages % 2;
      if (bug != kNoEmptyWait) moec_mbarrier_wait(empty + s, bug == kWrongParity ? parity : parity ^ 1);
      if (t == 0) {
        const uint32_t bytes = bug == kExpectTooLittle ? kStageB / 2 : bug == kExpectTooMuch ? kStageB * 2 : kStageB;
        moec_mbarrier_expect(full + s, bytes);
        moec_tma_load_2d(stage + kStageA, &map, full + s, (int)column, (int)(tile * kColumns));
      }
      for (uint32_t i = t; i < 64 * 8; i += 128) {
        const uint32_t row = i / 8;
        const uint32_t chunk = bug == kNoSwizzle ? i % 8 : i % 8 ^ row % 8;
        unsigned char* to = stage + row * 128 + chunk * 16;
        const uint16_t* from = a + rows[tile * 64 + row] * kDepth + column + i % 8 * 8;
        if (bug == kPlainStores || bug == kStoresWithoutFence) {
          *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        } else {
          moec_cp_async16(to, from, true);
        }
      }
      moec_cp_async_commit();
      if (bug == kArriveBeforeCopies) {
        arrive(step);
      } else if (step >= kLag) {
        moec_cp_async_wait<kLag>();
        arrive(step - kLag);
      }
    }
    moec_cp_async_wait<0>();
    if (bug != kArriveBeforeCopies) arrive(kTiles * kSlices - 1);
    if (bug == kCopyLeftBehind && t == 0) {
      const uint32_t s = kTiles * kSlices % kStages;
      moec_mbarrier_wait(empty + s, (kTiles * kSlices / kStages - 1) % 2);
      moec_tma_load_2d(moec_smem + s * kStage + kStageA, &map, full + s, 0, 0);
    }
  } else {
    moec_setmaxnreg_inc<224>();
    uint32_t step = 0;
    for (uint32_t tile = 0; tile < kTiles; tile++) {
      float acc[kColumns / 2] = {};
      for (uint32_t slice = 0; slice < kSlices; slice++, step++) {
        const uint32_t s = step % kStages;
        if (bug != kNoFullWait) moec_mbarrier_wait(full + s, step / kStages % 2);
        const unsigned char* stage = moec_smem + base + s * kStage;
        if (bug == kBarrierOverwritten && step == 2 && t == 3) full[1] = 0;
        const uint64_t da = moec_wgmma_descriptor(stage) + (bug == kDescriptorsDiffer && t == 77 ? 2 : 0);
        const uint64_t db = moec_wgmma_descriptor(stage + kStageA);
        moec_wgmma_keep<kColumns / 2>(acc);
        if (bug != kNoProductFence) moec_wgmma_fence();
        for (uint32_t k = 0; k < 4; k++) {
          const uint32_t advance = bug == kWrongAdvance ? 1 : 2;
          moec_wgmma_m64k16_bf16<kColumns>(acc, da + k * advance, db + k * advance);
        }
        if (bug != kNoProductCommit) moec_wgmma_commit();
        if (bug == kEarlyRelease) {
          if (t == 0) moec_mbarrier_arrive(empty + s);
        } else if (slice > 0) {
          moec_wgmma_wait<1>();
          if (t == 0) moec_mbarrier_arrive(empty + (step - 1) % kStages);
        }
      }
      if (bug != kNoProductWait && bug != kReadBeforeWait) moec_wgmma_wait<0>();
      moec_wgmma_keep<kColumns / 2>(acc);
      if (bug != kEarlyRelease && bug != kReadBeforeWait && t == 0) moec_mbarrier_arrive(empty + (step - 1) % kStages);
      for (uint32_t i = 0; i < kColumns / 2; i++) {
        const uint32_t row = tile * 64 + t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8;
        d[row * kColumns + i / 4 * 8 + t % 4 * 2 + i % 2] = acc[i];
      }
      if (bug == kReadBeforeWait) {
        moec_wgmma_wait<0>();
        if (t == 0) moec_mbarrier_arrive(empty + (step - 1) % kStages);
      }
    }
  }
}

static bool run_wgmma(Bug bug) {
  const std::vector<uint16_t> a = integers(100 * kDepth);
  const std::vector<uint16_t> b = integers(kTiles * kColumns * kDepth);
  std::vector<uint32_t> rows(kTiles * 64);
  for (uint32_t& row : rows) row = random_word() % 100;
  std::vector<float> want;
  for (uint32_t tile = 0; tile < kTiles; tile++) {
    std::vector<uint16_t> gathered;
    for (uint32_t i = 0; i < 64; i++) {
      const auto row = a.begin() + rows[tile * 64 + i] * kDepth;
      gathered.insert(gathered.end(), row, row + kDepth);
    }
    const std::vector<uint16_t> own(b.begin() + tile * kColumns * kDepth, b.begin() + (tile + 1) * kColumns * kDepth);
    const std::vector<float> part = product_of(gathered, own, 64, kColumns, kDepth);
    want.insert(want.end(), part.begin(), part.end());
  }
  Memory<uint16_t> device_a(a);
  Memory<uint16_t> device_b(b);
  Memory<uint32_t> device_rows(rows);
  Memory<float> d(want.size());
  const cuuint64_t sizes[2] = {kDepth, kTiles * kColumns};
  const cuuint64_t strides[1] = {kDepth * 2};
  const cuuint32_t box[2] = {64, kColumns};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap map;
  if (cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, device_b.device, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
    exit(2);
  }
  const uint32_t bytes = kStages * kStage + 1024;
  MOEC_LAUNCH(wgmma_tile, 1, 256, bytes, 0, device_a.device, device_rows.device, d.device, bug, map);
  return d.read() == want;
}

// ---------------------------------------------------------------- sums of a block, twice over the same shared memory

__global__ void reduce(const float* x, float* y, uint32_t* flag, Bug bug) {
  float* shared = reinterpret_cast<float*>(moec_smem);
  const uint32_t t = threadIdx.x;
  const uint32_t warps = blockDim.x / 32;
  if (bug == kHalfWarpExits && t >= 112) return;
  if (bug == kSpinWait && t == 0) {
    while (atomicAdd(flag, 0u) != blockIdx.x + 1) {
    }
  }
  if (bug == kBarrierCountsDiffer) moec_barrier_sync(1, t < 64 ? 64 : 128);
  if (bug == kTooManyRegisters) moec_setmaxnreg_inc<240>();
  for (uint32_t round = 0; round < 2; round++) {
    const float own = moec_warp_add(x[round * blockDim.x + t]);
    if (t % 32 == 0) shared[t / 32] = own;
    if (bug == kDivergentBarrier) {
      if (t % 32 < 16) __syncthreads();
    } else if (bug != kNoBarrierBefore) {
      __syncthreads();
    }
    float sum = 0;
    for (uint32_t w = 0; w < warps; w++) sum += shared[w];
    if (bug != kNoBarrierAfter) __syncthreads();
    y[round * blockDim.x + t] = sum;
  }
  if (bug == kStoreBeyondShared && t == 9) shared[warps + 3] = 1;
  if (bug == kStoreBeyondMemory && t == 9) y[2 * blockDim.x + 3] = 1;
}

static bool run_reduce(Bug bug) {
  const uint32_t threads = bug == kTooManyRegisters ? 384 : 128;
  std::vector<float> x(2 * threads);
  std::vector<float> want(2 * threads);
  for (float& v : x) v = (float)random_between(-100, 100);
  for (uint32_t i = 0; i < 2 * threads; i++) {
    for (uint32_t k = 0; k < threads; k++) want[i] += x[i / threads * threads + k];
  }
  Memory<float> input(x);
  Memory<float> y(2 * threads);
  Memory<uint32_t> flag(1);
  MOEC_LAUNCH(reduce, 1, threads, threads / 32 * 4, 0, input.device, y.device, flag.device, bug);
  return y.read() == want;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  for (const auto& [name, bug] : kBugs) {
    if (strcmp(name, argv[2]) != 0) continue;
    const bool right = argv[1][0] == 'm' ? run_mma(bug) : argv[1][0] == 'w' ? run_wgmma(bug) : run_reduce(bug);
    printf("%s\n", right ? "right" : "wrong");
    return right ? 0 : 1;
  }
  return 2;
}
