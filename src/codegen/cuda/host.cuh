// The host side of a CUDA library: a small C interface over the table of kernels (kernel_table.cuh). Included last by the module.
//
// Every call returns 0, a cudaError_t, or one of our own codes below zero; moec_error tells the call, the error's name and its text.
// Work goes to one stream in the order of the calls. Calls that wait (moec_read, moec_wait, moec_time) may come from other threads
// than the rest: the handle is locked while its tables are in use, never while the device works.
//
// Commands are lists of 64-bit words, one after another:
//   dispatch  0, kernel, grid x | grid y << 32, grid z | arguments << 32, then a device pointer for each argument
//   copy      1, from, to, bytes
//   clear     2, pointer, bytes, 0        zeros
// A list is checked whole before any of it runs: every pointer must lie in memory that moec_alloc gave out.
#pragma once
#include "host_commands.cuh"

// What the kernels were compiled for: 80 runs on every device from 8.0 on, 90 is sm_90a and runs on 9.0 alone.
#ifndef MOEC_ARCH
#error "compile with -DMOEC_ARCH=80 or -DMOEC_ARCH=90"
#endif
static_assert(MOEC_ARCH == 80 || MOEC_ARCH == 90, "MOEC_ARCH is 80 or 90");

#define MOEC_API extern "C" __attribute__((visibility("default")))

enum { MOEC_ABI = 1 };

namespace moec {

// ---------------------------------------------------------------- opening and closing

inline int attribute(int device, cudaDeviceAttr which) {
  int value = 0;
  MOEC_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

inline void check_architecture(int device) {
  const int major = attribute(device, cudaDevAttrComputeCapabilityMajor);
  const int minor = attribute(device, cudaDevAttrComputeCapabilityMinor);
  const int capability = 10 * major + minor;
  if (MOEC_ARCH == 80 ? capability >= 80 : capability == 90) return;
  const char* own = MOEC_ARCH == 80 ? "sm_80" : "sm_90a";
  fail(MOEC_WRONG_ARCHITECTURE, "this library is for %s, the device is sm_%d", own, capability);
}

inline void open_device(Handle& handle) {
  int count = 0;
  MOEC_CHECK(cudaGetDeviceCount(&count));
  if (count == 0) check(cudaErrorNoDevice, "cudaGetDeviceCount(&count)");
  if (handle.device < 0 || handle.device >= count) {
    fail(MOEC_BAD_ARGUMENT, "there is no device %d: this machine has %d", handle.device, count);
  }
  MOEC_CHECK(cudaSetDevice(handle.device));
  check_architecture(handle.device);
  MOEC_CHECK(cudaStreamCreateWithFlags(&handle.stream, cudaStreamNonBlocking));
  MOEC_CHECK(cudaStreamCreateWithFlags(&handle.recorder, cudaStreamNonBlocking));
  for (int p = 0; p < moec_part_count; p++) {
    const MoecPart& part = moec_parts[p];
    for (int k = 0; k < *part.count; k++) {
      const MoecKernel& kernel = part.kernels[k];
      check(kernel.prepare(kernel.shared), kernel.name);
      handle.names.emplace(kernel.name, static_cast<int>(handle.kernels.size()));
      handle.kernels.push_back(&kernel);
    }
  }
}

/** Gives back all that the handle holds. Errors are of no use to anyone any more. */
inline void release(Handle& handle) {
  (void)cudaSetDevice(handle.device);
  if (handle.stream != nullptr) (void)cudaStreamSynchronize(handle.stream);
  for (auto& graph : handle.graphs) (void)cudaGraphExecDestroy(graph.second.executable);
  for (auto& block : handle.memory) (void)cudaFree(device_pointer<void>(block.first));
  if (handle.recorder != nullptr) (void)cudaStreamDestroy(handle.recorder);
  if (handle.stream != nullptr) (void)cudaStreamDestroy(handle.stream);
}

/** Events around runs, and the graph that runs. */
struct Timing {
  std::vector<cudaEvent_t> events;
  cudaGraphExec_t graph = nullptr;

  explicit Timing(uint32_t runs) : events(size_t{2} * runs, nullptr) {
    for (cudaEvent_t& event : events) MOEC_CHECK(cudaEventCreate(&event));
  }
  ~Timing() {
    for (cudaEvent_t event : events) {
      if (event != nullptr) (void)cudaEventDestroy(event);
    }
    if (graph != nullptr) (void)cudaGraphExecDestroy(graph);
  }
  Timing(const Timing&) = delete;
  Timing& operator=(const Timing&) = delete;
};

/** Commands up to and with the last clear. */
inline std::vector<Command> take_preparation(std::vector<Command>& commands) {
  size_t count = 0;
  for (size_t i = 0; i < commands.size(); i++) {
    if (commands[i].kind == kClear) count = i + 1;
  }
  const auto middle = commands.begin() + static_cast<ptrdiff_t>(count);
  std::vector<Command> preparation(commands.begin(), middle);
  commands.erase(commands.begin(), middle);
  return preparation;
}

}  // namespace moec

// ---------------------------------------------------------------- the interface

/** Version of this interface. */
MOEC_API int moec_abi(void) { return MOEC_ABI; }

/**
 * Opens device number `device`. On failure `*out` is null and `error` holds the text.
 * MOEC_WRONG_ARCHITECTURE where the kernels are not for this device.
 */
MOEC_API int moec_open(int device, void** out, char* error, int error_size) {
  if (out == nullptr) return MOEC_BAD_ARGUMENT;
  *out = nullptr;
  moec::Handle* handle = new (std::nothrow) moec::Handle;
  if (handle == nullptr) return MOEC_INTERNAL;
  handle->device = device;
  const int code = moec::attempt(*handle, moec::open_device);
  if (code == 0) {
    *out = handle;
    return 0;
  }
  if (error != nullptr && error_size > 0) snprintf(error, static_cast<size_t>(error_size), "%s", handle->error.c_str());
  moec::release(*handle);
  delete handle;
  return code;
}

/** Frees all memory, graphs and streams; no other call may be running. */
MOEC_API int moec_close(void* opaque) {
  moec::Handle* handle = static_cast<moec::Handle*>(opaque);
  if (handle == nullptr) return MOEC_BAD_ARGUMENT;
  moec::release(*handle);
  delete handle;
  return 0;
}

/**
 * out[12]: compute capability major, minor, multiprocessors, bytes of shared memory a block may ask for, bytes of device memory,
 * free bytes, threads per block, blocks per grid in x, y, z, bytes of the L2 cache, 1 where a CPU plays the device.
 */
MOEC_API int moec_info(void* opaque, int64_t* out, char* name, int name_size) {
  return moec::call(opaque, [&](moec::Handle& handle) {
    if (out == nullptr || name == nullptr || name_size <= 0) moec::fail(MOEC_BAD_ARGUMENT, "moec_info: nowhere to write to");
    const cudaDeviceAttr attributes[] = {
        cudaDevAttrComputeCapabilityMajor,      cudaDevAttrComputeCapabilityMinor, cudaDevAttrMultiProcessorCount,
        cudaDevAttrMaxSharedMemoryPerBlockOptin};
    for (int i = 0; i < 4; i++) out[i] = moec::attribute(handle.device, attributes[i]);
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    MOEC_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    out[4] = static_cast<int64_t>(total_bytes);
    out[5] = static_cast<int64_t>(free_bytes);
    out[6] = moec::attribute(handle.device, cudaDevAttrMaxThreadsPerBlock);
    out[7] = moec::attribute(handle.device, cudaDevAttrMaxGridDimX);
    out[8] = moec::attribute(handle.device, cudaDevAttrMaxGridDimY);
    out[9] = moec::attribute(handle.device, cudaDevAttrMaxGridDimZ);
    out[10] = moec::attribute(handle.device, cudaDevAttrL2CacheSize);
#ifdef MOEC_EMULATED
    out[11] = 1;
#else
    out[11] = 0;
#endif
    cudaDeviceProp properties;
    MOEC_CHECK(cudaGetDeviceProperties(&properties, handle.device));
    snprintf(name, static_cast<size_t>(name_size), "%s", properties.name);
  });
}

/** Index of a kernel for lists of commands, -1 where there is none of this name. */
MOEC_API int moec_kernel(void* opaque, const char* name) {
  moec::Handle* handle = static_cast<moec::Handle*>(opaque);
  if (handle == nullptr || name == nullptr) return MOEC_BAD_ARGUMENT;
  const auto found = handle->names.find(name);
  return found == handle->names.end() ? MOEC_BAD_ARGUMENT : found->second;
}

/** Allocates bytes of zeros. */
MOEC_API int moec_alloc(void* opaque, uint64_t bytes, uint64_t* out) {
  return moec::call(opaque, [&](moec::Handle& handle) {
    if (bytes == 0 || out == nullptr) moec::fail(MOEC_BAD_ARGUMENT, "moec_alloc: %llu bytes", (unsigned long long)bytes);
    *out = 0;
    const moec::Guard guard(handle.lock);
    void* pointer = nullptr;
    MOEC_CHECK(cudaMalloc(&pointer, bytes));
    const uint64_t address = reinterpret_cast<uintptr_t>(pointer);
    handle.memory.emplace(address, bytes);
    MOEC_CHECK(cudaMemsetAsync(pointer, 0, bytes, handle.stream));
    *out = address;
  });
}

/** Frees what moec_alloc gave; graphs that use it must be dropped. */
MOEC_API int moec_free(void* opaque, uint64_t address) {
  return moec::call(opaque, [&](moec::Handle& handle) {
    const moec::Guard guard(handle.lock);
    const auto found = handle.memory.find(address);
    if (found == handle.memory.end()) {
      moec::fail(MOEC_BAD_ARGUMENT, "moec_free: no allocation begins at 0x%llx", (unsigned long long)address);
    }
    const uint64_t end = address + found->second;
    handle.memory.erase(found);
    for (auto it = handle.maps.begin(); it != handle.maps.end();) {
      const bool inside = it->first.pointer >= address && it->first.pointer < end;
      it = inside ? handle.maps.erase(it) : std::next(it);
    }
    MOEC_CHECK(cudaFree(moec::device_pointer<void>(address)));
  });
}

/** Copies to the device, in the order of the calls; `data` may be reused when this returns. */
MOEC_API int moec_write(void* opaque, uint64_t address, uint64_t offset, const void* data, uint64_t bytes) {
  return moec::call(opaque, [&](moec::Handle& handle) {
    if (bytes == 0) return;
    if (data == nullptr) moec::fail(MOEC_BAD_ARGUMENT, "moec_write: no data");
    const moec::Guard guard(handle.lock);
    moec::check_memory(handle, address, offset, bytes, "moec_write");
    MOEC_CHECK(cudaMemcpyAsync(moec::device_pointer<char>(address) + offset, data, bytes, cudaMemcpyHostToDevice, handle.stream));
  });
}

/**
 * Runs a list of commands, not waiting for it. With `graph` 0 each is launched by itself; else the first call makes a graph of the
 * list under that number, and later calls, which must bring the same list, replay it. Of graphs the 64 used last are kept.
 */
MOEC_API int moec_run(void* opaque, const uint64_t* words, uint64_t count, uint64_t graph) {
  return moec::call(opaque, [&](moec::Handle& handle) {
    const moec::Guard guard(handle.lock);
    if (graph != 0) return moec::launch_graph(handle, graph, words, count);
    moec::enqueue(moec::read_commands(handle, words, count), handle.stream);
  });
}

/** Forgets a graph; 0 also where there is none. */
MOEC_API int moec_drop_graph(void* opaque, uint64_t graph) {
  return moec::call(opaque, [&](moec::Handle& handle) {
    const moec::Guard guard(handle.lock);
    const auto found = handle.graphs.find(graph);
    if (found == handle.graphs.end()) return;
    const cudaGraphExec_t executable = found->second.executable;
    handle.graphs.erase(found);
    MOEC_CHECK(cudaGraphExecDestroy(executable));
  });
}

/** Waits for all that was asked for, then copies ranges to `out`, back to back. requests[n][3]: pointer, offset, bytes. */
MOEC_API int moec_read(void* opaque, const uint64_t* requests, uint64_t n, void* out) {
  return moec::call(opaque, [&](moec::Handle& handle) {
    if (n > 0 && (requests == nullptr || out == nullptr)) moec::fail(MOEC_BAD_ARGUMENT, "moec_read: nowhere to read from or to");
    {
      const moec::Guard guard(handle.lock);
      for (uint64_t i = 0; i < n; i++) {
        moec::check_memory(handle, requests[3 * i], requests[3 * i + 1], requests[3 * i + 2], "moec_read");
      }
    }
    char* to = static_cast<char*>(out);
    for (uint64_t i = 0; i < n; i++) {
      const uint64_t bytes = requests[3 * i + 2];
      const char* from = moec::device_pointer<const char>(requests[3 * i]) + requests[3 * i + 1];
      if (bytes > 0) MOEC_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, handle.stream));
      to += bytes;
    }
    MOEC_CHECK(cudaStreamSynchronize(handle.stream));
  });
}

/** Waits for all that was asked for. */
MOEC_API int moec_wait(void* opaque) {
  return moec::call(opaque, [&](moec::Handle& handle) { MOEC_CHECK(cudaStreamSynchronize(handle.stream)); });
}

/**
 * Milliseconds of each of `runs` runs of a list, as a graph. What stands up to and with the last clear of the list is done before
 * each run and not timed: with a clear of more bytes than the L2 cache holds, every run begins with a cold cache. It also keeps the
 * device busy until the run is enqueued, so that no launch is timed.
 */
MOEC_API int moec_time(void* opaque, const uint64_t* words, uint64_t count, uint32_t runs, float* ms) {
  return moec::call(opaque, [&](moec::Handle& handle) {
    if (runs == 0 || ms == nullptr) moec::fail(MOEC_BAD_ARGUMENT, "moec_time: no runs");
    moec::Timing timing(runs);
    std::vector<moec::Command> commands;
    std::vector<moec::Command> preparation;
    {
      const moec::Guard guard(handle.lock);
      commands = moec::read_commands(handle, words, count);
      preparation = moec::take_preparation(commands);
      // Once by itself: this loads the kernels, which recording must not do.
      moec::enqueue(commands, handle.stream);
      timing.graph = moec::record(handle, commands);
    }
    // The first launch of a graph uploads it.
    MOEC_CHECK(cudaGraphLaunch(timing.graph, handle.stream));
    for (uint32_t i = 0; i < runs; i++) {
      moec::enqueue(preparation, handle.stream);
      MOEC_CHECK(cudaEventRecord(timing.events[2 * i], handle.stream));
      MOEC_CHECK(cudaGraphLaunch(timing.graph, handle.stream));
      MOEC_CHECK(cudaEventRecord(timing.events[2 * i + 1], handle.stream));
    }
    MOEC_CHECK(cudaStreamSynchronize(handle.stream));
    for (uint32_t i = 0; i < runs; i++) MOEC_CHECK(cudaEventElapsedTime(&ms[i], timing.events[2 * i], timing.events[2 * i + 1]));
  });
}

/** Text of the last failure; valid until the next call of this function. */
MOEC_API const char* moec_error(void* opaque) {
  moec::Handle* handle = static_cast<moec::Handle*>(opaque);
  if (handle == nullptr) return "no handle";
  const moec::Guard guard(handle->lock);
  handle->shown = handle->error;
  return handle->shown.c_str();
}
