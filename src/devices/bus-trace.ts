/** The lines of `--debug-ioport` and `--debug-mmio`. */
import type { BusTrace } from "./bus.js";

/** A trace that prints a line an access, such as `ioport write 0x03f8 1 0x41 com1`. */
export function printingTrace(bus: "ioport" | "mmio", print: (line: string) => void): BusTrace {
  const digits = bus === "ioport" ? 4 : 8;
  return (owner, address, size, value, isWrite) => {
    const direction = isWrite ? "write" : "read ";
    const data = value.toString(16).padStart(2 * size, "0");
    const place = address.toString(16).padStart(digits, "0");
    print(`${bus} ${direction} 0x${place} ${size} 0x${data} ${owner ?? "(unclaimed)"}`);
  };
}
