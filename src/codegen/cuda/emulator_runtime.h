// The part of the CUDA runtime that a host file needs: errors, devices, launches. A part of emulator.h.
//
// Names, values and error codes are CUDA's. Work on a stream happens when it is enqueued. While a stream is captured, launches and
// copies are recorded with their arguments by value and happen at each launch of the graph.
#pragma once

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorIllegalState = 401,
  cudaErrorSymbolNotFound = 500,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureUnmatched = 903,
  cudaErrorStreamCaptureImplicit = 906,
  cudaErrorCapturedEvent = 907,
  cudaErrorUnknown = 999,
};

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxGridDimX = 5,
  cudaDevAttrMaxGridDimY = 6,
  cudaDevAttrMaxGridDimZ = 7,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMaxRegistersPerBlock = 12,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeThreadLocal = 1, cudaStreamCaptureModeRelaxed = 2 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1, cudaStreamCaptureStatusInvalidated = 2 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };
enum {
  cudaStreamDefault = 0,
  cudaStreamNonBlocking = 1,
  cudaEventDefault = 0,
  cudaEventBlockingSync = 1,
  cudaEventDisableTiming = 2,
  cudaEnableDefault = 0,
};

/** The members that hosts ask for; the real one has many more. */
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  size_t sharedMemPerBlock;
  int regsPerBlock;
  int warpSize;
  int maxThreadsPerBlock;
  int maxGridSize[3];
  int major;
  int minor;
  int multiProcessorCount;
  int l2CacheSize;
  int maxThreadsPerMultiProcessor;
  size_t sharedMemPerMultiprocessor;
  size_t sharedMemPerBlockOptin;
};

namespace moec_emu {
typedef std::vector<std::function<void()>> Work;
struct Stream {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  Work recorded;
};
struct Event {
  double milliseconds = 0;
  bool recorded = false;
  bool captured = false;
  bool timed = true;
};
struct Graph {
  Work work;
};
}  // namespace moec_emu
typedef moec_emu::Stream* cudaStream_t;
typedef moec_emu::Event* cudaEvent_t;
typedef moec_emu::Graph* cudaGraph_t;
typedef moec_emu::Graph* cudaGraphExec_t;

namespace moec_emu {

// ---------------------------------------------------------------- state

/** Bytes after each allocation that must stay as they are; AddressSanitizer guards them better. */
constexpr size_t kGuard = MOEC_EMU_ASAN ? 0 : 256;

struct Runtime {
  /** One call at a time: they may come from any OS thread. */
  std::recursive_mutex lock;
  cudaError_t last_error = cudaSuccess;
  /** Bytes of each allocation, by its address. */
  std::map<const unsigned char*, size_t> allocations;
  size_t allocated = 0;
  /** Dynamic shared memory that a kernel was allowed beyond 48 KiB, by its address. */
  std::map<const void*, size_t> shared_limits;
  Stream default_stream;
  /** Streams that are being captured: what would wait for them is an error meanwhile. */
  std::vector<Stream*> capturing;
};

inline Runtime& runtime() {
  // Never destroyed: a library may be used until the process ends.
  static Runtime* r = new Runtime;
  return *r;
}
typedef std::lock_guard<std::recursive_mutex> Lock;

inline cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) runtime().last_error = error;
  return error;
}

inline int device_count() { return (int)environment_number("MOEC_EMULATE_DEVICES", 1); }
inline size_t device_memory() { return (size_t)environment_number("MOEC_EMULATE_MEMORY", 16ll << 30); }

/** 80 or 90. */
inline int architecture() {
  const int arch = (int)environment_number("MOEC_EMULATE_ARCH", 90);
  if (arch != 80 && arch != 90) {
    fprintf(stderr, "moec emulator: MOEC_EMULATE_ARCH=%d: want 80 or 90\n", arch);
    abort();
  }
  return arch;
}
inline size_t shared_limit() { return architecture() == 80 ? 163 * 1024 : kSharedMax; }
constexpr size_t kSharedDefault = 48 * 1024;

inline Stream& stream_of(cudaStream_t stream) { return stream == nullptr ? runtime().default_stream : *stream; }

/** What waits for the device while a stream is captured breaks the capture. */
inline cudaError_t breaks_capture(cudaError_t error) {
  if (runtime().capturing.empty()) return cudaSuccess;
  for (Stream* s : runtime().capturing) s->capture = cudaStreamCaptureStatusInvalidated;
  return result(error);
}

/** Does the work now, or records it where the stream is captured. */
inline cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  Stream& s = stream_of(stream);
  if (s.capture == cudaStreamCaptureStatusInvalidated) return result(cudaErrorStreamCaptureInvalidated);
  if (s.capture == cudaStreamCaptureStatusActive) {
    s.recorded.push_back(std::move(work));
    return cudaSuccess;
  }
  // The default stream waits for all others.
  if (&s == &runtime().default_stream && breaks_capture(cudaErrorStreamCaptureImplicit) != cudaSuccess) {
    return cudaErrorStreamCaptureImplicit;
  }
  work();
  return cudaSuccess;
}

/** Whether [p, p + bytes) lies inside one allocation. */
inline bool is_device_range(const void* p, size_t bytes) {
  const auto& all = runtime().allocations;
  auto after = all.upper_bound((const unsigned char*)p);
  if (after == all.begin()) return false;
  --after;
  const size_t offset = (size_t)((const unsigned char*)p - after->first);
  return offset <= after->second && bytes <= after->second - offset;
}

/** Whether p points into an allocation at all. */
inline bool is_device_pointer(const void* p) { return is_device_range(p, 0); }

inline void check_guards(const char* kernel) {
  for (const auto& [base, bytes] : runtime().allocations) {
    for (size_t i = 0; i < kGuard; i++) {
      if (base[bytes + i] == kPoison) continue;
      fprintf(stderr, "moec emulator: kernel %s stored %zu bytes past an allocation of %zu bytes\n", kernel, i + 1, bytes);
      abort();
    }
  }
}

inline double now_milliseconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

// ---------------------------------------------------------------- launches

/** What a GPU says of a launch before it runs. */
inline cudaError_t check_launch(const void* kernel, dim3 grid, dim3 size, size_t shared_bytes) {
  if (device_count() < 1) return cudaErrorNoDevice;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || size.x == 0 || size.y == 0 || size.z == 0) return cudaErrorInvalidConfiguration;
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  if (size.z > 64 || (uint64_t)size.x * size.y * size.z > 1024) return cudaErrorInvalidConfiguration;
  const auto& limits = runtime().shared_limits;
  const auto limit = limits.find(kernel);
  if (shared_bytes > (limit == limits.end() ? kSharedDefault : limit->second)) return cudaErrorInvalidValue;
  return cudaSuccess;
}

/** What the next launch shall be called in messages, where its own text does not tell. */
inline const char* launch_name = nullptr;

/** kernel<<<grid, size, shared_bytes, stream>>>(args ...): the error is what cudaGetLastError gives. */
template <class... Params, class... Args>
inline cudaError_t launch(const char* name, void (*kernel)(Params...), dim3 grid, dim3 size, size_t shared_bytes, cudaStream_t stream,
                          Args&&... args) {
  Lock lock(runtime().lock);
  if (launch_name != nullptr) name = launch_name;
  launch_name = nullptr;
  const cudaError_t error = check_launch((const void*)kernel, grid, size, shared_bytes);
  if (error != cudaSuccess) return result(error);
  struct Call {
    void (*kernel)(Params...);
    std::tuple<typename std::decay<Params>::type...> args;
  };
  // Shared: std::function copies, and the arguments of a recorded launch must stay where they are.
  auto call = std::make_shared<Call>(Call{kernel, {std::forward<Args>(args)...}});
  return enqueue(stream, [=] {
    const auto entry = [](void* p) {
      Call& c = *(Call*)p;
      std::apply(c.kernel, c.args);
    };
    run_grid(name, grid, size, shared_bytes, entry, call.get());
    check_guards(name);
  });
}

}  // namespace moec_emu

/** What nvcc writes as kernel<<<...>>>(...). */
#define MOEC_LAUNCH(kernel, grid, size, shared_bytes, stream, ...) \
  ((void)::moec_emu::launch(#kernel, kernel, grid, size, shared_bytes, stream, __VA_ARGS__))

// ---------------------------------------------------------------- errors

inline const char* cudaGetErrorName(cudaError_t error) {
#define MOEC_EMU_NAME(name) \
  case name: return #name
  switch (error) {
    MOEC_EMU_NAME(cudaSuccess);
    MOEC_EMU_NAME(cudaErrorInvalidValue);
    MOEC_EMU_NAME(cudaErrorMemoryAllocation);
    MOEC_EMU_NAME(cudaErrorInitializationError);
    MOEC_EMU_NAME(cudaErrorInvalidConfiguration);
    MOEC_EMU_NAME(cudaErrorInsufficientDriver);
    MOEC_EMU_NAME(cudaErrorNoDevice);
    MOEC_EMU_NAME(cudaErrorInvalidDevice);
    MOEC_EMU_NAME(cudaErrorNoKernelImageForDevice);
    MOEC_EMU_NAME(cudaErrorInvalidResourceHandle);
    MOEC_EMU_NAME(cudaErrorIllegalState);
    MOEC_EMU_NAME(cudaErrorSymbolNotFound);
    MOEC_EMU_NAME(cudaErrorNotReady);
    MOEC_EMU_NAME(cudaErrorIllegalAddress);
    MOEC_EMU_NAME(cudaErrorLaunchOutOfResources);
    MOEC_EMU_NAME(cudaErrorLaunchFailure);
    MOEC_EMU_NAME(cudaErrorNotSupported);
    MOEC_EMU_NAME(cudaErrorStreamCaptureUnsupported);
    MOEC_EMU_NAME(cudaErrorStreamCaptureInvalidated);
    MOEC_EMU_NAME(cudaErrorStreamCaptureUnmatched);
    MOEC_EMU_NAME(cudaErrorStreamCaptureImplicit);
    MOEC_EMU_NAME(cudaErrorCapturedEvent);
    MOEC_EMU_NAME(cudaErrorUnknown);
  }
#undef MOEC_EMU_NAME
  return "unrecognized error code";
}

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorSymbolNotFound: return "named symbol not found";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureImplicit: return "operation would make the legacy stream depend on a capturing blocking stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    default: return cudaGetErrorName(error);
  }
}

inline cudaError_t cudaPeekAtLastError() { return moec_emu::runtime().last_error; }
inline cudaError_t cudaGetLastError() {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  const cudaError_t error = moec_emu::runtime().last_error;
  moec_emu::runtime().last_error = cudaSuccess;
  return error;
}

// ---------------------------------------------------------------- devices

inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = moec_emu::device_count();
  return moec_emu::result(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
inline cudaError_t cudaSetDevice(int device) {
  if (moec_emu::device_count() < 1) return moec_emu::result(cudaErrorNoDevice);
  return moec_emu::result(device >= 0 && device < moec_emu::device_count() ? cudaSuccess : cudaErrorInvalidDevice);
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return moec_emu::result(moec_emu::device_count() > 0 ? cudaSuccess : cudaErrorNoDevice);
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
    case cudaDevAttrMaxGridDimY: *value = 65535; break;
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)moec_emu::kSharedDefault; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = (int)moec_emu::kRegisters; break;
    // Few, so that persistent kernels give each block several tiles.
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = moec_emu::architecture() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = moec_emu::architecture() % 10; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)moec_emu::shared_limit() + 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)moec_emu::shared_limit(); break;
    default: return moec_emu::result(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  const auto attribute = [=](cudaDeviceAttr a) {
    int value = 0;
    cudaDeviceGetAttribute(&value, a, device);
    return value;
  };
  *p = cudaDeviceProp{};
  snprintf(p->name, sizeof p->name, "moec emulator (sm_%d)", moec_emu::architecture());
  p->totalGlobalMem = moec_emu::device_memory();
  p->sharedMemPerBlock = (size_t)attribute(cudaDevAttrMaxSharedMemoryPerBlock);
  p->regsPerBlock = attribute(cudaDevAttrMaxRegistersPerBlock);
  p->warpSize = attribute(cudaDevAttrWarpSize);
  p->maxThreadsPerBlock = attribute(cudaDevAttrMaxThreadsPerBlock);
  p->maxGridSize[0] = attribute(cudaDevAttrMaxGridDimX);
  p->maxGridSize[1] = attribute(cudaDevAttrMaxGridDimY);
  p->maxGridSize[2] = attribute(cudaDevAttrMaxGridDimZ);
  p->major = attribute(cudaDevAttrComputeCapabilityMajor);
  p->minor = attribute(cudaDevAttrComputeCapabilityMinor);
  p->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
  p->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
  p->maxThreadsPerMultiProcessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
  p->sharedMemPerMultiprocessor = (size_t)attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  p->sharedMemPerBlockOptin = (size_t)attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  return moec_emu::breaks_capture(cudaErrorStreamCaptureUnsupported);
}
template <class... P>
inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  moec_emu::Lock lock(moec_emu::runtime().lock);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || (size_t)value > moec_emu::shared_limit()) return moec_emu::result(cudaErrorInvalidValue);
  moec_emu::runtime().shared_limits[(const void*)kernel] = (size_t)value;
  return cudaSuccess;
}
