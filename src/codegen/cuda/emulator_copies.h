// mbarriers, the asynchronous proxy, the copy engine (TMA) of sm_90. A part of emulator.h.
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

inline Mbarrier& mbarrier_at(const char* what, const void* word) {
  const uint32_t offset = shared_offset(what, word, 8, 8);
  Mbarrier* m = find_mbarrier(offset);
  if (m == nullptr) fault("%s: no mbarrier was made at shared offset %u", what, offset);
  if (*(const uint64_t*)word != kMbarrierMark + offset) fault("%s: the mbarrier at shared offset %u was overwritten", what, offset);
  return *m;
}

inline void mbarrier_init(void* word, uint32_t count) {
  const uint32_t offset = shared_offset("mbarrier.init", word, 8, 8);
  if (count == 0 || count >= 1u << 20) fault("mbarrier.init: count %u", count);
  if (find_mbarrier(offset) != nullptr) fault("mbarrier.init: there is an mbarrier at shared offset %u already", offset);
  mbarriers.push_back({offset, count, count, 0, 0, current->linear + 1});
  *(uint64_t*)word = kMbarrierMark + offset;
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
inline void mbarrier_arrive(const char* what, void* word, uint32_t bytes) {
  Mbarrier& m = mbarrier_at(what, word);
  if (m.pending == 0) fault("%s: the mbarrier at shared offset %u has had all %u arrivals of this phase", what, m.offset, m.count);
  if (m.bytes + bytes >= 1 << 20) fault("%s: more than 2^20 bytes in one phase", what);
  m.bytes += bytes;
  m.pending--;
  mbarrier_settle(m);
}

/** Waits until the phase of this parity is over. Looks again when it runs: a phase may have come and gone. */
inline void mbarrier_wait(void* word, uint32_t parity) {
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

inline void tma_load(void* destination, const CUtensorMap* map, void* word, int col, int row) {
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

}  // namespace moec_emu
