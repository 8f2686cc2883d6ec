// The instructions of tensor cores and asynchronous copies, each against its definition. Included by conformance.cu.
// Operands are small integers, so that every order of summation gives the same bits: nothing may deviate.
#pragma once

/** Whole numbers as 16-bit floats. */
static std::vector<uint16_t> small_integers(size_t count, int fraction) {
  std::vector<uint16_t> x(count);
  for (uint16_t& v : x) v = nearest_half((float)random_between(-4, 4), fraction);
  return x;
}
static std::vector<uint16_t> random_halves(size_t count) {
  std::vector<uint16_t> x(count);
  for (uint16_t& v : x) v = (uint16_t)random_word();
  return x;
}
template <class T>
static double worst_of(const std::vector<T>& got, const std::vector<T>& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); i++) worst = fmax(worst, deviation(got[i], want[i]));
  return worst;
}

// ---------------------------------------------------------------- shared memory and barriers

__global__ void shared_address_kernel(uint32_t* y) {
  const uint32_t base = moec_shared_address(moec_smem);
  y[0] = base % 1024;
  y[1] = moec_shared_address(moec_smem + 48) - base;
}

static void run_shared_address() {
  Memory<uint32_t> y(2);
  MOEC_LAUNCH(shared_address_kernel, 1, 1, 2048, 0, y.device);
  report("shared_address", 2, worst_of(y.read(), {0, 48}), 0);
}

/** Warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2, and exchange values; warp 0 is late. */
__global__ void barrier_sync_kernel(const uint32_t* x, uint32_t* y) {
  uint32_t* shared = reinterpret_cast<uint32_t*>(moec_smem);
  const uint32_t t = threadIdx.x;
  for (uint32_t round = 0; round < 4; round++) {
    shared[t] = x[round * 128 + t];
    moec_barrier_sync(1 + t / 64, 64);
    y[round * 128 + t] = shared[t ^ 32];
    moec_barrier_sync(1 + t / 64, 64);
  }
}

static void run_barrier_sync() {
  std::vector<uint32_t> x(512);
  std::vector<uint32_t> want(512);
  for (uint32_t& v : x) v = random_word();
  for (size_t i = 0; i < 512; i++) want[i] = x[i ^ 32];
  Memory<uint32_t> input(x);
  Memory<uint32_t> y(512);
  MOEC_LAUNCH(barrier_sync_kernel, 1, 128, 512, 0, input.device, y.device);
  report("barrier_sync", 512, worst_of(y.read(), want), 0);
}

/** Each thread copies for itself, in three groups, and reads each after waiting for it. A third of the copies are zeros. */
__global__ void cp_async_kernel(const uint4* x, uint4* y) {
  uint4* shared = reinterpret_cast<uint4*>(moec_smem);
  const uint32_t t = threadIdx.x;
  for (uint32_t group = 0; group < 3; group++) {
    const bool valid = (group + t) % 3 != 0;
    moec_cp_async16(&shared[group * 32 + t], valid ? &x[group * 32 + t] : nullptr, valid);
    moec_cp_async_commit();
  }
  moec_cp_async_wait<2>();
  y[t] = shared[t];
  moec_cp_async_wait<0>();
  y[32 + t] = shared[32 + t];
  y[64 + t] = shared[64 + t];
}

static void run_cp_async() {
  std::vector<uint4> x(96);
  for (size_t i = 0; i < 96; i++) fill(x[i], i);
  std::vector<uint4> want = x;
  for (size_t i = 0; i < 96; i++) {
    if ((i / 32 + i % 32) % 3 == 0) want[i] = make_uint4(0, 0, 0, 0);
  }
  Memory<uint4> input(x);
  Memory<uint4> y(96);
  MOEC_LAUNCH(cp_async_kernel, 1, 32, 96 * 16, 0, input.device, y.device);
  report("cp_async", 96 * 4, worst_of(y.read(), want), 0);
}

// ---------------------------------------------------------------- ldmatrix, mma

/** Rows of 8 elements lie 80 bytes apart; lane l names row 7 l mod 32. */
__global__ void ldmatrix_kernel(const uint16_t* x, uint32_t* y) {
  uint16_t* shared = reinterpret_cast<uint16_t*>(moec_smem);
  const uint32_t t = threadIdx.x;
  for (uint32_t i = 0; i < 8; i++) shared[t * 40 + i] = x[t * 8 + i];
  __syncwarp();
  const uint16_t* row = &shared[t * 7 % 32 * 40];
  uint32_t r[10];
  moec_ldmatrix_x4(r, row);
  moec_ldmatrix_x4_trans(r + 4, row);
  moec_ldmatrix_x2(r + 8, row);
  for (uint32_t i = 0; i < 10; i++) y[t * 10 + i] = r[i];
}

static void run_ldmatrix() {
  const std::vector<uint16_t> x = random_halves(256);
  Memory<uint16_t> input(x);
  Memory<uint32_t> y(320);
  MOEC_LAUNCH(ldmatrix_kernel, 1, 32, 32 * 80, 0, input.device, y.device);
  const std::vector<uint32_t> got = y.read();
  const auto element = [&](int matrix, int row, int col) { return (uint32_t)x[(size_t)(matrix * 8 + row) * 7 % 32 * 8 + (size_t)col]; };
  double worst[3] = {0, 0, 0};
  for (int t = 0; t < 32; t++) {
    for (int m = 0; m < 4; m++) {
      const uint32_t straight = element(m, t / 4, t % 4 * 2) | element(m, t / 4, t % 4 * 2 + 1) << 16;
      const uint32_t transposed = element(m, t % 4 * 2, t / 4) | element(m, t % 4 * 2 + 1, t / 4) << 16;
      worst[0] = fmax(worst[0], deviation(got[t * 10 + m], straight));
      worst[1] = fmax(worst[1], deviation(got[t * 10 + 4 + m], transposed));
      if (m < 2) worst[2] = fmax(worst[2], deviation(got[t * 10 + 8 + m], straight));
    }
  }
  report("ldmatrix_x4", 128, worst[0], 0);
  report("ldmatrix_x4_trans", 128, worst[1], 0);
  report("ldmatrix_x2", 64, worst[2], 0);
}

template <bool f16>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* d) {
  const uint32_t t = threadIdx.x;
  uint32_t ra[4];
  uint32_t rb[2];
  float rd[4];
  MOEC_UNROLL
  for (int i = 0; i < 4; i++) {
    ra[i] = a[t * 4 + i];
    rd[i] = d[t * 4 + i];
    if (i < 2) rb[i] = b[t * 2 + i];
  }
  if constexpr (f16) {
    moec_mma_m16n8k16_f16(rd, ra, rb);
  } else {
    moec_mma_m16n8k16_bf16(rd, ra, rb);
  }
  MOEC_UNROLL
  for (int i = 0; i < 4; i++) d[t * 4 + i] = rd[i];
}

/** Fragments as the PTX manual draws them: registers hold pairs of neighbouring columns of A, and of neighbouring rows of B. */
template <bool f16>
static void run_mma(const char* name) {
  const int fraction = f16 ? kF16 : kBf16;
  const std::vector<uint16_t> a = small_integers(16 * 16, fraction);
  const std::vector<uint16_t> b = small_integers(16 * 8, fraction);
  std::vector<uint32_t> fragment_a(128);
  std::vector<uint32_t> fragment_b(64);
  std::vector<float> d(128);
  std::vector<float> want(128);
  for (int lane = 0; lane < 32; lane++) {
    const int group = lane >> 2;
    const int in_group = lane & 3;
    for (int i = 0; i < 8; i++) {  // element i of A: half i % 2 of register i / 2
      const int row = group + ((i / 2) % 2 == 0 ? 0 : 8);
      const int col = in_group * 2 + i % 2 + (i < 4 ? 0 : 8);
      fragment_a[lane * 4 + i / 2] |= (uint32_t)a[row * 16 + col] << i % 2 * 16;
    }
    for (int i = 0; i < 4; i++) {
      const int row = in_group * 2 + i % 2 + (i < 2 ? 0 : 8);
      fragment_b[lane * 2 + i / 2] |= (uint32_t)b[row * 8 + group] << i % 2 * 16;
    }
    for (int i = 0; i < 4; i++) {
      const int row = i < 2 ? group : group + 8;
      const int col = in_group * 2 + i % 2;
      d[lane * 4 + i] = (float)random_between(-100, 100);
      want[lane * 4 + i] = d[lane * 4 + i];
      for (int k = 0; k < 16; k++) want[lane * 4 + i] += half_value(a[row * 16 + k], fraction) * half_value(b[k * 8 + col], fraction);
    }
  }
  Memory<uint32_t> device_a(fragment_a);
  Memory<uint32_t> device_b(fragment_b);
  Memory<float> device_d(d);
  MOEC_LAUNCH(mma_kernel<f16>, 1, 32, 0, 0, device_a.device, device_b.device, device_d.device);
  report(name, 128, worst_of(device_d.read(), want), 0);
}

// ---------------------------------------------------------------- mbarriers, boxes

/** Warp 0 hands warp 1 values through two stages; each waits for the other by an mbarrier. */
__global__ void mbarrier_kernel(const uint32_t* x, uint32_t* y, uint32_t rounds) {
  uint64_t* full = reinterpret_cast<uint64_t*>(moec_smem);
  uint64_t* empty = full + 2;
  uint32_t* stage = reinterpret_cast<uint32_t*>(moec_smem + 64);
  const uint32_t lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; s++) {
      moec_mbarrier_init(full + s, 32);
      moec_mbarrier_init(empty + s, 32);
    }
    moec_mbarrier_init_fence();
  }
  __syncthreads();
  for (uint32_t i = 0; i < rounds; i++) {
    const uint32_t s = i % 2;
    const uint32_t parity = i / 2 % 2;
    if (threadIdx.x < 32) {
      moec_mbarrier_wait(empty + s, parity ^ 1);
      stage[s * 32 + lane] = x[i * 32 + lane];
      moec_mbarrier_arrive(full + s);
    } else {
      moec_mbarrier_wait(full + s, parity);
      y[i * 32 + lane] = stage[s * 32 + (lane ^ 1)];
      moec_mbarrier_arrive(empty + s);
    }
  }
}

static void run_mbarrier() {
  constexpr uint32_t rounds = 9;
  std::vector<uint32_t> x(rounds * 32);
  std::vector<uint32_t> want(rounds * 32);
  for (uint32_t& v : x) v = random_word();
  for (size_t i = 0; i < x.size(); i++) want[i] = x[i ^ 1];
  Memory<uint32_t> input(x);
  Memory<uint32_t> y(x.size());
  MOEC_LAUNCH(mbarrier_kernel, 1, 64, 64 + 256, 0, input.device, y.device, rounds);
  report("mbarrier", x.size(), worst_of(y.read(), want), 0);
}

/** The map of a matrix [rows, cols] of 16-bit floats, in boxes of [box_rows, 64] with the 128-byte swizzle. */
static CUtensorMap make_map(const void* base, uint64_t rows, uint64_t cols, uint32_t box_rows, CUtensorMapDataType type) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult query;
  check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &query), "entry point");
  const cuuint64_t sizes[2] = {cols, rows};
  const cuuint64_t strides[1] = {cols * 2};
  const cuuint32_t box[2] = {64, box_rows};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap map;
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  if (encode(&map, type, 2, const_cast<void*>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
    printf("cuTensorMapEncodeTiled failed\n");
    exit(2);
  }
  return map;
}

constexpr uint32_t kBoxRows = 24;
constexpr uint32_t kBoxWords = kBoxRows * 32;

__global__ void tma_kernel(uint32_t* y, int col, int row, const __grid_constant__ CUtensorMap map) {
  uint64_t* barrier = reinterpret_cast<uint64_t*>(moec_smem + kBoxRows * 128);
  if (threadIdx.x == 0) {
    moec_tma_prefetch(&map);
    moec_mbarrier_init(barrier, 1);
    moec_mbarrier_init_fence();
    moec_mbarrier_expect(barrier, kBoxRows * 128);
    moec_tma_load_2d(moec_smem, &map, barrier, col, row);
  }
  __syncthreads();
  moec_mbarrier_wait(barrier, 0);
  for (uint32_t i = threadIdx.x; i < kBoxWords; i += 128) y[i] = reinterpret_cast<const uint32_t*>(moec_smem)[i];
}

static void run_tma() {
  constexpr int rows = 50;
  constexpr int cols = 136;
  const std::vector<uint16_t> x = random_halves(rows * cols);
  Memory<uint16_t> input(x);
  const int starts[][2] = {{0, 0}, {64, 24}, {128, 40}, {-8, -5}, {3, 1}, {1000, 0}};
  double worst = 0;
  for (const auto& start : starts) {
    const int col = start[0];
    const int row = start[1];
    for (CUtensorMapDataType type : {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_DATA_TYPE_FLOAT16}) {
      const CUtensorMap map = make_map(input.device, rows, cols, kBoxRows, type);
      Memory<uint32_t> y(kBoxWords);
      MOEC_LAUNCH(tma_kernel, 1, 128, kBoxRows * 128 + 8, 0, y.device, col, row, map);
      const std::vector<uint32_t> got = y.read();
      for (int r = 0; r < (int)kBoxRows; r++) {
        for (int c = 0; c < 64; c++) {
          const bool inside = row + r >= 0 && row + r < rows && col + c >= 0 && col + c < cols;
          const uint16_t want = inside ? x[(size_t)((row + r) * cols + col + c)] : 0;
          // The 16-byte column of a row is xored with the row.
          const size_t at = (size_t)(r * 64 + (c / 8 ^ r % 8) * 8 + c % 8);
          worst = fmax(worst, deviation((uint16_t)(got[at / 2] >> at % 2 * 16), want));
        }
      }
    }
  }
  report("tma_load_2d", sizeof starts / sizeof starts[0] * 2 * kBoxWords * 2, worst, 0);
}

// ---------------------------------------------------------------- wgmma, registers

/** x: A [64][64], then B [N][64], both as they shall lie in shared memory. Two groups of two products each. */
template <int N, bool f16>
__global__ void __launch_bounds__(128) wgmma_kernel(const uint4* x, float* d) {
  for (uint32_t i = threadIdx.x; i < (64 + N) * 8; i += 128) reinterpret_cast<uint4*>(moec_smem)[i] = x[i];
  moec_fence_async();
  __syncthreads();
  float acc[N / 2];
  MOEC_UNROLL
  for (int i = 0; i < N / 2; i++) acc[i] = d[threadIdx.x * (N / 2) + i];
  const uint64_t a = moec_wgmma_descriptor(moec_smem);
  const uint64_t b = moec_wgmma_descriptor(moec_smem + 64 * 128);
  moec_wgmma_keep<N / 2>(acc);
  moec_wgmma_fence();
  // The first group by descriptors, the second by addresses.
  MOEC_UNROLL
  for (int k = 0; k < 4; k++) {
    const unsigned char* address = moec_smem + k * 32;
    if constexpr (f16) {
      if (k < 2) moec_wgmma_m64k16_f16<N>(acc, a + 2 * k, b + 2 * k);
      if (k >= 2) moec_wgmma_m64k16_f16<N>(acc, address, address + 64 * 128);
    } else {
      if (k < 2) moec_wgmma_m64k16_bf16<N>(acc, a + 2 * k, b + 2 * k);
      if (k >= 2) moec_wgmma_m64k16_bf16<N>(acc, address, address + 64 * 128);
    }
    if (k % 2 == 1) moec_wgmma_commit();
  }
  moec_wgmma_wait<1>();
  moec_wgmma_wait<0>();
  moec_wgmma_keep<N / 2>(acc);
  MOEC_UNROLL
  for (int i = 0; i < N / 2; i++) d[threadIdx.x * (N / 2) + i] = acc[i];
}

static void run_wgmma(int n, bool f16, void (*kernel)(const uint4*, float*)) {
  const int fraction = f16 ? kF16 : kBf16;
  const size_t rows = 64 + (size_t)n;
  const std::vector<uint16_t> x = small_integers(rows * 64, fraction);
  std::vector<uint16_t> image(x.size());
  std::vector<float> value(x.size());
  for (size_t row = 0; row < rows; row++) {
    for (size_t k = 0; k < 64; k++) {
      image[row * 64 + (k / 8 ^ row % 8) * 8 + k % 8] = x[row * 64 + k];
      value[row * 64 + k] = half_value(x[row * 64 + k], fraction);
    }
  }
  const int held = n / 2;
  std::vector<float> d(64 * (size_t)n);
  std::vector<float> want(d.size());
  for (size_t i = 0; i < d.size(); i++) {
    const int thread = (int)i / held;
    const int j = (int)i % held;
    const int row = thread / 32 * 16 + thread % 32 / 4 + (j / 2 % 2) * 8;
    const int col = j / 4 * 8 + thread % 4 * 2 + j % 2;
    d[i] = (float)random_between(-100, 100);
    want[i] = d[i];
    for (int k = 0; k < 64; k++) want[i] += value[row * 64 + k] * value[(64 + col) * 64 + k];
  }
  Memory<uint16_t> input(image);
  Memory<float> device_d(d);
  const int bytes = (int)rows * 128;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute");
  MOEC_LAUNCH(kernel, 1, 128, bytes, 0, reinterpret_cast<const uint4*>(input.device), device_d.device);
  report("wgmma_m64n" + std::to_string(n) + (f16 ? "k16_f16" : "k16_bf16"), d.size(), worst_of(device_d.read(), want), 0);
}

template <bool f16>
static void run_wgmmas() {
  run_wgmma(8, f16, wgmma_kernel<8, f16>);
  run_wgmma(16, f16, wgmma_kernel<16, f16>);
  run_wgmma(32, f16, wgmma_kernel<32, f16>);
  run_wgmma(64, f16, wgmma_kernel<64, f16>);
  run_wgmma(96, f16, wgmma_kernel<96, f16>);
  run_wgmma(128, f16, wgmma_kernel<128, f16>);
  run_wgmma(160, f16, wgmma_kernel<160, f16>);
  run_wgmma(192, f16, wgmma_kernel<192, f16>);
  run_wgmma(224, f16, wgmma_kernel<224, f16>);
  run_wgmma(256, f16, wgmma_kernel<256, f16>);
}

/** One warpgroup gives registers back, two take more; all go on. */
__global__ void __launch_bounds__(384, 1) setmaxnreg_kernel(uint32_t* y) {
  if (threadIdx.x < 128) {
    moec_setmaxnreg_dec<40>();
  } else {
    moec_setmaxnreg_inc<232>();
  }
  y[threadIdx.x] = threadIdx.x * 3;
}

static void run_setmaxnreg() {
  std::vector<uint32_t> want(384);
  for (uint32_t i = 0; i < 384; i++) want[i] = i * 3;
  Memory<uint32_t> y(384);
  MOEC_LAUNCH(setmaxnreg_kernel, 1, 384, 0, 0, y.device);
  report("setmaxnreg", 384, worst_of(y.read(), want), 0);
}

static void run_instructions() {
  run_shared_address();
  run_barrier_sync();
  run_cp_async();
  run_ldmatrix();
  run_mma<false>("mma_m16n8k16_bf16");
  run_mma<true>("mma_m16n8k16_f16");
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  if (major != 9) {
    printf("the instructions of sm_90a are skipped: this device has compute capability %d\n", major);
    return;
  }
  run_mbarrier();
  run_tma();
  run_wgmmas<false>();
  run_wgmmas<true>();
  run_setmaxnreg();
}
