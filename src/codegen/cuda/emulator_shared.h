// Dynamic shared memory and the instructions of sm_80 that use it: cp.async, ldmatrix, mma.sync. A part of emulator.h.
#pragma once

namespace moec_emu {

/** What a block of sm_90 may have at most. */
constexpr size_t kSharedMax = 227 * 1024;
/** Bytes behind the launch's share that must stay as they are. */
constexpr size_t kCanary = 1024;
/** Where the shared window starts, as on sm_90, which keeps the first KiB to itself: no valid address is 0. */
constexpr uint32_t kSharedBase = 1024;
constexpr unsigned char kPoison = 0xff;  // NaN in every float format, a huge index

}  // namespace moec_emu

/** The one name that kernels use for dynamic shared memory. */
alignas(1024) inline unsigned char moec_smem[moec_emu::kSharedMax + moec_emu::kCanary];

namespace moec_emu {

/**
 * What is known of each 16-byte granule of shared memory, to find accesses in the wrong order. Plain loads and stores are not
 * seen; only what goes through the prelude's wrappers is.
 */
struct Granule {
  /** Thread + 1 that wrote it by cp.async and has not fenced it towards the asynchronous proxy; 0: none. */
  uint16_t unfenced_by;
  /** Copies that will write it. */
  uint16_t writes_in_flight;
  /** Products that will read it. */
  uint16_t reads_in_flight;
  /** Fences of the block (any thread's) when the bytes below were last right. */
  uint32_t fences;
  /** What the asynchronous proxy has last seen there. */
  unsigned char seen[16];
};

inline Granule granules[kSharedMax / 16];
/** Fences towards the asynchronous proxy in this block so far. */
inline uint32_t fences = 0;

/** Offset in shared memory; a fault where [p, p + bytes) is not inside the launch's share or p is not aligned. */
inline uint32_t shared_offset(const char* what, const void* p, size_t bytes, size_t alignment) {
  const ptrdiff_t offset = (const unsigned char*)p - moec_smem;
  if (offset < 0 || offset + bytes > block->shared_bytes) {
    fault("%s: %p (%zu bytes) is not in the %zu bytes of shared memory of this launch", what, p, bytes, block->shared_bytes);
  }
  if ((size_t)offset % alignment != 0) fault("%s: shared offset %td is not aligned to %zu bytes", what, offset, alignment);
  return (uint32_t)offset;
}

/** The 32-bit address that instructions take. */
inline uint32_t shared_address(const char* what, const void* p, size_t bytes, size_t alignment) {
  return kSharedBase + shared_offset(what, p, bytes, alignment);
}

/** To be called before bytes at `offset` are read by a wrapper. */
inline void check_read(const char* what, uint32_t offset) {
  if (granules[offset / 16].writes_in_flight != 0) fault("%s: reads shared offset %u, which a copy in flight will write", what, offset);
}

/** To be called when a copy to `offset` is issued. */
inline void check_write(const char* what, uint32_t offset) {
  if (granules[offset / 16].reads_in_flight != 0) fault("%s: writes shared offset %u, which a product in flight will read", what, offset);
}

// ---------------------------------------------------------------- cp.async

inline void run_copy(const PendingCopy& copy) {
  if (copy.source != nullptr) {
    memcpy(copy.destination, copy.source, 16);
  } else {
    memset(copy.destination, 0, 16);
  }
  const uint32_t g = (uint32_t)(copy.destination - moec_smem) / 16;
  granules[g].unfenced_by = (uint16_t)(current->linear + 1);
  current->unfenced.push_back(g);
}

/** cp.async of 16 bytes: now, or when the thread waits for its group. `source` null: zeros. */
inline void copy_async(void* destination, const void* source) {
  const uint32_t offset = shared_offset("cp.async", destination, 16, 16);
  if ((uintptr_t)source % 16 != 0) fault("cp.async: source %p is not aligned to 16 bytes", source);
  check_write("cp.async", offset);
  const PendingCopy copy{(unsigned char*)destination, source, current->copy_group};
  const Options& options = block->options;
  if (!options.late || (options.order == Order::kRandom && random_bit())) return run_copy(copy);
  granules[offset / 16].writes_in_flight++;
  current->copies.push_back(copy);
}

inline void copy_commit() { current->copy_group++; }

/** Waits until at most `groups` of the thread's committed groups are in flight. */
inline void copy_wait(uint64_t groups) {
  Fiber& me = *current;
  size_t done = 0;
  while (done < me.copies.size() && me.copies[done].group + groups < me.copy_group) {
    const PendingCopy& copy = me.copies[done];
    granules[(copy.destination - moec_smem) / 16].writes_in_flight--;
    run_copy(copy);
    done++;
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + (ptrdiff_t)done);
}

// ---------------------------------------------------------------- ldmatrix

struct LoadMatrix {
  uint32_t* to;
  const unsigned char* row;
};

/** `count` 8 x 8 matrices of 16-bit elements; row r of matrix m begins where lane 8 m + r says. */
template <int count, bool transposed>
inline void load_matrix_work(void* const* args, uint32_t) {
  for (int lane = 0; lane < count * 8; lane++) {
    check_read("ldmatrix", shared_offset("ldmatrix", ((LoadMatrix*)args[lane])->row, 16, 16));
  }
  for (int lane = 0; lane < 32; lane++) {
    for (int m = 0; m < count; m++) {
      uint16_t pair[2];
      for (int i = 0; i < 2; i++) {
        const int row = transposed ? lane % 4 * 2 + i : lane / 4;
        const int col = transposed ? lane / 4 : lane % 4 * 2 + i;
        memcpy(&pair[i], ((LoadMatrix*)args[m * 8 + row])->row + col * 2, 2);
      }
      ((LoadMatrix*)args[lane])->to[m] = pair[0] | (uint32_t)pair[1] << 16;
    }
  }
}

template <int count, bool transposed>
inline void load_matrix(uint32_t* to, const void* row) {
  LoadMatrix mine{to, (const unsigned char*)row};
  warp_collective("ldmatrix", 0xffffffffu, load_matrix_work<count, transposed>, &mine);
}

// ---------------------------------------------------------------- 16-bit floats

inline float f32_of_bf16(uint16_t x) { return bit_cast<float>((uint32_t)x << 16); }

/** To nearest, ties to even; NaN becomes the device's NaN. */
inline uint16_t bf16_of(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float f32_of_f16(uint16_t x) {
  const uint32_t sign = (uint32_t)(x & 0x8000) << 16;
  const uint32_t exponent = x >> 10 & 31;
  const uint32_t fraction = x & 0x3ff;
  if (exponent == 31) return bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent != 0) return bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = (float)fraction * 0x1p-24f;  // subnormal: exact in f32
  return bit_cast<float>(sign | bit_cast<uint32_t>(magnitude));
}

/** To nearest, ties to even; NaN becomes the device's NaN. */
inline uint16_t f16_of(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and more round to infinity
  if (magnitude < 0x38800000) {
    // Below the least normal number. Adding 1/2 leaves x in units of 2^-24 in the low bits, rounded as additions are.
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return (uint16_t)(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000));
  }
  return (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

template <bool f16>
inline float f32_of_half(uint16_t x) { return f16 ? f32_of_f16(x) : f32_of_bf16(x); }

// ---------------------------------------------------------------- mma.sync

/** Four floats that are worked on at once, whatever the optimisation level. */
typedef float Float4 __attribute__((vector_size(16)));
inline Float4 splat(float x) { return Float4{x, x, x, x}; }

struct Multiply {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

/** D[16][8] += A[16][16] B[16][8], in ascending k. Lane l holds rows g and g + 8 and columns t, t + 1 with g = l / 4, t = l % 4 * 2. */
template <bool f16>
inline void multiply_work(void* const* args, uint32_t) {
  alignas(16) float a[16][16];
  alignas(16) float b[16][8];
  alignas(16) float d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Multiply& mine = *(const Multiply*)args[lane];
    const int g = lane / 4;
    const int t = lane % 4 * 2;
    for (int r = 0; r < 4; r++) {
      float* to = &a[g + r % 2 * 8][t + r / 2 * 8];
      to[0] = f32_of_half<f16>((uint16_t)mine.a[r]);
      to[1] = f32_of_half<f16>((uint16_t)(mine.a[r] >> 16));
    }
    for (int r = 0; r < 2; r++) {
      b[t + r * 8][g] = f32_of_half<f16>((uint16_t)mine.b[r]);
      b[t + r * 8 + 1][g] = f32_of_half<f16>((uint16_t)(mine.b[r] >> 16));
    }
    for (int i = 0; i < 4; i++) d[g + i / 2 * 8][t + i % 2] = mine.d[i];
  }
  for (int row = 0; row < 16; row++) {
    Float4 low = *(Float4*)&d[row][0];
    Float4 high = *(Float4*)&d[row][4];
    for (int k = 0; k < 16; k++) {
      const Float4 x = splat(a[row][k]);
      low += x * *(Float4*)&b[k][0];
      high += x * *(Float4*)&b[k][4];
    }
    *(Float4*)&d[row][0] = low;
    *(Float4*)&d[row][4] = high;
  }
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 4; i++) ((Multiply*)args[lane])->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

template <bool f16>
inline void multiply(float* d, const uint32_t* a, const uint32_t* b) {
  Multiply mine{d, a, b};
  warp_collective("mma.sync", 0xffffffffu, multiply_work<f16>, &mine);
}

}  // namespace moec_emu
