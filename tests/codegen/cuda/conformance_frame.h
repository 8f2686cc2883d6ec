// What the conformance test is written with: device memory, inputs, comparison, the report. Included by conformance.cu.
#pragma once
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

static int failures = 0;

/** A line of the report; `worst` is the largest deviation of all compared values. */
static void report(const std::string& name, size_t count, double worst, double limit) {
  const bool ok = worst <= limit;
  printf("%-24s %6zu values  deviation %-8.3g limit %-8.3g %s\n", name.c_str(), count, worst, limit, ok ? "ok" : "FAIL");
  if (!ok) failures++;
}

static void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  printf("%s: %s\n", what, cudaGetErrorName(error));
  exit(2);
}

/** Device memory with a copy of host values, or with poison. */
template <class T>
struct Memory {
  T* device = nullptr;
  size_t count;
  explicit Memory(size_t count) : count(count) {
    check_cuda(cudaMalloc(&device, count * sizeof(T)), "cudaMalloc");
    check_cuda(cudaMemset(device, 0xff, count * sizeof(T)), "cudaMemset");
  }
  explicit Memory(const std::vector<T>& host) : Memory(host.size()) {
    check_cuda(cudaMemcpy(device, host.data(), count * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  Memory(const Memory&) = delete;
  ~Memory() { cudaFree(device); }
  /** Waits for the kernel that wrote it. */
  std::vector<T> read() const {
    std::vector<T> host(count);
    check_cuda(cudaGetLastError(), "launch");
    check_cuda(cudaMemcpy(host.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost), "kernel");
    return host;
  }
};

// ---------------------------------------------------------------- inputs

static uint32_t random_word() {
  static uint64_t state = 42;
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(state >> 32);
}
static int random_between(int low, int high) { return low + (int)(random_word() % (uint32_t)(high - low + 1)); }

static float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

/** First what is hard to convert: zeros, subnormals, ties, largest numbers, infinities, NaN. Then any bits, and small numbers. */
static float random_float(size_t i) {
  static const uint32_t hard[] = {
      0x00000000, 0x80000000, 0x00000001, 0x007fffff, 0x3f800000, 0x3f808000, 0x3f818000, 0x3f801000, 0x3f803000,
      0x33000000, 0x33000001, 0x33800000, 0x387fe000, 0x387ff000, 0x477fe000, 0x477fefff, 0x477ff000, 0x7f7fffff,
      0x7f7f8000, 0xff7f7fff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345, 0x4f000000, 0x4f800000, 0xcf000001,
  };
  if (i < sizeof hard / 4) return float_of(hard[i]);
  const float any = float_of(random_word());
  // No signalling NaN: the host's fmaxf treats it otherwise.
  if (i % 3 == 0 && !isnan(any)) return any;
  return (float)random_between(-8000000, 8000000) * (1.0f / 1000000.0f);
}
static void fill(float& x, size_t i) { x = random_float(i); }
static void fill(uint16_t& x, size_t i) { x = (uint16_t)i; }
static void fill(uint32_t& x, size_t) { x = random_word(); }
/** So small that products do not overflow. */
static void fill(int32_t& x, size_t) { x = random_between(-40000, 40000); }
static void fill(float2& x, size_t i) { x = make_float2(random_float(i), random_float(i + 5)); }
static void fill(float4& x, size_t i) { x = make_float4(random_float(i), random_float(i + 5), random_float(i + 9), random_float(i + 77)); }
static void fill(uint2& x, size_t) { x = make_uint2(random_word(), random_word()); }
static void fill(uint4& x, size_t) { x = make_uint4(random_word(), random_word(), random_word(), random_word()); }
static void fill(int4& x, size_t i) {
  fill(x.x, i);
  fill(x.y, i);
  fill(x.z, i);
  fill(x.w, i);
}

// ---------------------------------------------------------------- comparison

/** 0 for the same value (any NaN equals any NaN), else relative to the larger one. */
static double deviation(float got, float want) {
  if (got == want || (isnan(got) && isnan(want))) return 0;
  if (!isfinite(got) || !isfinite(want)) return INFINITY;
  const double larger = fmax(fmax(fabs((double)got), fabs((double)want)), ldexp(1, -126));
  return fabs((double)got - (double)want) / larger;
}
/** Of integers and bits: the distance. */
static double deviation(uint32_t got, uint32_t want) { return fabs((double)got - (double)want); }
static double deviation(int32_t got, int32_t want) { return fabs((double)got - (double)want); }
static double deviation(uint16_t got, uint16_t want) { return fabs((double)got - (double)want); }
/** Of vectors: the largest of the lanes. */
template <class V>
static auto deviation(V got, V want) -> decltype(got.x, 0.0) {
  double worst = fmax(deviation(got.x, want.x), deviation(got.y, want.y));
  if constexpr (sizeof(V) == 4 * sizeof got.x) worst = fmax(worst, fmax(deviation(got.z, want.z), deviation(got.w, want.w)));
  return worst;
}

// ---------------------------------------------------------------- 16-bit floats by their definition

constexpr int kBf16 = 7;  // fraction bits
constexpr int kF16 = 10;

static float half_value(uint32_t bits, int fraction) {
  const int x = (int)(bits & 0xffff);
  const int exponent_bits = 15 - fraction;
  const int exponent = x >> fraction & ((1 << exponent_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int rest = x & ((1 << fraction) - 1);
  double value = exponent == 0 ? ldexp(rest, 1 - bias - fraction) : ldexp(rest + (1 << fraction), exponent - bias - fraction);
  if (exponent == (1 << exponent_bits) - 1) value = rest == 0 ? INFINITY : NAN;
  return (float)((x & 0x8000) != 0 ? -value : value);
}

/** The nearest one, ties to even, found by bisection over all of them. */
static uint16_t nearest_half(float x, int fraction) {
  if (isnan(x)) return 0x7fff;
  const uint16_t sign = signbit(x) ? 0x8000 : 0;
  const double magnitude = fabs((double)x);
  const uint16_t infinity = (uint16_t)(((1 << (15 - fraction)) - 1) << fraction);
  uint16_t low = 0;
  uint16_t high = infinity;
  while (high - low > 1) {
    const uint16_t middle = (uint16_t)((low + high) / 2);
    (half_value(middle, fraction) <= magnitude ? low : high) = middle;
  }
  // Infinity counts as the number that would follow.
  const double below = half_value(low, fraction);
  const double above = high == infinity ? 2 * below - half_value(low - 1u, fraction) : half_value(high, fraction);
  const double middle = (below + above) / 2;
  const bool up = magnitude > middle || (magnitude == middle && low % 2 == 1);
  return (uint16_t)(sign | (up ? high : low));
}
static uint32_t nearest_pair(float low, float high, int fraction) {
  return nearest_half(low, fraction) | (uint32_t)nearest_half(high, fraction) << 16;
}
static float2 pair_value(uint32_t x, int fraction) { return make_float2(half_value(x, fraction), half_value(x >> 16, fraction)); }
static float4 quad_value(uint2 x, int fraction) {
  const float2 low = pair_value(x.x, fraction);
  const float2 high = pair_value(x.y, fraction);
  return make_float4(low.x, low.y, high.x, high.y);
}
