// Runs CUDA C++ text on the CPU, x86-64 or aarch64, under g++; needs no CUDA toolkit.
//
// A thread of a block is a fiber with a stack of its own. All fibers share one OS thread, blocks run one after another. A fiber
// runs until it blocks: at a barrier, in a collective of its warp or warpgroup, or waiting for an mbarrier. A missing barrier
// therefore shows as wrong numbers in some of the orders below, and in every run of them.
//
//   MOEC_EMULATE_ORDER   fwd (default) | rev | rand[:seed] | step: who runs first. fwd and rev let one warp run as far as it can
//                        (the largest skew between warps), step keeps them abreast (finds least: use it to debug only).
//   MOEC_EMULATE_LATE    1 (default): asynchronous copies and products happen as late as the text allows, with `rand` at a random
//                        moment; 0: at once. Missing waits show with 1, memory reused too early shows with 0.
//   MOEC_EMULATE_ARCH    90 (default) | 80: the compute capability that the emulated device has.
//   MOEC_EMULATE_DEVICES number of devices (default 1); 0 acts as a machine without one.
//   MOEC_EMULATE_MEMORY  bytes of device memory (default 16 GiB).
//   All are read at each launch or call.
//
// Faults (deadlock, diverged collective, bad shared address, missing fence ...) print what happened, the kernel, block and
// thread to stderr and abort the process: run what may fail in a child process.
//
// Not seen: plain loads and stores of shared memory while a copy is in flight (they give wrong numbers instead), plain stores that
// lack a fence.proxy.async where any thread has fenced since, registers used while a product is in flight other than as wrong
// numbers, anything between blocks, memory order, clusters, speed, how tensor cores round, block sizes beyond __launch_bounds__.
// Waiting for another block is found where it polls by atomics; by plain loads it never ends. Out-of-bounds accesses of device
// memory are found under -fsanitize=address, misaligned ones under -fsanitize=alignment; without these, only stores just past an
// allocation are.
//
// Compile with -std=c++17 -ffp-contract=off -fno-strict-aliasing (kernels read vectors as other types) -Wno-psabi (tensor maps are
// passed by value with their alignment of 64 bytes).
#pragma once
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define MOEC_EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOEC_EMU_ASAN 1
#endif
#endif
#ifndef MOEC_EMU_ASAN
#define MOEC_EMU_ASAN 0
#endif
#if MOEC_EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define MOEC_EMULATED 1

// Everything stays inside the shared object it is compiled into: two of them in one process must not share state.
#pragma GCC visibility push(hidden)

#include "emulator_types.h"
#include "emulator_fibers.h"
#include "emulator_schedule.h"
#include "emulator_block.h"
#include "emulator_warp.h"
#include "emulator_shared.h"
#include "emulator_copies.h"
#include "emulator_products.h"
#include "emulator_runtime.h"
#include "emulator_memory.h"

#pragma GCC visibility pop
