// The table of a module's kernels: what the host (host.cuh) needs to launch them. Each part of a module, that is each translation
// unit with kernels, lists its own:
//
//   #include "prelude.cuh"
//   #include "kernel_table.cuh"
//   #include "kernels/k0_norm.cuh"
//   #include "kernels/k1_experts.cuh"
//   MOEC_PART(0,
//     MOEC_KERNEL(k0_norm, "k0_norm", 256, 1024),
//     MOEC_KERNEL(k1_experts, "k1_experts", 384, 200704, MOEC_MAP(1, 90112, 2048, 128, MOEC_BF16)))
//
// and the module names its parts, then becomes a library:
//
//   #include "prelude.cuh"
//   #include "kernel_table.cuh"
//   MOEC_DECLARE_PART(0)
//   MOEC_DECLARE_PART(1)
//   MOEC_MODULE(MOEC_PART_ROW(0), MOEC_PART_ROW(1))
//   #include "host.cuh"
//
// MOEC_KERNEL(function, its name in the manifest, threads per block, bytes of dynamic shared memory, tensor maps ...)
// MOEC_MAP(argument that the map views, rows (0: as many as its memory holds), columns, rows of a box, MOEC_F16 | MOEC_BF16)
//
// A kernel's parameters are pointers to device memory, then its tensor maps in the order of the row.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <type_traits>
#include <utility>

#ifdef __CUDACC__
#include <cuda.h>
#endif

#ifndef MOEC_LAUNCH
#define MOEC_LAUNCH(kernel, grid, block, shared, stream, ...) (kernel)<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
#endif

enum MoecElement : uint32_t { MOEC_F16 = 0, MOEC_BF16 = 1 };

/** A matrix in device memory as the tensor memory accelerator sees it: row-major, boxes of 128 bytes a row in the 128-byte swizzle. */
struct MoecTensorMap {
  /** Index of the kernel's argument that holds the matrix. */
  uint32_t argument;
  uint32_t box_rows;
  /** 0: as many as the memory from the argument on holds. */
  uint64_t rows;
  uint64_t columns;
  MoecElement element;
};

/** One launch: device pointers, and maps already encoded for them. */
struct MoecLaunch {
  dim3 grid;
  uint32_t block;
  uint32_t shared;
  cudaStream_t stream;
  const uint64_t* arguments;
  const CUtensorMap* maps;
};

enum { MOEC_MAX_MAPS = 4 };

struct MoecKernel {
  const char* name;
  uint32_t block;
  uint32_t shared;
  /** Pointers that a launch takes. */
  uint32_t arguments;
  uint32_t map_count;
  MoecTensorMap maps[MOEC_MAX_MAPS];
  void (*launch)(const MoecLaunch&);
  /** Asks for the shared memory that needs asking for; once per device. */
  cudaError_t (*prepare)(uint32_t shared);
};

struct MoecPart {
  const MoecKernel* kernels;
  const int* count;
};

extern const MoecPart moec_parts[];
extern const int moec_part_count;

/** Shared memory that a kernel gets without asking. */
enum { MOEC_FREE_SHARED = 48 << 10 };

namespace moec {

/** Argument `index` of a launch as the parameter type says; maps follow the `pointers` pointers. */
template <typename Parameter>
struct Argument {
  static Parameter of(const MoecLaunch& launch, size_t index, size_t) { return reinterpret_cast<Parameter>(launch.arguments[index]); }
};
template <>
struct Argument<CUtensorMap> {
  static const CUtensorMap& of(const MoecLaunch& launch, size_t index, size_t pointers) { return launch.maps[index - pointers]; }
};

template <typename Parameter>
constexpr size_t is_map() {
  return std::is_same<Parameter, CUtensorMap>::value ? 1 : 0;
}

template <auto kernel>
struct Launcher;

template <typename... Parameters, void (*kernel)(Parameters...)>
struct Launcher<kernel> {
  static constexpr size_t maps = (size_t{0} + ... + is_map<Parameters>());
  static constexpr size_t pointers = sizeof...(Parameters) - maps;

  template <size_t... index>
  static void spread(const MoecLaunch& l, std::index_sequence<index...>) {
    MOEC_LAUNCH(kernel, l.grid, l.block, l.shared, l.stream, Argument<Parameters>::of(l, index, pointers)...);
  }

  static void launch(const MoecLaunch& l) { spread(l, std::index_sequence_for<Parameters...>{}); }

  static cudaError_t prepare(uint32_t shared) {
    if (shared <= MOEC_FREE_SHARED) return cudaSuccess;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  }
};

template <auto kernel, typename... Maps>
constexpr MoecKernel row(const char* name, uint32_t block, uint32_t shared, Maps... maps) {
  using Own = Launcher<kernel>;
  static_assert(sizeof...(Maps) == Own::maps, "the row lists another number of tensor maps than the kernel takes");
  static_assert(sizeof...(Maps) <= MOEC_MAX_MAPS, "too many tensor maps");
  return MoecKernel{name, block, shared, uint32_t{Own::pointers}, uint32_t{Own::maps}, {maps...}, &Own::launch, &Own::prepare};
}

}  // namespace moec

#define MOEC_MAP(argument, rows, columns, box_rows, element) \
  MoecTensorMap { argument, box_rows, rows, columns, element }

#define MOEC_KERNEL(function, ...) moec::row<&function>(__VA_ARGS__)

#define MOEC_DECLARE_PART(index)            \
  extern const MoecKernel moec_part##index[]; \
  extern const int moec_part##index##_count;

#define MOEC_PART(index, ...)                          \
  MOEC_DECLARE_PART(index)                             \
  const MoecKernel moec_part##index[] = {__VA_ARGS__}; \
  const int moec_part##index##_count = sizeof(moec_part##index) / sizeof(MoecKernel);

#define MOEC_PART_ROW(index) \
  MoecPart { moec_part##index, &moec_part##index##_count }

#define MOEC_MODULE(...)                       \
  const MoecPart moec_parts[] = {__VA_ARGS__}; \
  const int moec_part_count = sizeof(moec_parts) / sizeof(MoecPart);
