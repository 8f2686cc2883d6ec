// One tiny kernel for each function of src/codegen/cuda/prelude.cuh: what the GPU (or the emulator) computes against plain C++ that
// shares nothing with the function's own body for the CPU. Prints a line for each; exits with 0 if all hold.
//
//   g++ -x c++ -std=c++17 -O1 -ffp-contract=off -fno-strict-aliasing conformance.cu
//   nvcc -std=c++17 -O3 --fmad=false -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a conformance.cu
#define MOEC_HOPPER
#include "../../../src/codegen/cuda/prelude.cuh"
#include "conformance_frame.h"
#include "conformance_instructions.cuh"

// ---------------------------------------------------------------- one value in, one value out

constexpr unsigned kThreads = 128;

template <class Op, class In, class Out>
__global__ void map_kernel(const In* x, Out* y) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  y[i] = Op::on(x + i);
}

template <class In, class Out>
static void run_map(const char* name, void (*kernel)(const In*, Out*), Out (*expected)(In, const In*, size_t)) {
  std::vector<In> x(65536 / sizeof(In) * 2);
  for (size_t i = 0; i < x.size(); i++) fill(x[i], i);
  Memory<In> input(x);
  Memory<Out> output(x.size());
  MOEC_LAUNCH(kernel, (unsigned)x.size() / kThreads, kThreads, 0, 0, input.device, output.device);
  const std::vector<Out> y = output.read();
  double worst = 0;
  for (size_t i = 0; i < x.size(); i++) worst = fmax(worst, deviation(y[i], expected(x[i], &x[i / 32 * 32], i % 32)));
  report(name, x.size(), worst, 0);
}

template <class T>
static T of_all(const T* warp, T (*op)(T, T)) {
  T result = warp[0];
  for (int lane = 1; lane < 32; lane++) result = op(result, warp[lane]);
  return result;
}
template <class T>
static T sum(T a, T b) {
  return (T)((uint32_t)a + (uint32_t)b);
}
template <class T>
static T larger(T a, T b) {
  return a > b ? a : b;
}
template <class T>
static T smaller(T a, T b) {
  return a < b ? a : b;
}
static float larger_f(float a, float b) { return isnan(a) ? b : isnan(b) ? a : larger(a, b); }
static float smaller_f(float a, float b) { return isnan(a) ? b : isnan(b) ? a : smaller(a, b); }

/** Sums as a tree of pairs, each half as far apart as the ones before. */
static float tree_sum(const float* x, int count) {
  if (count == 1) return x[0];
  float pairs[16];
  for (int i = 0; i < count / 2; i++) pairs[i] = x[i] + x[i + count / 2];
  return tree_sum(pairs, count / 2);
}
static float quad_sum(const float* x) { return (x[0] + x[1]) + (x[2] + x[3]); }
static float of_quad(const float* x, float (*op)(float, float)) { return op(op(x[0], x[1]), op(x[2], x[3])); }

template <class F>
__device__ static float in_place(F f, float x) {
  f(&x);
  return x;
}

// clang-format off
// name, type in, type out, on the device (p points to this thread's value), expected (x is that value, `warp` are the 32 of its warp,
// of which it is number `lane`)
#define MAPS(ROW)                                                                                                             \
  ROW(f32_of_bf16, uint16_t, float, moec_f32_of_bf16(*p), half_value(x, kBf16))                                               \
  ROW(f32_of_f16, uint16_t, float, moec_f32_of_f16(*p), half_value(x, kF16))                                                  \
  ROW(bf16_of, float, uint16_t, moec_bf16_of(*p), nearest_half(x, kBf16))                                                     \
  ROW(f16_of, float, uint16_t, moec_f16_of(*p), nearest_half(x, kF16))                                                        \
  ROW(pack_bf16, float2, uint32_t, moec_pack_bf16(p->x, p->y), nearest_pair(x.x, x.y, kBf16))                                 \
  ROW(pack_f16, float2, uint32_t, moec_pack_f16(p->x, p->y), nearest_pair(x.x, x.y, kF16))                                    \
  ROW(pack_bf16_float2, float2, uint32_t, moec_pack_bf16(*p), nearest_pair(x.x, x.y, kBf16))                                  \
  ROW(pack_f16_float2, float2, uint32_t, moec_pack_f16(*p), nearest_pair(x.x, x.y, kF16))                                     \
  ROW(pack_bf16_float4, float4, uint2, moec_pack_bf16(*p), make_uint2(nearest_pair(x.x, x.y, kBf16), nearest_pair(x.z, x.w, kBf16))) \
  ROW(pack_f16_float4, float4, uint2, moec_pack_f16(*p), make_uint2(nearest_pair(x.x, x.y, kF16), nearest_pair(x.z, x.w, kF16))) \
  ROW(unpack_bf16, uint32_t, float2, moec_unpack_bf16(*p), pair_value(x, kBf16))                                              \
  ROW(unpack_f16, uint32_t, float2, moec_unpack_f16(*p), pair_value(x, kF16))                                                 \
  ROW(unpack_bf16_uint2, uint2, float4, moec_unpack_bf16(*p), quad_value(x, kBf16))                                           \
  ROW(unpack_f16_uint2, uint2, float4, moec_unpack_f16(*p), quad_value(x, kF16))                                              \
  ROW(load_stream_u16, uint16_t, uint16_t, moec_load_stream(p), x)                                                            \
  ROW(load_stream_u32, uint32_t, uint32_t, moec_load_stream(p), x)                                                            \
  ROW(load_stream_f32, float, float, moec_load_stream(p), x)                                                                  \
  ROW(load_stream_uint2, uint2, uint2, moec_load_stream(p), x)                                                                \
  ROW(load_stream_float2, float2, float2, moec_load_stream(p), x)                                                             \
  ROW(load_stream_uint4, uint4, uint4, moec_load_stream(p), x)                                                                \
  ROW(load_stream_float4, float4, float4, moec_load_stream(p), x)                                                             \
  ROW(warp_add_f32, float, float, moec_warp_add(*p), tree_sum(warp, 32))                                                      \
  ROW(warp_max_f32, float, float, moec_warp_max(*p), of_all(warp, larger_f))                                                  \
  ROW(warp_min_f32, float, float, moec_warp_min(*p), of_all(warp, smaller_f))                                                 \
  ROW(warp_add_u32, uint32_t, uint32_t, moec_warp_add(*p), of_all(warp, sum<uint32_t>))                                       \
  ROW(warp_max_u32, uint32_t, uint32_t, moec_warp_max(*p), of_all(warp, larger<uint32_t>))                                    \
  ROW(warp_min_u32, uint32_t, uint32_t, moec_warp_min(*p), of_all(warp, smaller<uint32_t>))                                   \
  ROW(warp_add_i32, int32_t, int32_t, moec_warp_add(*p), of_all(warp, sum<int32_t>))                                          \
  ROW(warp_max_i32, int32_t, int32_t, moec_warp_max(*p), of_all(warp, larger<int32_t>))                                       \
  ROW(warp_min_i32, int32_t, int32_t, moec_warp_min(*p), of_all(warp, smaller<int32_t>))                                      \
  ROW(warp_broadcast_f32, float, float, moec_warp_broadcast(*p, 7), warp[7])                                                  \
  ROW(warp_broadcast_u32, uint32_t, uint32_t, moec_warp_broadcast(*p, 31), warp[31])                                          \
  ROW(warp_broadcast_i32, int32_t, int32_t, moec_warp_broadcast(*p, 0), warp[0])                                              \
  ROW(quad_add, float, float, in_place(moec_quad_add, *p), quad_sum(warp + lane / 4 * 4))                                     \
  ROW(quad_max, float, float, in_place(moec_quad_max, *p), of_quad(warp + lane / 4 * 4, larger_f))                            \
  ROW(quad_min, float, float, in_place(moec_quad_min, *p), of_quad(warp + lane / 4 * 4, smaller_f))                           \
  ROW(splat2_float, float, float2, moec_splat2(*p), make_float2(x, x))                                                        \
  ROW(splat4_float, float, float4, moec_splat4(*p), make_float4(x, x, x, x))                                                  \
  ROW(splat2_uint, uint32_t, uint2, moec_splat2(*p), make_uint2(x, x))                                                        \
  ROW(splat4_uint, uint32_t, uint4, moec_splat4(*p), make_uint4(x, x, x, x))                                                  \
  ROW(splat2_int, int32_t, int2, moec_splat2(*p), make_int2(x, x))                                                            \
  ROW(splat4_int, int32_t, int4, moec_splat4(*p), make_int4(x, x, x, x))                                                      \
  ROW(select_by_one_bool, float4, float4, moec_select(p->x < p->y, *p, -*p), x.x < x.y ? x : make_float4(-x.x, -x.y, -x.z, -x.w))
// clang-format on

#define DEFINE_MAP(name, In, Out, on_device, on_host)                                             \
  struct Map_##name {                                                                             \
    static __device__ Out on(const In* p) { return on_device; }                                   \
    static Out expected([[maybe_unused]] In x, [[maybe_unused]] const In* warp, [[maybe_unused]] size_t lane) { \
      return on_host;                                                                             \
    }                                                                                             \
  };
#define RUN_MAP(name, In, Out, on_device, on_host) run_map<In, Out>(#name, map_kernel<Map_##name, In, Out>, Map_##name::expected);
MAPS(DEFINE_MAP)

// ---------------------------------------------------------------- operators on 4 lanes, 2 lanes and scalars

__device__ static uint32_t word(float x) { return moec_bits(x); }
__device__ static uint32_t word(uint32_t x) { return x; }
__device__ static uint32_t word(int32_t x) { return (uint32_t)x; }
__device__ static uint32_t word(bool x) { return x ? 1 : 0; }

/** Seven words of results: of 4 lanes, of the first 2, of the first. */
template <class Op, class V4>
__global__ void lanes_kernel(const V4* x, uint32_t* y) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  const V4 a = x[i * 3];
  const V4 b = x[i * 3 + 1];
  const V4 c = x[i * 3 + 2];
  const auto four = Op::on(a, b, c);
  const auto two = Op::on(Op::two(a), Op::two(b), Op::two(c));
  const auto one = Op::on(a.x, b.x, c.x);
  const uint32_t words[7] = {word(four.x), word(four.y), word(four.z), word(four.w), word(two.x), word(two.y), word(one)};
  for (int k = 0; k < 7; k++) y[i * 7 + k] = words[k];
}

/** `got` are the bits of what should be `want`. */
static double word_deviation(uint32_t got, float want) { return deviation(float_of(got), want); }
static double word_deviation(uint32_t got, uint32_t want) { return deviation(got, want); }
static double word_deviation(uint32_t got, int32_t want) { return deviation(got, (uint32_t)want); }
static double word_deviation(uint32_t got, bool want) { return deviation(got, (uint32_t)want); }

/** The third operand of integers: a divisor and a shift. */
static void limit_third(float4&) {}
static void limit_third(uint4& x) { x = make_uint4(x.x % 31 + 1, x.y % 31 + 1, x.z % 31 + 1, x.w % 31 + 1); }
static void limit_third(int4& x) { x = make_int4(abs(x.x) % 15 + 1, abs(x.y) % 15 + 1, abs(x.z) % 15 + 1, abs(x.w) % 15 + 1); }

/** `compare` gives the deviation of a result's bits from what is expected of three scalars. */
template <class V4, class S>
static void run_lanes(const char* name, double limit, void (*kernel)(const V4*, uint32_t*), double (*compare)(uint32_t, S, S, S)) {
  constexpr size_t count = 2048;
  std::vector<V4> x(count * 3);
  for (size_t i = 0; i < x.size(); i++) {
    // Neighbours differ in what hard number they get.
    fill(x[i], i % 3 == 0 ? i / 3 : i / 3 * 7 % 40 + i % 3);
    if (i % 3 == 2) limit_third(x[i]);
  }
  Memory<V4> input(x);
  Memory<uint32_t> output(count * 7);
  MOEC_LAUNCH(kernel, (unsigned)(count / kThreads), kThreads, 0, 0, input.device, output.device);
  const std::vector<uint32_t> y = output.read();
  double worst = 0;
  for (size_t i = 0; i < count; i++) {
    const V4 *a = &x[i * 3], *b = a + 1, *c = a + 2;
    for (int k = 0; k < 7; k++) {
      const int lane = k < 4 ? k : k < 6 ? k - 4 : 0;
      worst = fmax(worst, compare(y[i * 7 + k], (&a->x)[lane], (&b->x)[lane], (&c->x)[lane]));
    }
  }
  report(name, count * 7, worst, limit);
}

static uint32_t clamped_uint(float x) { return isnan(x) || x <= 0 ? 0 : x >= 4294967296.0f ? 0xffffffffu : (uint32_t)x; }
static int32_t clamped_int(float x) {
  if (isnan(x)) return 0;
  return x >= 2147483648.0f ? 2147483647 : x < -2147483648.0f ? -2147483647 - 1 : (int32_t)x;
}
static float without_subnormals(double x) { return fabs(x) < ldexp(1, -126) ? 0.0f : (float)x; }
template <class To, class From>
static To same_bits(From x) {
  To y;
  memcpy(&y, &x, 4);
  return y;
}

// clang-format off
// name, type, limit, on the device with vectors or scalars a, b, c, expected with scalars a, b, c
#define FLOATS(ROW)                                                                        \
  ROW(add, 0, a + b, a + b)                                                                \
  ROW(subtract, 0, a - b, a - b)                                                           \
  ROW(multiply, 0, a * b, a * b)                                                           \
  ROW(divide, 0, a / b, a / b)                                                             \
  ROW(negate, 0, -a, 0 - a)                                                                \
  ROW(and_, 0, (a < b) && (b < c), a < b && b < c)                                         \
  ROW(or_, 0, (a < b) || (b < c), a < b || b < c)                                          \
  ROW(not_, 0, !(a < b), !(a < b))                                                         \
  ROW(same, 0, (a < b) == (b < c), (a < b) == (b < c))                                     \
  ROW(other, 0, (a < b) != (b < c), (a < b) != (b < c))                                    \
  ROW(select_bool, 0, moec_select(c < a, a < b, b < c), c < a ? a < b : b < c)             \
  ROW(min, 0, moec_min(a, b), smaller_f(a, b))                                             \
  ROW(max, 0, moec_max(a, b), larger_f(a, b))                                              \
  ROW(exp, 4e-7, moec_exp(a), (float)exp((double)a))                                       \
  ROW(exp2, 3e-7, moec_exp2(a), without_subnormals(exp2((double)a)))                       \
  ROW(log, 4e-7, moec_log(a), (float)log((double)a))                                       \
  ROW(sqrt, 0, moec_sqrt(a), (float)sqrt((double)a))                                       \
  ROW(rsqrt, 4e-7, moec_rsqrt(a), (float)(1 / sqrt((double)a)))                            \
  ROW(abs, 0, moec_abs(a), a < 0 ? -a : a)                                                 \
  ROW(floor, 0, moec_floor(a), (float)floor((double)a))                                    \
  ROW(fma, 0, moec_fma(a, b, c), fmaf(a, b, c))                                            \
  ROW(to_uint, 0, moec_to_uint(a), clamped_uint(a))                                        \
  ROW(to_int, 0, moec_to_int(a), clamped_int(a))                                           \
  ROW(to_float_of_bool, 0, moec_to_float(a < b), a < b ? 1.0f : 0.0f)                      \
  ROW(to_uint_of_bool, 0, moec_to_uint(a < b), a < b ? 1u : 0u)                            \
  ROW(to_int_of_bool, 0, moec_to_int(a < b), a < b ? 1 : 0)                                \
  ROW(bits, 0, moec_bits(a), same_bits<uint32_t>(a))                                       \
  ROW(int_bits, 0, moec_int(a), same_bits<int32_t>(a))
#define ALL(ROW)                                                                           \
  ROW(less, 0, a < b, a < b)                                                               \
  ROW(less_equal, 0, a <= b, a <= b)                                                       \
  ROW(greater, 0, a > b, a > b)                                                            \
  ROW(greater_equal, 0, a >= b, a >= b)                                                    \
  ROW(equal, 0, a == moec_select(a < b, b, a), a < b ? false : a == a)                     \
  ROW(not_equal, 0, a != moec_select(a < b, b, a), a < b ? true : a != a)                  \
  ROW(select, 0, moec_select(a < b, a, c), a < b ? a : c)
#define INTEGERS(ROW)                                                                      \
  ROW(add, 0, a + b, a + b)                                                                \
  ROW(subtract, 0, a - b, a - b)                                                           \
  ROW(multiply, 0, a * b, a * b)                                                           \
  ROW(divide, 0, a / c, a / c)                                                             \
  ROW(remainder, 0, a % c, a % c)                                                          \
  ROW(bit_and, 0, a & b, a & b)                                                            \
  ROW(bit_or, 0, a | b, a | b)                                                             \
  ROW(bit_xor, 0, a ^ b, a ^ b)                                                            \
  ROW(bit_not, 0, ~a, ~a)                                                                  \
  ROW(left, 0, a << c, a << c)                                                             \
  ROW(right, 0, a >> c, a >> c)                                                            \
  ROW(min, 0, moec_min(a, b), a < b ? a : b)                                               \
  ROW(max, 0, moec_max(a, b), a > b ? a : b)                                               \
  ROW(to_float, 0, moec_to_float(a), (float)a)                                             \
  ROW(float_bits, 0, moec_float(a), same_bits<float>(a))
#define UINTS(ROW)                                                                         \
  ROW(to_int, 0, moec_to_int(a), same_bits<int32_t>(a))                                    \
  ROW(int_bits, 0, moec_int(a), same_bits<int32_t>(a))
#define INTS(ROW)                                                                          \
  ROW(negate, 0, -a, 0 - a)                                                                \
  ROW(abs, 0, moec_abs(a), a < 0 ? -a : a)                                                 \
  ROW(to_uint, 0, moec_to_uint(a), same_bits<uint32_t>(a))                                 \
  ROW(bits, 0, moec_bits(a), same_bits<uint32_t>(a))
// clang-format on

#define DEFINE_LANES(V, S, name, on_device, on_host)                                                                     \
  struct Lanes_##V##_##name {                                                                                            \
    static __device__ V##2 two(V##4 v) { return make_##V##2(v.x, v.y); }                                                 \
    template <class T>                                                                                                   \
    static __device__ auto on([[maybe_unused]] T a, [[maybe_unused]] T b, [[maybe_unused]] T c) { return on_device; }    \
    static double compare(uint32_t got, [[maybe_unused]] S a, [[maybe_unused]] S b, [[maybe_unused]] S c) {              \
      return word_deviation(got, on_host);                                                                               \
    }                                                                                                                    \
  };
#define DEFINE_FLOAT(name, limit, on_device, on_host) DEFINE_LANES(float, float, name, on_device, on_host)
#define DEFINE_UINT(name, limit, on_device, on_host) DEFINE_LANES(uint, uint32_t, name, on_device, on_host)
#define DEFINE_INT(name, limit, on_device, on_host) DEFINE_LANES(int, int32_t, name, on_device, on_host)
#define RUN_FLOAT(name, limit, on_device, on_host) run_lanes("float " #name, limit, lanes_kernel<Lanes_float_##name, float4>, Lanes_float_##name::compare);
#define RUN_UINT(name, limit, on_device, on_host) run_lanes("uint " #name, limit, lanes_kernel<Lanes_uint_##name, uint4>, Lanes_uint_##name::compare);
#define RUN_INT(name, limit, on_device, on_host) run_lanes("int " #name, limit, lanes_kernel<Lanes_int_##name, int4>, Lanes_int_##name::compare);
FLOATS(DEFINE_FLOAT) ALL(DEFINE_FLOAT)
INTEGERS(DEFINE_UINT) UINTS(DEFINE_UINT) ALL(DEFINE_UINT)
INTEGERS(DEFINE_INT) INTS(DEFINE_INT) ALL(DEFINE_INT)

int main() {
  int devices = 0;
  check_cuda(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  MAPS(RUN_MAP)
  FLOATS(RUN_FLOAT)
  ALL(RUN_FLOAT)
  INTEGERS(RUN_UINT)
  UINTS(RUN_UINT)
  ALL(RUN_UINT)
  INTEGERS(RUN_INT)
  INTS(RUN_INT)
  ALL(RUN_INT)
  run_instructions();
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
