// The emulator's part of the CUDA runtime, to be run under the emulator only:
//
//   runtime all | devices | memory | read-beyond | read-beyond-shared | read-misaligned
//
// Prints what does not hold; exits with 0 if all does.
#define MOEC_HOPPER
#include "../../../src/codegen/cuda/prelude.cuh"

#include <thread>

static int failures = 0;
#define EXPECT(condition)                                  \
  do {                                                     \
    if (!(condition)) {                                    \
      printf("line %d: not %s\n", __LINE__, #condition);   \
      failures++;                                          \
    }                                                      \
  } while (0)

__global__ void add_kernel(float* y, float value, uint32_t count) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) y[i] += value;
}

__global__ void read_kernel(const float* x, float* y, uint32_t offset) { y[threadIdx.x] = x[threadIdx.x + offset]; }

/** Whether all threads run, in a block with its shared memory. */
__global__ void shared_kernel(uint32_t* y) {
  moec_smem[threadIdx.x] = 1;
  __syncthreads();
  if (moec_smem[(threadIdx.x + 1) % blockDim.x] == 1) atomicAdd(y, 1u);
}

__global__ void beyond_shared_kernel(float* y) { y[threadIdx.x] = reinterpret_cast<float*>(moec_smem)[threadIdx.x + 1]; }

__global__ void misaligned_kernel(const float* x, float* y) { y[threadIdx.x] = reinterpret_cast<const float4*>(x + 1)[threadIdx.x].w; }

static float first_of(const float* device) {
  float value = 0;
  EXPECT(cudaMemcpy(&value, device, 4, cudaMemcpyDeviceToHost) == cudaSuccess);
  return value;
}

static void graphs() {
  float* x = nullptr;
  float* y = nullptr;
  EXPECT(cudaMalloc(&x, 400) == cudaSuccess && cudaMalloc(&y, 400) == cudaSuccess);
  EXPECT(cudaMemset(x, 0, 400) == cudaSuccess && cudaMemset(y, 0, 400) == cudaSuccess);
  cudaStream_t stream = nullptr;
  EXPECT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  float value = 2;
  EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  MOEC_LAUNCH(add_kernel, 1, 128, 0, stream, x, value, 100u);
  value = 1000;  // the launch has its arguments by value
  EXPECT(cudaMemcpyAsync(y, x, 400, cudaMemcpyDeviceToDevice, stream) == cudaSuccess);
  MOEC_LAUNCH(add_kernel, 1, 128, 0, stream, y, 0.5f, 100u);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  EXPECT(cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive);
  cudaGraph_t graph = nullptr;
  EXPECT(cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr);
  EXPECT(cudaGetLastError() == cudaSuccess);
  EXPECT(first_of(x) == 0 && first_of(y) == 0);  // nothing has run
  cudaGraphExec_t executable = nullptr;
  EXPECT(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  EXPECT(cudaGraphDestroy(graph) == cudaSuccess);
  for (int run = 1; run <= 3; run++) {
    EXPECT(cudaGraphLaunch(executable, stream) == cudaSuccess);
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    EXPECT(first_of(x) == 2.0f * (float)run && first_of(y) == 2.0f * (float)run + 0.5f);
  }
  EXPECT(cudaGraphExecDestroy(executable) == cudaSuccess);
  // What waits for the stream, or allocates, breaks a capture.
  EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  EXPECT(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && graph == nullptr);
  EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  float* z = nullptr;
  EXPECT(cudaMalloc(&z, 4) == cudaErrorStreamCaptureUnsupported);
  EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorIllegalState);
  EXPECT(cudaStreamDestroy(stream) == cudaSuccess);
  cudaFree(x);
  cudaFree(y);
  cudaGetLastError();
}

static void events() {
  cudaEvent_t start = nullptr;
  cudaEvent_t end = nullptr;
  EXPECT(cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess);
  float milliseconds = -1;
  EXPECT(cudaEventElapsedTime(&milliseconds, start, end) == cudaErrorInvalidResourceHandle);
  float* x = nullptr;
  EXPECT(cudaMalloc(&x, 4 << 10) == cudaSuccess);
  EXPECT(cudaEventRecord(start, nullptr) == cudaSuccess);
  MOEC_LAUNCH(add_kernel, 16, 64, 0, nullptr, x, 1.0f, 1024u);
  EXPECT(cudaEventRecord(end, nullptr) == cudaSuccess);
  EXPECT(cudaEventSynchronize(end) == cudaSuccess);
  EXPECT(cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess && milliseconds > 0);
  EXPECT(cudaEventDestroy(start) == cudaSuccess && cudaEventDestroy(end) == cudaSuccess);
  cudaFree(x);
  cudaGetLastError();
}

/** What a launch is refused for, as by a GPU. */
static void launches() {
  uint32_t* y = nullptr;
  EXPECT(cudaMalloc(&y, 4) == cudaSuccess && cudaMemset(y, 0, 4) == cudaSuccess);
  const auto error_of = [=](dim3 grid, dim3 block, size_t bytes) {
    MOEC_LAUNCH(shared_kernel, grid, block, bytes, nullptr, y);
    return cudaGetLastError();
  };
  EXPECT(error_of(0, 32, 1024) == cudaErrorInvalidConfiguration);
  EXPECT(error_of(dim3(1, 0), 32, 1024) == cudaErrorInvalidConfiguration);
  EXPECT(error_of(dim3(1, 65536), 32, 1024) == cudaErrorInvalidConfiguration);
  EXPECT(error_of(1, 0, 1024) == cudaErrorInvalidConfiguration);
  EXPECT(error_of(1, 1025, 2048) == cudaErrorInvalidConfiguration);
  EXPECT(error_of(1, 32, 48 * 1024 + 1) == cudaErrorInvalidValue);
  EXPECT(cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024 + 1) == cudaErrorInvalidValue);
  EXPECT(cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess);
  EXPECT(cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024) == cudaSuccess);
  EXPECT(error_of(dim3(2, 3, 4), dim3(8, 4, 32), 227 * 1024) == cudaSuccess);
  uint32_t count = 0;
  EXPECT(cudaMemcpy(&count, y, 4, cudaMemcpyDeviceToHost) == cudaSuccess && count == 24 * 1024);
  setenv("MOEC_EMULATE_ARCH", "80", 1);
  int major = 0;
  EXPECT(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess && major == 8);
  EXPECT(cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 164 * 1024) == cudaErrorInvalidValue);
  EXPECT(cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 163 * 1024) == cudaSuccess);
  unsetenv("MOEC_EMULATE_ARCH");
  cudaFree(y);
  cudaGetLastError();
}

static void copies() {
  char host[64] = {};
  char* x = nullptr;
  EXPECT(cudaMalloc(&x, 64) == cudaSuccess);
  EXPECT(cudaMemcpy(host, x, 64, cudaMemcpyDeviceToHost) == cudaSuccess && (unsigned char)host[17] == 0xff);  // poison
  EXPECT(cudaMemcpy(x + 1, host, 64, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  EXPECT(cudaMemcpy(host, host, 64, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  EXPECT(cudaMemset(x, 7, 65) == cudaErrorInvalidValue);
  EXPECT(cudaMemset(x, 7, 64) == cudaSuccess);
  EXPECT(cudaMemcpy(host, x, 64, cudaMemcpyDeviceToHost) == cudaSuccess && host[63] == 7);
  EXPECT(cudaFree(x + 1) == cudaErrorInvalidValue);
  EXPECT(cudaFree(x) == cudaSuccess);
  EXPECT(cudaFree(x) == cudaErrorInvalidValue);
  EXPECT(cudaFree(nullptr) == cudaSuccess);
  EXPECT(cudaMalloc(&x, 0) == cudaSuccess && x == nullptr);
  cudaGetLastError();
}

static void tensor_maps() {
  alignas(16) static unsigned char memory[4096];
  const auto encode = [&](size_t offset, cuuint64_t cols, cuuint32_t box_cols, cuuint32_t box_rows) {
    CUtensorMap map;
    const cuuint64_t sizes[2] = {cols, 8};
    const cuuint64_t strides[1] = {cols * 2};
    const cuuint32_t box[2] = {box_cols, box_rows};
    const cuuint32_t steps[2] = {1, 1};
    return cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, memory + offset, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  EXPECT(encode(0, 64, 64, 256) == CUDA_SUCCESS);
  EXPECT(encode(8, 64, 64, 64) == CUDA_ERROR_INVALID_VALUE);   // base not aligned to 16 bytes
  EXPECT(encode(0, 60, 64, 64) == CUDA_ERROR_INVALID_VALUE);   // rows not a multiple of 16 bytes
  EXPECT(encode(0, 128, 72, 64) == CUDA_ERROR_INVALID_VALUE);  // box wider than the swizzle
  EXPECT(encode(0, 64, 64, 257) == CUDA_ERROR_INVALID_VALUE);
  void* function = nullptr;
  EXPECT(cudaGetDriverEntryPointByVersion("cuNothing", &function, 12000, cudaEnableDefault) == cudaErrorSymbolNotFound);
  cudaGetLastError();
}

/** Calls come one after another, but each from another OS thread. */
static void threads() {
  float* x = nullptr;
  std::thread([&] { EXPECT(cudaMalloc(&x, 400) == cudaSuccess && cudaMemset(x, 0, 400) == cudaSuccess); }).join();
  for (int i = 0; i < 3; i++) {
    std::thread([&] { MOEC_LAUNCH(add_kernel, 2, 64, 0, nullptr, x, 1.0f, 100u); }).join();
  }
  std::thread([&] { EXPECT(first_of(x) == 3); }).join();
  cudaFree(x);
}

/** With MOEC_EMULATE_DEVICES=0. */
static void devices() {
  int count = -1;
  void* x = nullptr;
  EXPECT(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
  EXPECT((int)cudaErrorNoDevice == 100);
  EXPECT(cudaSetDevice(0) == cudaErrorNoDevice);
  EXPECT(cudaMalloc(&x, 4) == cudaErrorNoDevice);
  EXPECT(strcmp(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice") == 0);
}

/** With MOEC_EMULATE_MEMORY=1000000. */
static void memory() {
  char* x = nullptr;
  char* y = nullptr;
  size_t free_bytes = 0;
  size_t total = 0;
  EXPECT(cudaMalloc(&x, 600000) == cudaSuccess);
  EXPECT(cudaMalloc(&y, 600000) == cudaErrorMemoryAllocation && y == nullptr);
  EXPECT(cudaMemGetInfo(&free_bytes, &total) == cudaSuccess && free_bytes == 400000 && total == 1000000);
  EXPECT(cudaFree(x) == cudaSuccess);
  EXPECT(cudaMalloc(&y, 600000) == cudaSuccess);
  EXPECT(cudaFree(y) == cudaSuccess);
}

/** A kernel reads what it must not: only sanitizers see it. */
static void read_wrongly(const char* what) {
  float* x = nullptr;
  float* y = nullptr;
  EXPECT(cudaMalloc(&x, 32 * 4) == cudaSuccess && cudaMalloc(&y, 32 * 4) == cudaSuccess);
  if (strcmp(what, "read-beyond") == 0) MOEC_LAUNCH(read_kernel, 1, 32, 0, nullptr, x, y, 1u);
  if (strcmp(what, "read-beyond-shared") == 0) MOEC_LAUNCH(beyond_shared_kernel, 1, 32, 32 * 4, nullptr, y);
  if (strcmp(what, "read-misaligned") == 0) MOEC_LAUNCH(misaligned_kernel, 1, 4, 0, nullptr, x, y);
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  if (strcmp(what, "devices") == 0) {
    devices();
  } else if (strcmp(what, "memory") == 0) {
    memory();
  } else if (strncmp(what, "read-", 5) == 0) {
    read_wrongly(what);
  } else {
    graphs();
    events();
    launches();
    copies();
    tensor_maps();
    threads();
  }
  return failures == 0 ? 0 : 1;
}
