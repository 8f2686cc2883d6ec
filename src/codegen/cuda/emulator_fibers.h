// Fibers: stacks, the switch between them, faults. A part of emulator.h.
#pragma once

/** Saves the callee-saved registers on this stack, stores its pointer to *save, goes on where `to` was saved. */
extern "C" void moec_emu_switch(void** save, void* to);

// Weak and hidden: several translation units of one shared object carry the same text.
#if defined(__x86_64__)
asm(R"(
.text
.weak moec_emu_switch
.hidden moec_emu_switch
.type moec_emu_switch,@function
moec_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size moec_emu_switch,.-moec_emu_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.weak moec_emu_switch
.hidden moec_emu_switch
.type moec_emu_switch,%function
moec_emu_switch:
  sub sp,sp,#160
  stp x19,x20,[sp,#0]
  stp x21,x22,[sp,#16]
  stp x23,x24,[sp,#32]
  stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]
  stp d10,d11,[sp,#112]
  stp d12,d13,[sp,#128]
  stp d14,d15,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp x19,x20,[sp,#0]
  ldp x21,x22,[sp,#16]
  ldp x23,x24,[sp,#32]
  ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]
  ldp d10,d11,[sp,#112]
  ldp d12,d13,[sp,#128]
  ldp d14,d15,[sp,#144]
  add sp,sp,#160
  ret
.size moec_emu_switch,.-moec_emu_switch
)");
#else
#error "moec's emulator knows x86-64 and aarch64"
#endif

namespace moec_emu {

/** Something that has a stack: a fiber, or the caller of a launch. */
struct Context {
  void* sp = nullptr;
  /** Where the stack lies. AddressSanitizer wants it told; of the caller it is learnt at the first switch away. */
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

/** Who switched last; whoever goes on learns from the sanitizer where that one's stack lies. */
inline Context* switched_from = nullptr;

/** To be called first on a stack that has just been switched to. */
inline void after_switch([[maybe_unused]] void* fake_stack) {
#if MOEC_EMU_ASAN
  const void* stack = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &stack, &bytes);
  switched_from->stack = stack;
  switched_from->stack_bytes = bytes;
#endif
}

/** Leaves `from` for `to`; returns when somebody switches back. `ends`: nobody will. */
inline void switch_context(Context& from, Context& to, [[maybe_unused]] bool ends) {
  switched_from = &from;
#if MOEC_EMU_ASAN
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
  moec_emu_switch(&from.sp, to.sp);
  after_switch(from.fake_stack);
}

// AddressSanitizer's frames are several times larger.
constexpr size_t kStackBytes = MOEC_EMU_ASAN ? 512 << 10 : 128 << 10;
constexpr size_t kGuardBytes = 4096 * 16;  // covers the pages of every machine we know

/** The stack of fiber `i`, made at first use and kept. The page below it faults. */
inline char* stack_of(unsigned i) {
  static std::vector<char*> stacks;
  while (stacks.size() <= i) {
    void* p = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, kGuardBytes, PROT_NONE) != 0) {
      fprintf(stderr, "moec emulator: no memory for the stacks of %u threads\n", i + 1);
      abort();
    }
    stacks.push_back((char*)p + kGuardBytes);
  }
  return stacks[i];
}

/** Makes `context` start in `entry` on the given stack. */
inline void prepare_context(Context& context, char* stack, void (*entry)()) {
#if MOEC_EMU_ASAN
  // Frames of a fiber that ended inside a function left their red zones behind.
  __asan_unpoison_memory_region(stack, kStackBytes);
#endif
  context = Context{};
  context.stack = stack;
  context.stack_bytes = kStackBytes;
  void** sp = (void**)(stack + kStackBytes);
#if defined(__x86_64__)
  *--sp = nullptr;  // where the caller's return address would be: keeps the stack aligned as after a call
  *--sp = (void*)entry;
  for (int saved = 0; saved < 6; saved++) *--sp = nullptr;
#else
  sp -= 20;
  memset(sp, 0, 160);
  sp[11] = (void*)entry;  // x30, the return address
#endif
  context.sp = sp;
}

}  // namespace moec_emu
