/**
 * Doorbells by ioeventfd (api.rst, 4.59): the kernel matches the write and signals an eventfd, and the vCPU goes on without an
 * exit. The doorbell thread (doorbell-thread.ts) waits for the eventfds and rings the words that the seam knows.
 */
import { Worker } from "node:worker_threads";
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import { Mutex } from "../../memory/mutex.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { Doorbell } from "../seam.js";
import { Kvm } from "./abi/constants.js";
import { Ioctl } from "./abi/ioctls.js";
import { kvm_ioeventfd } from "./abi/structs.js";
import {
  close,
  Errno,
  eventfd,
  HostError,
  ioctlPointer,
  pollReadable,
  readEventfd,
  signalEventfd,
} from "./host.js";

/** KVM's own limit is 1000 devices a bus. */
const MAX_DOORBELLS = 512;

const DOORBELLS = new Layout("kvm-doorbells", {
  lock: "u32",
  /** Doorbells that there were ever; a notified change from 0 starts the thread. */
  added: "u32",
  stop: "u32",
  /** 1 once there was one of a port. */
  ports: "u32",
  /** 1 while the thread may use the file descriptors. */
  running: "u32",
  /** eventfd that tells the thread to look at the table again. */
  control: "i32",
  /** Entries with an eventfd: they stay open until the VM is closed, as the thread may be waiting for them. */
  count: "u32",
  fd: array("i32", MAX_DOORBELLS),
  /** Offset of the word to ring; 0: the entry is free. */
  word: array("u32", MAX_DOORBELLS),
});

/** How long the thread may take to let go of the file descriptors. */
const STOP_MILLISECONDS = 1000;

/** What the doorbell thread is given. */
export interface DoorbellThreadData {
  readonly memory: WebAssembly.Memory;
  /** Address of the table. */
  readonly address: number;
}

export class Doorbells {
  static readonly bytes = DOORBELLS.size + 64;
  readonly #state: ViewOf<typeof DOORBELLS>;
  readonly #words: Int32Array;
  readonly #lock: Mutex;
  readonly #added: number;

  constructor(
    readonly memory: SharedMemory,
    allocator: StateAllocator,
    /** The VM's file descriptor. */
    readonly vm: () => number,
  ) {
    this.#state = allocator.alloc(DOORBELLS, "kvm.doorbells");
    this.#words = memory.i32;
    this.#lock = new Mutex("kvm-doorbells", memory, this.#state.address + DOORBELLS.offset.lock);
    this.#added = (this.#state.address + DOORBELLS.offset.added) >>> 2;
  }

  /** In the thread that makes the machine, which starts the doorbell thread with the first doorbell. */
  create(): void {
    this.#state.control = eventfd();
    void this.#startWhenNeeded();
  }

  async #startWhenNeeded(): Promise<void> {
    const result = Atomics.waitAsync(this.#words, this.#added, 0);
    if (result.async) await result.value;
    if (Atomics.load(this.#words, (this.#state.address + DOORBELLS.offset.stop) >>> 2) !== 0) return;
    this.#state.running = 1;
    const workerData: DoorbellThreadData = { memory: this.memory.memory, address: this.#state.address };
    const worker = new Worker(new URL("./doorbell-thread.js", import.meta.url), {
      name: "doorbells",
      workerData,
    });
    // Nothing of the machine waits for this thread's end.
    worker.unref();
  }

  /** Whether writes to ports may be doorbells. */
  get ports(): boolean {
    return this.#state.ports !== 0;
  }

  add(doorbell: Doorbell): void {
    const state = this.#state;
    this.#lock.with(() => {
      let entry = state.word.subarray(0, state.count).indexOf(0);
      if (entry < 0) {
        entry = state.count;
        if (entry === MAX_DOORBELLS) throw new RangeError(`more than ${MAX_DOORBELLS} doorbells`);
        state.fd[entry] = eventfd();
        state.count = entry + 1;
      }
      this.#ioctl(doorbell, state.fd[entry], 0);
      state.word[entry] = doorbell.word;
      if (doorbell.space === "port") state.ports = 1;
    });
    signalEventfd(state.control);
    Atomics.add(this.#words, this.#added, 1);
    Atomics.notify(this.#words, this.#added);
  }

  /** Take `doorbell` away, as it was added. False where there is none such. */
  remove(doorbell: Doorbell): boolean {
    const state = this.#state;
    return this.#lock.with(() => {
      for (let i = 0; i < state.count; i++) {
        if (state.word[i] !== doorbell.word) continue;
        try {
          this.#ioctl(doorbell, state.fd[i], Kvm.KVM_IOEVENTFD_FLAG_DEASSIGN);
        } catch (error) {
          // Another doorbell of the same word.
          if (error instanceof HostError && error.errno === Errno.ENOENT) continue;
          throw error;
        }
        state.word[i] = 0;
        return true;
      }
      return false;
    });
  }

  #ioctl({ space, address, size, datamatch }: Doorbell, fd: number, flags: number): void {
    const argument = kvm_ioeventfd.encode({
      addr: BigInt(address),
      len: size,
      fd,
      flags:
        flags |
        (space === "port" ? Kvm.KVM_IOEVENTFD_FLAG_PIO : 0) |
        (datamatch === undefined ? 0 : Kvm.KVM_IOEVENTFD_FLAG_DATAMATCH),
      datamatch: datamatch ?? 0n,
    });
    ioctlPointer(this.vm(), Ioctl.KVM_IOEVENTFD, argument, "KVM_IOEVENTFD");
  }

  /** In the thread that made the machine: end the doorbell thread. */
  stop(): void {
    const state = this.#state;
    Atomics.store(this.#words, (state.address + DOORBELLS.offset.stop) >>> 2, 1);
    signalEventfd(state.control);
    Atomics.notify(this.#words, this.#added);
  }

  /** After `stop`, when nobody uses the doorbells any more. */
  close(): void {
    const state = this.#state;
    Atomics.wait(this.#words, (state.address + DOORBELLS.offset.running) >>> 2, 1, STOP_MILLISECONDS);
    for (const fd of [state.control, ...state.fd.subarray(0, state.count)]) close(fd);
  }
}

/** The doorbell thread's whole life: ring words until the VM is closed. */
export function ringDoorbells(memory: SharedMemory, address: number): void {
  const state = DOORBELLS.view(memory, address);
  const { i32 } = memory;
  const stop = (address + DOORBELLS.offset.stop) >>> 2;
  const running = (address + DOORBELLS.offset.running) >>> 2;
  const count = (address + DOORBELLS.offset.count) >>> 2;
  while (Atomics.load(i32, stop) === 0) {
    const fds = [state.control, ...state.fd.subarray(0, Atomics.load(i32, count))];
    for (const i of pollReadable(fds)) {
      readEventfd(fds[i]);
      const word = i === 0 ? 0 : state.word[i - 1];
      if (word === 0) continue;
      Atomics.add(i32, word >>> 2, 1);
      Atomics.notify(i32, word >>> 2);
    }
  }
  Atomics.store(i32, running, 0);
  Atomics.notify(i32, running);
}
