// Products of warpgroups (wgmma), their registers; shared memory at the start and end of a block. A part of emulator.h.
#pragma once

namespace moec_emu {

// ---------------------------------------------------------------- products of warpgroups (wgmma)

constexpr int kProductRows = 64;
constexpr int kProductDepth = 16;
constexpr int kProductColsMax = 256;

struct Product {
  float* d[128];
  uint64_t a;
  uint64_t b;
  int cols;
  bool f16;
  uint64_t group;
};

/** Accumulators of products in flight, as a matrix. The registers themselves hold NaN until all of them are done. */
struct Accumulators {
  const float* first_thread;
  int in_flight;
  std::vector<float> matrix;
};

struct Warpgroup {
  std::vector<Product> queue;
  uint64_t group = 0;
  std::vector<Accumulators> accumulators;
  /** Whether wgmma.fence has been executed since registers may have been touched. */
  bool fenced = false;
  /** Registers a thread has since setmaxnreg; 0: as launched. */
  unsigned registers = 0;
};

inline std::vector<Warpgroup> warpgroups;
inline Warpgroup& my_warpgroup() { return warpgroups[current->warp / 4]; }

/** Where thread t keeps accumulator i of a row-major matrix with `cols` columns. */
inline int accumulator_index(int t, int i, int cols) {
  const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8;
  const int col = i / 4 * 8 + t % 4 * 2 + i % 2;
  return row * cols + col;
}

inline void gather_accumulators(const Product& p, float* matrix) {
  for (int t = 0; t < 128; t++) {
    for (int i = 0; i < p.cols / 2; i++) matrix[accumulator_index(t, i, p.cols)] = p.d[t][i];
  }
}

inline void scatter_accumulators(const Product& p, const float* matrix) {
  for (int t = 0; t < 128; t++) {
    for (int i = 0; i < p.cols / 2; i++) p.d[t][i] = matrix[accumulator_index(t, i, p.cols)];
  }
}

/** Calls use(row, k of the granule's first element, granule) for the operand of `rows` rows and 16 columns that a descriptor names. */
template <class Use>
inline void each_operand_granule(uint64_t descriptor, int rows, Use use) {
  const uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4;
  const uint32_t stride = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
  if (descriptor >> 62 != 1) fault("wgmma: the descriptor does not say 128-byte swizzle, the only one that is known here");
  if ((descriptor >> 49 & 7) != 0 || (start & 0x380) != 0) fault("wgmma: an operand does not start at a multiple of 1024 bytes");
  if (stride != 1024) fault("wgmma: the descriptor's stride is %u bytes, rows of 128 bytes want 1024 for eight", stride);
  if ((start & 127) + kProductDepth * 2 > 128) fault("wgmma: the descriptor is advanced beyond the 128 bytes of a row");
  for (int row = 0; row < rows; row++) {
    for (int k = 0; k < kProductDepth; k += 8) {
      const uint32_t address = swizzle(start + (uint32_t)row / 8 * stride + (uint32_t)row % 8 * 128 + (uint32_t)k * 2);
      if (address < kSharedBase || address - kSharedBase + 16 > block->shared_bytes) {
        fault("wgmma: row %d of an operand is not in the %zu bytes of shared memory of this launch", row, block->shared_bytes);
      }
      use(row, k, (address - kSharedBase) / 16);
    }
  }
}

inline void each_granule_read(const Product& p, void (*use)(uint32_t)) {
  each_operand_granule(p.a, kProductRows, [=](int, int, uint32_t g) { use(g); });
  each_operand_granule(p.b, p.cols, [=](int, int, uint32_t g) { use(g); });
}

/** matrix[64][cols] += A[64][16] B[cols][16] transposed, in ascending k. */
inline void compute_product(const Product& p, float* matrix) {
  static float a[kProductRows][kProductDepth];
  alignas(16) static float b[kProductDepth * kProductColsMax];
  const auto value = [&](uint32_t g, int i) {
    uint16_t x;
    memcpy(&x, moec_smem + g * 16 + i * 2, 2);
    return p.f16 ? f32_of_f16(x) : f32_of_bf16(x);
  };
  each_operand_granule(p.a, kProductRows, [&](int row, int k, uint32_t g) {
    check_async_read("wgmma", g);
    for (int i = 0; i < 8; i++) a[row][k + i] = value(g, i);
  });
  each_operand_granule(p.b, p.cols, [&](int col, int k, uint32_t g) {
    check_async_read("wgmma", g);
    for (int i = 0; i < 8; i++) b[(k + i) * p.cols + col] = value(g, i);
  });
  for (int row = 0; row < kProductRows; row++) {
    for (int col = 0; col < p.cols; col += 8) {
      float* d = matrix + row * p.cols + col;
      Float4 low = {d[0], d[1], d[2], d[3]};
      Float4 high = {d[4], d[5], d[6], d[7]};
      for (int k = 0; k < kProductDepth; k++) {
        const Float4 x = splat(a[row][k]);
        low += x * *(Float4*)&b[k * p.cols + col];
        high += x * *(Float4*)&b[k * p.cols + col + 4];
      }
      memcpy(d, &low, 16);
      memcpy(d + 4, &high, 16);
    }
  }
}

inline void run_product_late(Warpgroup& w, const Product& p) {
  each_granule_read(p, [](uint32_t g) { granules[g].reads_in_flight--; });
  for (size_t i = 0; i < w.accumulators.size(); i++) {
    Accumulators& held = w.accumulators[i];
    if (held.first_thread != p.d[0]) continue;
    compute_product(p, held.matrix.data());
    if (--held.in_flight > 0) return;
    scatter_accumulators(p, held.matrix.data());
    w.accumulators.erase(w.accumulators.begin() + (ptrdiff_t)i);
    return;
  }
}

inline void run_product_now(const Product& p) {
  static std::vector<float> matrix(kProductRows * kProductColsMax);
  gather_accumulators(p, matrix.data());
  compute_product(p, matrix.data());
  scatter_accumulators(p, matrix.data());
}

/** Puts a product in flight: keeps its accumulators apart and leaves NaN in the registers. */
inline void queue_product(Warpgroup& w, const Product& p) {
  each_granule_read(p, [](uint32_t g) {
    check_async_read("wgmma", g);
    granules[g].reads_in_flight++;
  });
  w.queue.push_back(p);
  for (Accumulators& held : w.accumulators) {
    if (held.first_thread != p.d[0]) continue;
    held.in_flight++;
    return;
  }
  w.accumulators.push_back({p.d[0], 1, std::vector<float>(kProductRows * (size_t)p.cols)});
  gather_accumulators(p, w.accumulators.back().matrix.data());
  const std::vector<float> unknown(kProductRows * (size_t)p.cols, bit_cast<float>(0xffffffffu));
  scatter_accumulators(p, unknown.data());
}

struct ProductArgument {
  float* d;
  uint64_t a;
  uint64_t b;
  int cols;
  bool f16;
};

inline void product_work(void* const* args, uint32_t) {
  Warpgroup& w = my_warpgroup();
  const ProductArgument& first = *(const ProductArgument*)args[0];
  if (!w.fenced) fault("wgmma: no wgmma.fence since its registers may have been touched");
  Product p;
  for (int t = 0; t < 128; t++) {
    const ProductArgument& mine = *(const ProductArgument*)args[t];
    if (mine.a != first.a || mine.b != first.b) fault("wgmma: thread %d of the warpgroup has other descriptors than thread 0", t);
    if (mine.cols != first.cols || mine.f16 != first.f16) fault("wgmma: thread %d of the warpgroup executes another shape", t);
    p.d[t] = mine.d;
  }
  p.a = first.a;
  p.b = first.b;
  p.cols = first.cols;
  p.f16 = first.f16;
  p.group = w.group;
  const Options& options = block->options;
  // Products of one warpgroup happen in order: none may overtake those in flight.
  const bool now = !options.late || (options.order == Order::kRandom && w.queue.empty() && random_bit());
  if (now) {
    run_product_now(p);
  } else {
    queue_product(w, p);
  }
}

inline void product(float* d, uint64_t a, uint64_t b, int cols, bool f16) {
  ProductArgument mine{d, a, b, cols, f16};
  group_collective("wgmma", product_work, &mine);
}

inline void product_fence() {
  group_collective("wgmma.fence", [](void* const*, uint32_t) { my_warpgroup().fenced = true; }, nullptr);
}

inline void product_commit() {
  group_collective("wgmma.commit_group", [](void* const*, uint32_t) { my_warpgroup().group++; }, nullptr);
}

/** Waits until at most `groups` committed groups are in flight. */
template <int groups>
inline void product_wait() {
  const auto work = [](void* const*, uint32_t) {
    Warpgroup& w = my_warpgroup();
    size_t done = 0;
    while (done < w.queue.size() && w.queue[done].group + groups < w.group) {
      run_product_late(w, w.queue[done]);
      done++;
    }
    w.queue.erase(w.queue.begin(), w.queue.begin() + (ptrdiff_t)done);
    w.fenced = false;
  };
  group_collective("wgmma.wait_group", work, nullptr);
}

// ---------------------------------------------------------------- registers

/** setmaxnreg: all warps of the warpgroup take `registers` a thread. */
template <int registers>
inline void set_registers() {
  static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "setmaxnreg wants a multiple of 8 from 24 to 256");
  group_collective("setmaxnreg", [](void* const*, uint32_t) { my_warpgroup().registers = registers; }, nullptr);
}

constexpr unsigned kRegisters = 65536;

/** More registers than there are make a GPU wait for ever. */
inline void check_registers() {
  // What the compiler can give at most at launch, in steps of 8.
  const unsigned launched = kRegisters / (block->threads < 256 ? 256 : block->threads) / 8 * 8;
  unsigned total = 0;
  for (const Warpgroup& w : warpgroups) total += (w.registers == 0 ? launched : w.registers) * 128;
  if (total > kRegisters) fault("setmaxnreg: the warpgroups take %u registers, there are %u", total, kRegisters);
}

// ---------------------------------------------------------------- start and end of a block

inline void start_shared_memory() {
  const size_t bytes = block->shared_bytes;
#if MOEC_EMU_ASAN
  __asan_unpoison_memory_region(moec_smem, sizeof moec_smem);
#endif
  memset(moec_smem, kPoison, bytes + kCanary);
#if MOEC_EMU_ASAN
  __asan_poison_memory_region(moec_smem + bytes, sizeof moec_smem - bytes);
#endif
  fences = 0;
  mbarriers.clear();
  warpgroups.assign(block->threads / 128, Warpgroup{});
  memset(granules, 0, (bytes + 15) / 16 * sizeof granules[0]);
  for (size_t g = 0; g < (bytes + 15) / 16; g++) memset(granules[g].seen, kPoison, 16);
}

inline void end_shared_memory() {
  const size_t bytes = block->shared_bytes;
#if MOEC_EMU_ASAN
  __asan_unpoison_memory_region(moec_smem, sizeof moec_smem);
#endif
  for (size_t i = 0; i < kCanary; i++) {
    if (moec_smem[bytes + i] != kPoison) fault("shared memory: a store at offset %zu, beyond the %zu bytes of this launch", bytes + i, bytes);
  }
  for (size_t g = 0; g < bytes / 16; g++) {
    // The next block gets this memory. (Copies of cp.async belong to their thread and end with it.)
    if (granules[g].reads_in_flight != 0) fault("the block ends while a product that reads shared offset %zu is in flight", g * 16);
  }
  if (!block->engine.empty()) fault("the block ends while %zu copies are in flight", block->engine.size());
  check_registers();
}

}  // namespace moec_emu
