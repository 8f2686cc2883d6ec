// The CUDA runtime, continued: memory, streams, graphs, events, tensor maps. A part of emulator.h.
#pragma once

namespace moec_emu {

/** Allocating and freeing wait for the device: not while a stream is captured, other than in relaxed mode. */
inline cudaError_t check_unsafe_call() {
  for (const Stream* s : runtime().capturing) {
    if (s->mode != cudaStreamCaptureModeRelaxed) return breaks_capture(cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

inline cudaError_t allocate(void** p, size_t bytes) {
  Lock lock(runtime().lock);
  *p = nullptr;
  if (device_count() < 1) return result(cudaErrorNoDevice);
  const cudaError_t error = check_unsafe_call();
  if (error != cudaSuccess) return error;
  if (bytes == 0) return cudaSuccess;
  void* memory = nullptr;
  const size_t limit = device_memory();
  if (bytes > limit || runtime().allocated > limit - bytes) return result(cudaErrorMemoryAllocation);
  if (posix_memalign(&memory, 256, bytes + kGuard) != 0) return result(cudaErrorMemoryAllocation);
  memset(memory, kPoison, bytes + kGuard);
  runtime().allocations[(const unsigned char*)memory] = bytes;
  runtime().allocated += bytes;
  *p = memory;
  return cudaSuccess;
}

/** Whether a copy of this kind may have these ends; the runtime looks too. */
inline bool is_copy_valid(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  // Where an end says it is on the device, or is, all of it must lie in one allocation.
  if ((to_device || is_device_pointer(to)) && !is_device_range(to, bytes)) return false;
  return !(from_device || is_device_pointer(from)) || is_device_range(from, bytes);
}

inline cudaError_t enqueue_copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock(runtime().lock);
  if (bytes == 0) return cudaSuccess;
  if (!is_copy_valid(to, from, bytes, kind)) return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] { memmove(to, from, bytes); });
}

inline cudaError_t enqueue_set(void* to, int value, size_t bytes, cudaStream_t stream) {
  Lock lock(runtime().lock);
  if (bytes == 0) return cudaSuccess;
  if (!is_device_range(to, bytes)) return result(cudaErrorInvalidValue);
  return enqueue(stream, [=] { memset(to, value, bytes); });
}

}  // namespace moec_emu

// ---------------------------------------------------------------- memory

template <class T>
inline cudaError_t cudaMalloc(T** p, size_t bytes) {
  return moec_emu::allocate((void**)p, bytes);
}
inline cudaError_t cudaFree(void* p) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  if (p == nullptr) return cudaSuccess;
  const cudaError_t error = moec_emu::check_unsafe_call();
  if (error != cudaSuccess) return error;
  auto& all = moec_emu::runtime().allocations;
  const auto found = all.find((const unsigned char*)p);
  if (found == all.end()) return moec_emu::result(cudaErrorInvalidValue);
  moec_emu::runtime().allocated -= found->second;
  all.erase(found);
  free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  if (moec_emu::device_count() < 1) return moec_emu::result(cudaErrorNoDevice);
  *total = moec_emu::device_memory();
  *free_bytes = *total - (moec_emu::runtime().allocated < *total ? moec_emu::runtime().allocated : *total);
  return cudaSuccess;
}
template <class T>
inline cudaError_t cudaMallocHost(T** p, size_t bytes) {
  *p = (T*)malloc(bytes == 0 ? 1 : bytes);
  return moec_emu::result(*p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
inline cudaError_t cudaFreeHost(void* p) {
  free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = nullptr) {
  return moec_emu::enqueue_copy(to, from, bytes, kind, stream);
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return moec_emu::enqueue_copy(to, from, bytes, kind, nullptr);
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream = nullptr) {
  return moec_emu::enqueue_set(to, value, bytes, stream);
}
inline cudaError_t cudaMemset(void* to, int value, size_t bytes) { return moec_emu::enqueue_set(to, value, bytes, nullptr); }

// ---------------------------------------------------------------- streams

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (moec_emu::device_count() < 1) return moec_emu::result(cudaErrorNoDevice);
  *stream = new moec_emu::Stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  moec_emu::Stream& s = moec_emu::stream_of(stream);
  if (s.capture == cudaStreamCaptureStatusNone) return cudaSuccess;
  s.capture = cudaStreamCaptureStatusInvalidated;
  return moec_emu::result(cudaErrorStreamCaptureUnsupported);
}
inline cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = moec_emu::stream_of(stream).capture;
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  if (stream == nullptr) return moec_emu::result(cudaErrorStreamCaptureUnsupported);
  if (stream->capture != cudaStreamCaptureStatusNone) return moec_emu::result(cudaErrorIllegalState);
  stream->capture = cudaStreamCaptureStatusActive;
  stream->mode = mode;
  stream->recorded.clear();
  moec_emu::runtime().capturing.push_back(stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  *graph = nullptr;
  if (stream == nullptr || stream->capture == cudaStreamCaptureStatusNone) return moec_emu::result(cudaErrorIllegalState);
  const bool valid = stream->capture == cudaStreamCaptureStatusActive;
  stream->capture = cudaStreamCaptureStatusNone;
  auto& capturing = moec_emu::runtime().capturing;
  for (size_t i = 0; i < capturing.size(); i++) {
    if (capturing[i] == stream) capturing.erase(capturing.begin() + (ptrdiff_t)i--);
  }
  if (!valid) return moec_emu::result(cudaErrorStreamCaptureInvalidated);
  *graph = new moec_emu::Graph{std::move(stream->recorded)};
  stream->recorded.clear();
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  if (stream == nullptr) return moec_emu::result(cudaErrorInvalidResourceHandle);
  if (stream->capture != cudaStreamCaptureStatusNone) {
    cudaGraph_t graph;
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) delete graph;
  }
  delete stream;
  return cudaSuccess;
}

// ---------------------------------------------------------------- graphs

inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long = 0) {
  if (graph == nullptr) return moec_emu::result(cudaErrorInvalidValue);
  *executable = new moec_emu::Graph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags = 0) {
  return cudaGraphInstantiate(executable, graph, flags);
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  if (executable == nullptr) return moec_emu::result(cudaErrorInvalidValue);
  // A copy of the work: the executable may be destroyed while a graph that was captured from this launch lives on.
  return moec_emu::enqueue(stream, [work = executable->work] {
    for (const auto& step : work) step();
  });
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

// ---------------------------------------------------------------- events

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (moec_emu::device_count() < 1) return moec_emu::result(cudaErrorNoDevice);
  *event = new moec_emu::Event;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  if (event == nullptr) return moec_emu::result(cudaErrorInvalidResourceHandle);
  event->captured = moec_emu::stream_of(stream).capture != cudaStreamCaptureStatusNone;
  event->recorded = !event->captured;
  // Work happens when it is enqueued, so all before this record is done now.
  event->milliseconds = moec_emu::now_milliseconds();
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return moec_emu::result(cudaErrorInvalidResourceHandle);
  return moec_emu::result(event->captured ? cudaErrorCapturedEvent : cudaSuccess);
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (start == nullptr || end == nullptr) return moec_emu::result(cudaErrorInvalidResourceHandle);
  if (start->captured || end->captured) return moec_emu::result(cudaErrorCapturedEvent);
  if (!start->recorded || !end->recorded || !start->timed || !end->timed) return moec_emu::result(cudaErrorInvalidResourceHandle);
  *milliseconds = (float)(end->milliseconds - start->milliseconds);
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

// ---------------------------------------------------------------- tensor maps, of the driver

typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;
enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum CUtensorMapDataType {
  CU_TENSOR_MAP_DATA_TYPE_UINT8 = 0,
  CU_TENSOR_MAP_DATA_TYPE_UINT16 = 1,
  CU_TENSOR_MAP_DATA_TYPE_UINT32 = 2,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6,
  CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7,
  CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9,
};
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE = 0, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion {
  CU_TENSOR_MAP_L2_PROMOTION_NONE = 0,
  CU_TENSOR_MAP_L2_PROMOTION_L2_64B = 1,
  CU_TENSOR_MAP_L2_PROMOTION_L2_128B = 2,
  CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3,
};
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 };

namespace moec_emu {
inline uint32_t element_bytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32: return 4;
    default: return 2;
  }
}
}  // namespace moec_emu

/** Two dimensions, no interleaving, no swizzle or that of 128 bytes: what this project uses. The driver's rules for these. */
inline CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* sizes,
                                       const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* element_strides,
                                       CUtensorMapInterleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  if (map == nullptr || (uintptr_t)map % 64 != 0 || rank != 2) return CUDA_ERROR_INVALID_VALUE;
  const uint32_t bytes = moec_emu::element_bytes(type);
  const bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  if ((uintptr_t)base % 16 != 0 || strides[0] % 16 != 0 || strides[0] >= 1ull << 40) return CUDA_ERROR_INVALID_VALUE;
  for (int i = 0; i < 2; i++) {
    if (sizes[i] == 0 || sizes[i] > 1ull << 32 || box[i] == 0 || box[i] > 256 || element_strides[i] != 1) return CUDA_ERROR_INVALID_VALUE;
  }
  if (box[0] * bytes % 16 != 0 || (swizzled && box[0] * bytes > 128)) return CUDA_ERROR_INVALID_VALUE;
  if (strides[0] < sizes[0] * bytes) return CUDA_ERROR_INVALID_VALUE;
  const moec_emu::TensorMapContents contents{
      moec_emu::kTensorMapMark, (const unsigned char*)base, sizes[1], sizes[0], strides[0], box[1], box[0], bytes, swizzled,
  };
  static_assert(sizeof contents <= sizeof *map, "a tensor map has 128 bytes");
  *map = CUtensorMap{};
  memcpy(map, &contents, sizeof contents);
  return CUDA_SUCCESS;
}

inline cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* found = nullptr) {
  const bool known = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? (void*)cuTensorMapEncodeTiled : nullptr;
  if (found != nullptr) *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return moec_emu::result(known ? cudaSuccess : cudaErrorSymbolNotFound);
}
