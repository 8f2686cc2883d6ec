// What the host keeps for one open device, how its calls fail, and which memory it gave out. A part of host.cuh.
#pragma once
#include "kernel_table.cuh"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

/** Codes of our own, beside those of CUDA. */
enum MoecCode { MOEC_BAD_ARGUMENT = -1, MOEC_WRONG_ARCHITECTURE = -2, MOEC_INTERNAL = -3 };

namespace moec {

/** What a call failed with; never leaves this file. */
struct Failure {
  int code;
  std::string text;
};

[[noreturn]] __attribute__((format(printf, 2, 3))) inline void fail(int code, const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  throw Failure{code, text};
}

inline void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  // Errors that do not stick are kept for the next one who asks: do not let a launch find this one.
  (void)cudaGetLastError();
  fail(static_cast<int>(code), "%s: %s (%s, code %d)", call, cudaGetErrorString(code), cudaGetErrorName(code), static_cast<int>(code));
}

#define MOEC_CHECK(call) ::moec::check((call), #call)

/** A list of commands made into a graph. */
struct Graph {
  std::vector<uint64_t> words;
  cudaGraphExec_t executable = nullptr;
  uint64_t last_use = 0;
};

/** A matrix in memory as a kernel's row describes it. */
struct MapKey {
  uint64_t pointer;
  const MoecTensorMap* map;
  bool operator<(const MapKey& other) const { return std::make_pair(pointer, map) < std::make_pair(other.pointer, other.map); }
};

struct Handle {
  int device = 0;
  cudaStream_t stream = nullptr;
  /** Only ever records: what is captured into a graph must not meet what runs. */
  cudaStream_t recorder = nullptr;
  std::vector<const MoecKernel*> kernels;
  std::map<std::string, int> names;

  /** Guards what follows. */
  std::mutex lock;
  std::string error;
  /** The text that moec_error gave out last. */
  std::string shown;
  /** Bytes by the address where the allocation begins. */
  std::map<uint64_t, uint64_t> memory;
  std::map<MapKey, CUtensorMap> maps;
  std::map<uint64_t, Graph> graphs;
  uint64_t uses = 0;
};

using Guard = std::lock_guard<std::mutex>;

template <typename T>
inline T* device_pointer(uint64_t address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

/** Runs `work` on the handle; no exception leaves it, what it failed with is kept as text. */
template <typename Work>
int attempt(Handle& handle, Work work) {
  Failure failure{0, ""};
  try {
    work(handle);
    return 0;
  } catch (const Failure& caught) {
    failure = caught;
  } catch (const std::bad_alloc&) {
    failure = Failure{MOEC_INTERNAL, "the host is out of memory"};
  } catch (...) {
    failure = Failure{MOEC_INTERNAL, "an unknown exception"};
  }
  const Guard guard(handle.lock);
  handle.error = failure.text;
  return failure.code;
}

/** The same for a call of the interface. */
template <typename Work>
int call(void* opaque, Work work) {
  if (opaque == nullptr) return MOEC_BAD_ARGUMENT;
  return attempt(*static_cast<Handle*>(opaque), [&](Handle& handle) {
    // The current device belongs to the thread, and calls come from several.
    MOEC_CHECK(cudaSetDevice(handle.device));
    work(handle);
  });
}

// ---------------------------------------------------------------- memory

/** Bytes from `address` to the end of its allocation. The handle is locked. */
inline uint64_t bytes_from(const Handle& handle, uint64_t address, const char* what) {
  const auto after = handle.memory.upper_bound(address);
  if (after != handle.memory.begin()) {
    const auto& [begin, bytes] = *std::prev(after);
    if (address - begin < bytes) return bytes - (address - begin);
  }
  fail(MOEC_BAD_ARGUMENT, "%s: 0x%llx is no device memory of this library", what, (unsigned long long)address);
}

/** Checks that `bytes` bytes from `address + offset` on lie in one allocation. The handle is locked. */
inline void check_memory(const Handle& handle, uint64_t address, uint64_t offset, uint64_t bytes, const char* what) {
  const uint64_t left = bytes_from(handle, address, what);
  if (offset > left || bytes > left - offset) {
    fail(MOEC_BAD_ARGUMENT, "%s: %llu bytes from byte %llu on reach beyond the %llu bytes there are", what, (unsigned long long)bytes,
         (unsigned long long)offset, (unsigned long long)left);
  }
}

}  // namespace moec
