// Lists of commands: read and checked whole, then run at once or as a graph. A part of host.cuh.
#pragma once
#include "host_handle.cuh"

#ifndef MOEC_EMULATED
#include <cudaTypedefs.h>
#endif

namespace moec {

constexpr size_t kMaxGraphs = 64;
constexpr uint64_t kDispatch = 0;
constexpr uint64_t kCopy = 1;
constexpr uint64_t kClear = 2;
constexpr uint64_t kDispatchWords = 4;
constexpr uint64_t kCopyWords = 4;
constexpr uint64_t kClearWords = 4;
/** Bytes of a row of a box: one row of the 128-byte swizzle. */
constexpr uint32_t kBoxRowBytes = 128;
constexpr uint32_t kMaxBoxRows = 256;
constexpr uint32_t kMapAlignment = 16;

// ---------------------------------------------------------------- tensor maps

#ifdef MOEC_EMULATED
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);
#else
using EncodeTiled = PFN_cuTensorMapEncodeTiled_v12000;
#endif

/** The driver's function, found at run time so that the library needs no libcuda to load. */
inline EncodeTiled encode_tiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  MOEC_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess || function == nullptr) {
    fail(MOEC_INTERNAL, "the driver has no cuTensorMapEncodeTiled: it is older than CUDA 12");
  }
  return reinterpret_cast<EncodeTiled>(function);
}

inline CUtensorMap encode(const Handle& handle, const MoecTensorMap& map, uint64_t pointer, const char* kernel) {
  constexpr uint32_t element_bytes = 2;
  const uint64_t row_bytes = map.columns * element_bytes;
  // Kernels name rows by an int.
  const uint64_t rows = map.rows == 0 ? std::min<uint64_t>(bytes_from(handle, pointer, kernel) / row_bytes, INT32_MAX) : map.rows;
  check_memory(handle, pointer, 0, rows * row_bytes, kernel);
  const bool aligned = pointer % kMapAlignment == 0 && row_bytes % kMapAlignment == 0;
  if (!aligned || rows == 0 || map.box_rows == 0 || map.box_rows > kMaxBoxRows) {
    fail(MOEC_BAD_ARGUMENT, "%s: a tensor map over %llu x %llu elements in boxes of %u rows", kernel, (unsigned long long)rows,
         (unsigned long long)map.columns, map.box_rows);
  }
  const cuuint64_t sizes[2] = {map.columns, rows};
  const cuuint64_t strides[1] = {row_bytes};
  const cuuint32_t box[2] = {kBoxRowBytes / element_bytes, map.box_rows};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap encoded;
  const CUtensorMapDataType type = map.element == MOEC_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const CUresult code = encode_tiled()(&encoded, type, 2, device_pointer<void>(pointer), sizes, strides, box, steps,
                                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code != CUDA_SUCCESS) fail(MOEC_INTERNAL, "cuTensorMapEncodeTiled for %s: CUresult %d", kernel, static_cast<int>(code));
  return encoded;
}

// ---------------------------------------------------------------- lists of commands

struct Command {
  uint64_t kind;
  /** Of a dispatch: its pointers. Of a copy: from, to, bytes. Of a clear: pointer, bytes. */
  const uint64_t* words;
  const MoecKernel* kernel;
  dim3 grid;
  std::vector<CUtensorMap> maps;
};

inline const CUtensorMap& map_for(Handle& handle, const MoecTensorMap& map, uint64_t pointer, const char* kernel) {
  const MapKey key{pointer, &map};
  auto found = handle.maps.find(key);
  if (found == handle.maps.end()) found = handle.maps.emplace(key, encode(handle, map, pointer, kernel)).first;
  return found->second;
}

inline Command read_dispatch(Handle& handle, const uint64_t* words, uint64_t left) {
  if (left < kDispatchWords) fail(MOEC_BAD_ARGUMENT, "a dispatch of %llu words", (unsigned long long)left);
  const uint64_t index = words[1];
  if (index >= handle.kernels.size()) {
    fail(MOEC_BAD_ARGUMENT, "kernel %llu of %zu", (unsigned long long)index, handle.kernels.size());
  }
  const MoecKernel& kernel = *handle.kernels[index];
  const dim3 grid(static_cast<uint32_t>(words[2]), static_cast<uint32_t>(words[2] >> 32), static_cast<uint32_t>(words[3]));
  const uint64_t count = words[3] >> 32;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail(MOEC_BAD_ARGUMENT, "%s: an empty grid", kernel.name);
  if (count != kernel.arguments) {
    fail(MOEC_BAD_ARGUMENT, "%s takes %u arguments, not %llu", kernel.name, kernel.arguments, (unsigned long long)count);
  }
  if (left - kDispatchWords < count) fail(MOEC_BAD_ARGUMENT, "%s: the list ends within its arguments", kernel.name);
  Command command{kDispatch, words + kDispatchWords, &kernel, grid, {}};
  for (uint64_t i = 0; i < count; i++) check_memory(handle, command.words[i], 0, 1, kernel.name);
  for (uint32_t i = 0; i < kernel.map_count; i++) {
    const MoecTensorMap& map = kernel.maps[i];
    if (map.argument >= kernel.arguments) fail(MOEC_INTERNAL, "%s: tensor map %u views argument %u", kernel.name, i, map.argument);
    command.maps.push_back(map_for(handle, map, command.words[map.argument], kernel.name));
  }
  return command;
}

inline Command read_copy(const Handle& handle, const uint64_t* words, uint64_t left) {
  if (left < kCopyWords) fail(MOEC_BAD_ARGUMENT, "a copy of %llu words", (unsigned long long)left);
  Command command{kCopy, words + 1, nullptr, dim3(), {}};
  check_memory(handle, command.words[0], 0, command.words[2], "the source of a copy");
  check_memory(handle, command.words[1], 0, command.words[2], "the target of a copy");
  return command;
}

inline Command read_clear(const Handle& handle, const uint64_t* words, uint64_t left) {
  if (left < kClearWords) fail(MOEC_BAD_ARGUMENT, "a clear of %llu words", (unsigned long long)left);
  Command command{kClear, words + 1, nullptr, dim3(), {}};
  check_memory(handle, command.words[0], 0, command.words[1], "the target of a clear");
  return command;
}

/** The whole list, checked. The handle is locked. */
inline std::vector<Command> read_commands(Handle& handle, const uint64_t* words, uint64_t count) {
  if (words == nullptr && count > 0) fail(MOEC_BAD_ARGUMENT, "no list of commands");
  std::vector<Command> commands;
  uint64_t at = 0;
  while (at < count) {
    const uint64_t left = count - at;
    if (words[at] == kDispatch) {
      commands.push_back(read_dispatch(handle, words + at, left));
      at += kDispatchWords + commands.back().kernel->arguments;
    } else if (words[at] == kCopy) {
      commands.push_back(read_copy(handle, words + at, left));
      at += kCopyWords;
    } else if (words[at] == kClear) {
      commands.push_back(read_clear(handle, words + at, left));
      at += kClearWords;
    } else {
      fail(MOEC_BAD_ARGUMENT, "word %llu: there is no command %llu", (unsigned long long)at, (unsigned long long)words[at]);
    }
  }
  return commands;
}

inline void enqueue(const Command& command, cudaStream_t stream) {
  if (command.kind == kDispatch) {
    const MoecKernel& kernel = *command.kernel;
#ifdef MOEC_EMULATED
    moec_emu::launch_name = kernel.name;
#endif
    kernel.launch(MoecLaunch{command.grid, kernel.block, kernel.shared, stream, command.words, command.maps.data()});
    check(cudaGetLastError(), kernel.name);
  } else if (command.kind == kCopy && command.words[2] > 0) {
    const void* from = device_pointer<const void>(command.words[0]);
    void* to = device_pointer<void>(command.words[1]);
    MOEC_CHECK(cudaMemcpyAsync(to, from, command.words[2], cudaMemcpyDeviceToDevice, stream));
  } else if (command.kind == kClear && command.words[1] > 0) {
    MOEC_CHECK(cudaMemsetAsync(device_pointer<void>(command.words[0]), 0, command.words[1], stream));
  }
}

inline void enqueue(const std::vector<Command>& commands, cudaStream_t stream) {
  for (const Command& command : commands) enqueue(command, stream);
}

/** Records the commands as a graph ready to launch. */
inline cudaGraphExec_t record(Handle& handle, const std::vector<Command>& commands) {
  MOEC_CHECK(cudaStreamBeginCapture(handle.recorder, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    enqueue(commands, handle.recorder);
  } catch (const Failure&) {
    (void)cudaStreamEndCapture(handle.recorder, &graph);
    (void)cudaGetLastError();
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    throw;
  }
  MOEC_CHECK(cudaStreamEndCapture(handle.recorder, &graph));
  cudaGraphExec_t executable = nullptr;
  const cudaError_t code = cudaGraphInstantiate(&executable, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(code, "cudaGraphInstantiate");
  return executable;
}

inline void drop_oldest_graph(Handle& handle) {
  auto oldest = handle.graphs.begin();
  for (auto it = handle.graphs.begin(); it != handle.graphs.end(); ++it) {
    if (it->second.last_use < oldest->second.last_use) oldest = it;
  }
  (void)cudaGraphExecDestroy(oldest->second.executable);
  handle.graphs.erase(oldest);
}

/** Launches graph `id`, recording it first where it is new. The handle is locked. */
inline void launch_graph(Handle& handle, uint64_t id, const uint64_t* words, uint64_t count) {
  auto found = handle.graphs.find(id);
  if (found == handle.graphs.end()) {
    Graph graph;
    graph.words.assign(words, words + count);
    graph.executable = record(handle, read_commands(handle, words, count));
    if (handle.graphs.size() >= kMaxGraphs) drop_oldest_graph(handle);
    found = handle.graphs.emplace(id, std::move(graph)).first;
  }
  Graph& graph = found->second;
  const size_t bytes = graph.words.size() * sizeof(uint64_t);
  if (count != graph.words.size() || (bytes > 0 && memcmp(words, graph.words.data(), bytes) != 0)) {
    fail(MOEC_BAD_ARGUMENT, "graph %llu was made of another list of commands", (unsigned long long)id);
  }
  graph.last_use = ++handle.uses;
  MOEC_CHECK(cudaGraphLaunch(graph.executable, handle.stream));
}

}  // namespace moec
