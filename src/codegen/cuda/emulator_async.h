// What sm_90 does asynchronously: mbarriers, the copy engine (TMA), warpgroup products (wgmma). A part of emulator.h.
#pragma once

namespace moec_emu {

// ---------------------------------------------------------------- mbarriers

/** Kept beside shared memory; the word itself holds a mark, so that stray stores over it are noticed. */
struct Mbarrier {
  uint32_t offset;
  uint32_t count;
  /** Arrivals that the phase still waits for. */
  uint32_t pending;
  /** Bytes that the phase still waits for; below 0 while copies are ahead of their announcement. */
  int64_t bytes;
  uint32_t parity;
  /** Thread + 1 that made it and has not fenced that; 0: the copy engine knows it. */
  unsigned unfenced_by;
};

inline std::vector<Mbarrier> mbarriers;
constexpr uint64_t kMbarrierMark = 0x6d6f6563626172ull << 8;

inline Mbarrier* find_mbarrier(uint32_t offset) {
  for (Mbarrier& m : mbarriers) {
    if (m.offset == offset) return &m;
  }
  return nullptr;
}

inline Mbarrier& mbarrier_at(const char* what, const uint64_t* word) {
  const uint32_t offset = shared_offset(what, word, 8, 8);
  Mbarrier* m = find_mbarrier(offset);
  if (m == nullptr) fault("%s: no mbarrier was made at shared offset %u", what, offset);
  if (*word != kMbarrierMark + offset) fault("%s: the mbarrier at shared offset %u was overwritten", what, offset);
  return *m;
}

inline void mbarrier_init(uint64_t* word, uint32_t count) {
  const uint32_t offset = shared_offset("mbarrier.init", word, 8, 8);
  if (count == 0 || count >= 1u << 20) fault("mbarrier.init: count %u", count);
  if (find_mbarrier(offset) != nullptr) fault("mbarrier.init: there is an mbarrier at shared offset %u already", offset);
  mbarriers.push_back({offset, count, count, 0, 0, current->linear + 1});
  *word = kMbarrierMark + offset;
}

inline void mbarrier_init_fence() {
  for (Mbarrier& m : mbarriers) {
    if (m.unfenced_by == current->linear + 1) m.unfenced_by = 0;
  }
}

/** Goes to the next phase where nothing is missing any more, and wakes who waits. */
inline void mbarrier_settle(Mbarrier& m) {
  if (m.pending != 0 || m.bytes != 0) return;
  m.parity ^= 1;
  m.pending = m.count;
  std::vector<unsigned> ids;
  for (unsigned i = 0; i < block->threads; i++) {
    const Fiber& f = block->fibers[i];
    if (f.state == State::kMbarrier && f.waits_for == m.offset) ids.push_back(i);
  }
  // Who was woken runs last in one order and at once in others.
  if (block->options.order == Order::kForward) return release_behind(ids);
  release_ahead(ids);
}

/** Arrives once, after announcing `bytes` that copies will bring in this phase. */
inline void mbarrier_arrive(const char* what, uint64_t* word, uint32_t bytes) {
  Mbarrier& m = mbarrier_at(what, word);
  if (m.pending == 0) fault("%s: the mbarrier at shared offset %u has had all %u arrivals of this phase", what, m.offset, m.count);
  if (m.bytes + bytes >= 1 << 20) fault("%s: more than 2^20 bytes in one phase", what);
  m.bytes += bytes;
  m.pending--;
  mbarrier_settle(m);
}

/** Waits until the phase of this parity is over. Looks again when it runs: a phase may have come and gone. */
inline void mbarrier_wait(uint64_t* word, uint32_t parity) {
  if (parity > 1) fault("mbarrier.try_wait: parity %u", parity);
  while (mbarrier_at("mbarrier.try_wait", word).parity == parity) {
    wait_in(State::kMbarrier, "mbarrier.try_wait", shared_offset("mbarrier.try_wait", word, 8, 8));
  }
}

// ---------------------------------------------------------------- the asynchronous proxy

/** fence.proxy.async: what this thread wrote to shared memory may be read by the copy engine and by products. */
inline void fence_async() {
  fences++;
  const uint16_t me = (uint16_t)(current->linear + 1);
  for (uint32_t g : current->unfenced) {
    if (granules[g].unfenced_by == me) granules[g].unfenced_by = 0;
  }
  current->unfenced.clear();
}

inline void note_seen(uint32_t g) {
  granules[g].fences = fences;
  memcpy(granules[g].seen, moec_smem + g * 16, 16);
}

/**
 * A product reads granule g. Bytes that are not as last seen came by plain stores; these need a fence too, of which only
 * this is known: some thread fenced since.
 */
inline void check_async_read(const char* what, uint32_t g) {
  Granule& granule = granules[g];
  check_read(what, g * 16);
  if (granule.unfenced_by != 0) {
    fault("%s: reads shared offset %u, written by thread %u without fence.proxy.async", what, g * 16, granule.unfenced_by - 1u);
  }
  if (memcmp(granule.seen, moec_smem + g * 16, 16) == 0) return;
  if (granule.fences == fences) fault("%s: reads shared offset %u, stored to without fence.proxy.async", what, g * 16);
  note_seen(g);
}

/** The 128-byte swizzle: within 1024 bytes, the 16-byte column of a 128-byte row is xored with the row. */
inline uint32_t swizzle(uint32_t address) { return address ^ (address >> 3 & 0x70); }

// ---------------------------------------------------------------- copies of boxes (TMA)

/** What an emulated CUtensorMap holds: a matrix of elements, copied in boxes. */
struct TensorMapContents {
  uint64_t mark;
  const unsigned char* base;
  uint64_t rows;
  uint64_t cols;
  uint64_t row_bytes;
  uint32_t box_rows;
  uint32_t box_cols;
  uint32_t element_bytes;
  uint32_t swizzled;
};
constexpr uint64_t kTensorMapMark = 0x6d6f6563626f78ull;

}  // namespace moec_emu

struct alignas(64) CUtensorMap {
  uint64_t opaque[16];
};

namespace moec_emu {

inline TensorMapContents contents_of(const char* what, const CUtensorMap* map) {
  if ((uintptr_t)map % 64 != 0) fault("%s: the tensor map is not aligned to 64 bytes", what);
  TensorMapContents m;
  memcpy(&m, map, sizeof m);
  if (m.mark != kTensorMapMark) fault("%s: this is no tensor map", what);
  return m;
}

/** Calls `use` for each granule of shared memory that a box at `offset` covers. */
template <class Use>
inline void each_granule(uint32_t offset, uint32_t bytes, Use use) {
  for (uint32_t g = offset / 16; g < (offset + bytes) / 16; g++) use(g);
}

/** Copies the box whose first element is (row0, col0); what lies outside the matrix arrives as zeros. */
inline void copy_box(const TensorMapContents& m, uint32_t offset, int64_t row0, int64_t col0) {
  const uint32_t per_granule = 16 / m.element_bytes;
  for (uint32_t r = 0; r < m.box_rows; r++) {
    const int64_t row = row0 + r;
    const bool row_inside = row >= 0 && row < (int64_t)m.rows;
    for (uint32_t c = 0; c < m.box_cols; c += per_granule) {
      const uint32_t linear = kSharedBase + offset + (r * m.box_cols + c) * m.element_bytes;
      unsigned char* to = moec_smem + ((m.swizzled ? swizzle(linear) : linear) - kSharedBase);
      memset(to, 0, 16);
      for (uint32_t i = 0; row_inside && i < per_granule; i++) {
        const int64_t col = col0 + c + i;
        if (col < 0 || col >= (int64_t)m.cols) continue;
        memcpy(to + i * m.element_bytes, m.base + (uint64_t)row * m.row_bytes + (uint64_t)col * m.element_bytes, m.element_bytes);
      }
    }
  }
}

inline void tma_load(void* destination, const CUtensorMap* map, uint64_t* word, int col, int row) {
  const TensorMapContents m = contents_of("TMA load", map);
  const uint32_t bytes = m.box_rows * m.box_cols * m.element_bytes;
  // The hardware asks for 128 bytes; rows only lie where wgmma looks for them from a multiple of 1024 on.
  const uint32_t offset = shared_offset("TMA load", destination, bytes, m.swizzled ? 1024 : 128);
  const Mbarrier& barrier = mbarrier_at("TMA load", word);
  if (barrier.unfenced_by != 0) fault("TMA load: the mbarrier at shared offset %u was made without its fence", barrier.offset);
  each_granule(offset, bytes, [](uint32_t g) {
    check_write("TMA load", g * 16);
    if (granules[g].unfenced_by != 0) fault("TMA load: over shared offset %u, written without fence.proxy.async", g * 16);
    granules[g].writes_in_flight++;
  });
  const uint32_t barrier_offset = barrier.offset;
  const auto copy = [=] {
    copy_box(m, offset, row, col);
    each_granule(offset, bytes, [](uint32_t g) {
      granules[g].writes_in_flight--;
      note_seen(g);
    });
    Mbarrier& done = *find_mbarrier(barrier_offset);
    done.bytes -= bytes;
    mbarrier_settle(done);
  };
  if (block->options.late) {
    block->engine.push_back(copy);
  } else {
    copy();
  }
}

inline void tma_prefetch(const CUtensorMap* map) { contents_of("prefetch.tensormap", map); }

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
