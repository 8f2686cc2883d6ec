/**
 * Identifiers that printed CUDA must not use: the words of C++, what CUDA predeclares, what the dialect itself calls
 * (a local name would shadow it), and every word that a header may have as a macro.
 */
import type { Words } from '../clike/dialect.ts';

const KEYWORDS = `alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class
co_await co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype default delete do
double dynamic_cast else enum explicit export extern false final float for friend goto if import inline int long module mutable
namespace new noexcept not not_eq nullptr operator or or_eq override private protected public register reinterpret_cast requires
return short signed sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef
typeid typename typeof union unsigned using virtual void volatile wchar_t while xor xor_eq`;

const TYPES = `char1 char2 char3 char4 uchar1 uchar2 uchar3 uchar4 short1 short2 short3 short4 ushort1 ushort2 ushort3 ushort4
int1 int2 int3 int4 uint uint1 uint2 uint3 uint4 long1 long2 long3 long4 ulong1 ulong2 ulong3 ulong4 longlong1 longlong2
ulonglong1 ulonglong2 float1 float2 float3 float4 double1 double2 double3 double4 dim3 half half2 size_t ptrdiff_t ssize_t
int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t ushort ulong uchar std cuda nvcuda FILE
CUtensorMap cudaStream_t cudaError_t cudaGraph_t cudaEvent_t`;

const PREDECLARED = `threadIdx blockIdx blockDim gridDim warpSize fmaf expf exp2f logf sqrtf rsqrtf fabsf floorf fminf fmaxf min max abs
make_float2 make_float4 make_uint2 make_uint4 make_int2 make_int4 atomicAdd atomicMax linux unix i386 errno stdin stdout stderr
major minor makedev assert isnan isinf isfinite isnormal signbit isgreater isless fpclassify va_start va_end va_arg va_copy
offsetof setjmp main`;

/** Names of the printed kernel's own frame, scalars included. */
const FRAME = 'scalars thread lane warp T past seq segment_first segment_count';

export const RESERVED_WORDS: ReadonlySet<string> = new Set([KEYWORDS, TYPES, PREDECLARED, FRAME].join(' ').split(/\s+/));

/** The prelude's names, those that C++ keeps for compilers, and capitals: macros. */
const PATTERN = /^(moec|cuda|cu[A-Z]|_)|__|^[A-Z][A-Z0-9_]*$/;

export const reserved: Words = { has: (word) => RESERVED_WORDS.has(word) || PATTERN.test(word) };
