/** The parts of a machine that io-threads.test.ts looks at, over the same memory in each thread. */
import { IoThreads } from "../../src/machine/io-threads.js";
import { Lifecycle } from "../../src/machine/lifecycle.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";

export function machineParts(given?: WebAssembly.Memory) {
  const memory = given === undefined ? SharedMemory.create(1 << 20) : new SharedMemory(given);
  const allocator = new StateAllocator(memory, 4096, memory.size);
  const lifecycle = new Lifecycle(memory, allocator);
  const threads = new IoThreads(allocator, 2);
  // Two words for the test's own use.
  const word = allocator.bytes(8, "test") >>> 2;
  return { memory, lifecycle, threads, words: memory.i32, word };
}
