/**
 * Machine code that carries a case onto the host's CPU and back.
 *
 * `enter` is called as a C function with the address of the control block. It saves what the System V ABI wants kept,
 * loads every register from the block and goes to the code under test with IRETQ, which sets RIP, RFLAGS, RSP and CS at
 * once. The code under test always ends in an exception. The kernel turns that into a signal and saves all registers in the signal
 * frame; `handler` copies them to the block and returns from `enter` in its caller's name, without sigreturn (so it must run with SA_NODEFER).
 */

/** Byte offsets in the control block. The machine code below has them built in. */
export const Block = {
  GPR: 0x00,
  /** RIP, CS, RFLAGS, RSP, SS: what IRETQ pops. */
  FRAME: 0x80,
  HOST_RSP: 0xa8,
  SIGNAL: 0xb0,
  /** Selector loaded into DS and ES. */
  DATA_SELECTOR: 0xb4,
  DS_OUT: 0xb8,
  ES_OUT: 0xba,
  /** The general registers as the signal frame has them (`gregset_t` of <sys/ucontext.h>). */
  GREGS: 0x100,
  FX_IN: 0x200,
  FX_OUT: 0x400,
} as const;

/** Indices in `gregset_t` (<sys/ucontext.h>, REG_R8 …). */
export const Greg = {
  /** By register number in encodings. */
  GPR: [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7],
  RIP: 16,
  EFL: 17,
  /** CS, GS, FS, SS: 16 bits each. */
  CSGSFS: 18,
  ERR: 19,
  TRAPNO: 20,
  CR2: 22,
} as const;

export const CONTROL_BLOCK = 0x5f000000;

const hex = (text: string) =>
  Uint8Array.from(text.match(/[0-9a-f]{2}/g) ?? [], (b) => Number.parseInt(b, 16));

export const ENTER = hex(
  "53 55 4154 4155 4156 4157" + // push rbx, rbp, r12, r13, r14, r15
    "4883ec08" + // sub rsp, 8
    "0fae1c24 d97c2404" + // stmxcsr [rsp]; fnstcw [rsp+4]
    "4889a7a8000000" + // mov [rdi+HOST_RSP], rsp
    "480fae8f00020000" + // fxrstor64 [rdi+FX_IN]
    "8b87b4000000 8ed8 8ec0" + // mov eax, [rdi+DATA_SELECTOR]; mov ds, eax; mov es, eax
    "488da780000000" + // lea rsp, [rdi+FRAME]
    "488b07 488b4f08 488b5710 488b5f18" + // mov rax, rcx, rdx, rbx
    "488b6f28 488b7730" + // mov rbp, rsi
    "4c8b4740 4c8b4f48 4c8b5750 4c8b5f58" + // mov r8 … r11
    "4c8b6760 4c8b6f68 4c8b7770 4c8b7f78" + // mov r12 … r15
    "488b7f38" + // mov rdi
    "48cf", // iretq
);

/** A signal handler with SA_SIGINFO: edi is the signal, rdx the ucontext. */
export const HANDLER = hex(
  "6a02 9d" + // push 2; popfq: NT and AC of the code under test must not stay
    "41b80000005f" + // mov r8d, CONTROL_BLOCK
    "31c0" + // xor eax, eax
    "418c98b8000000 418c80ba000000" + // mov [r8+DS_OUT], ds; mov [r8+ES_OUT], es
    "8ed8 8ec0" + // mov ds, eax; mov es, eax
    "4189b8b0000000" + // mov [r8+SIGNAL], edi
    "488d7228 498db800010000 b917000000 f348a5" + // copy 23 words of uc_mcontext.gregs to GREGS
    "488bb2e0000000 498db800040000 b940000000 f348a5" + // copy 512 bytes of *uc_mcontext.fpregs to FX_OUT
    "498ba0a8000000" + // mov rsp, [r8+HOST_RSP]
    "0fae1424 d96c2404" + // ldmxcsr [rsp]; fldcw [rsp+4]
    "4883c408" + // add rsp, 8
    "415f 415e 415d 415c 5d 5b" + // pop r15, r14, r13, r12, rbp, rbx
    "c3", // ret
);
