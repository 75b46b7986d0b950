/** Runs machine code on the host's own CPU: the oracle of the floating-point tests (DESIGN, 4). */
import koffi from "koffi";

const PROT_READ_WRITE_EXEC = 7;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const CODE_BYTES = 1 << 20;

export const nativeUnavailable: string | undefined =
  process.platform === "linux" && process.arch === "x64" ? undefined : "the host is not x86-64 Linux";

export type Stub = (block: Uint8Array) => void;

interface Native {
  compile(code: readonly number[]): Stub;
}

let instance: Native | undefined;

/** Machine code as a function that gets the address of a block in RDI. */
export function compileNative(code: readonly number[]): Stub {
  instance ??= open();
  return instance.compile(code);
}

function open(): Native {
  const libc = koffi.load("libc.so.6");
  const mmap = libc.func(
    "void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)",
  );
  const memcpy = libc.func("memcpy", "void *", ["void *", "void *", "size_t"]);
  const base = mmap(null, CODE_BYTES, PROT_READ_WRITE_EXEC, MAP_PRIVATE_ANONYMOUS, -1, 0) as bigint;
  const proto = koffi.proto("void nlkt_stub(void *block)");
  let used = 0;
  return {
    compile(code) {
      if (used + code.length > CODE_BYTES) throw new Error("no room for more native stubs");
      const at = base + BigInt(used);
      memcpy(at, Uint8Array.from(code), code.length);
      used = (used + code.length + 15) & ~15;
      return koffi.decode(at, proto) as Stub;
    },
  };
}
