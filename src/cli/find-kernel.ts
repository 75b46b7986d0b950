/** Which kernel to boot where the command line names none. */
import { stat } from "node:fs/promises";

/** Where the kernel is in a kernel source tree that was built, as with lkvm. */
export const KERNEL_SEARCH = ["./bzImage", "./arch/x86/boot/bzImage", "./vmlinux"] as const;

/** The first of `KERNEL_SEARCH` that is a file here, or undefined. */
export async function findKernel(): Promise<string | undefined> {
  for (const file of KERNEL_SEARCH) {
    const found = await stat(file).catch(() => undefined);
    if (found?.isFile()) return file;
  }
  return undefined;
}
